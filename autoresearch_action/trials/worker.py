"""What stands on a cluster's machine: the actor behind one slot, and the run's things as they
travel to it.

The worker measures as the local pool does, in the same sandbox, from a copy of the private
repository that holds the objects of the measured commits and no history. How it is reached and
replaced is cluster.py's. Nothing here needs Ray but for the number of its GPU.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import autoresearch_action
from autoresearch_action.brief import Brief
from autoresearch_action.errors import EnvironmentFault, UserError
from autoresearch_action.isolation import device, sandbox
from autoresearch_action.isolation.secrets import Secrets
from autoresearch_action.records import Measurement, Trial
from autoresearch_action.trials.pool import measure
from autoresearch_action.trials.slot import SlotContext
from autoresearch_action.workspace.folders import remove
from autoresearch_action.workspace.git import git
from autoresearch_action.workspace.trees import Workspace

SCRATCH = Path("/var/tmp")
TRAVELS = (
    "root", "directory", "prefix", "base", "branch_name", "setup_hash", "setup_tree", "submodules",
    "filtered",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A slot of the cluster: part `index` of `count` of the machine behind `node`."""

    name: str
    node: str
    gpu: bool
    index: int
    count: int
    cpus: int


@dataclass(frozen=True)
class Kit:
    """What every trial of a run needs. `facts`: the workspace's attributes; `data`: folders that a
    machine must have.
    """

    brief: Brief
    facts: Mapping[str, Any]
    data: Sequence[Path]
    checkpoint: str
    objects: bytes = field(repr=False)
    # Tar: setup/, hydrated/, checkpoint/
    files: bytes = field(repr=False)

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(
            b"".join(hashlib.sha256(part).digest() for part in (self.objects, self.files))
        ).hexdigest()[:24]


def pack(workspace: Workspace, checkpoint: Path | None) -> Kit:
    """Everything but the candidates."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        if workspace.setup_folder.exists():
            tar.add(workspace.setup_folder, "setup", filter=_nobody)
        for path in (*workspace.submodules, *workspace.filtered):
            tar.add(workspace.root / path, f"hydrated/{path}", filter=_nobody)
        if checkpoint:
            tar.add(checkpoint, f"checkpoint/{checkpoint.name}", filter=_nobody)
    brief, facts = workspace.brief, {name: getattr(workspace, name) for name in TRAVELS}
    decoy = [brief.decoy] if brief.decoy else []
    data = [path for path in (*brief.data, *brief.evaluate_data, *decoy) if path.exists()]
    return Kit(
        brief,
        facts,
        data,
        checkpoint.name if checkpoint else "",
        objects(workspace, workspace.base),
        stream.getvalue(),
    )


def objects(workspace: Workspace, commit: str) -> bytes:
    """A pack of what `commit` adds to the base; of the base itself all its files, without its
    history.
    """
    place, base = f"--git-dir={workspace.repo}", workspace.base
    history = ["--no-walk", base] if commit == base else [commit, f"^{base}"]
    names = git(place, "rev-list", "--objects", "--no-object-names", *history)
    return git(place, "pack-objects", "--stdout", "-q", stdin=names)


def _nobody(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Unpacked, it belongs to whoever the worker is; a submodule's .git stays here."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return None if info.name.startswith("hydrated/") and info.name.endswith("/.git") else info


class Copy(Workspace):
    """The workspace on a machine that has no repository: the same facts, other folders."""

    def __init__(self, kit: Kit, place: Path, state: Path) -> None:
        vars(self).update(kit.facts)
        self.brief, self.state = kit.brief, state
        self.repo, self.setup_folder, self.hydrated = (
            place / "repo.git",
            place / "setup",
            place / "hydrated",
        )

    def receive(self, commit: str, news: bytes) -> None:
        if commit != self.base:
            git(f"--git-dir={self.repo}", "unpack-objects", "-q", stdin=news)


class Worker:
    """The actor. Answers with a sentence where the machine is at fault."""

    def __init__(self, place: Place, wanted: str, run: str) -> None:
        self._place, self._wanted, self._run = place, wanted, run
        # Whoever started the cluster may have had some
        self._secrets = Secrets.take(os.environ)
        # As Ray shipped it: no trial's business
        home = str(Path(autoresearch_action.__file__).parent.parent)
        paths = os.environ.pop("PYTHONPATH", "").split(":")
        if kept := [path for path in paths if path and not path.startswith(home)]:
            os.environ["PYTHONPATH"] = ":".join(kept)
        self._bench: SlotContext | None = None
        self._cancelled = False
        # Trial at a time: Ray calls from several threads, so that `cancel` gets through
        self._one = threading.Lock()
        self._lock: IO[bytes] | None = None

    def ready(self) -> dict[str, str]:
        """What this machine is, or {"fault": …}."""
        try:
            self._isolation = sandbox.choose(self._wanted)
        except UserError as error:
            return {"fault": str(error)}
        slot = self._slot()
        return device.environment([slot]) | {
            "sandbox": self._isolation.strength,
            "told": self._isolation.describe(),
        }

    def _slot(self) -> device.Slot:
        card = ""
        if self._place.gpu:
            import ray

            card = str(ray.get_gpu_ids()[0])
        return device.share(self._place.name, card, self._place.index, self._place.count)

    def measure(
        self, trial: Trial, kit: Sequence[Any], news: bytes
    ) -> tuple[Measurement | str, bytes]:
        """One trial and its log. `kit`: a reference in a list, so that what it holds is fetched at
        the first trial only.
        """
        with self._one:
            try:
                bench = self._bench = self._bench or self._unpack(kit[0])
                if self._cancelled:
                    bench.cancel()
                assert isinstance(bench.workspace, Copy)
                bench.workspace.receive(trial.commit, news)
                result = measure(bench, trial)
            except UserError as error:
                return str(error), b""
            log = bench.state / (result.log or "none")
            text = log.read_bytes() if log.is_file() else b""
            log.unlink(missing_ok=True)
            return result, text

    def cancel(self) -> None:
        self._cancelled = True
        if self._bench:
            self._bench.cancel()

    def leave(self) -> None:
        """Take this run's folder away, and the unpacked things unless another worker of this
        machine has them in use.
        """
        if self._bench is None or self._lock is None:
            return
        place = self._bench.state.parent.parent
        remove(self._bench.state)
        if _alone(self._lock):
            remove(place)
            place.with_suffix(".lock").unlink(missing_ok=True)
        self._lock.close()

    def _unpack(self, reference: Any) -> SlotContext:
        import ray

        kit: Kit = ray.get(reference)
        if lacking := [path for path in kit.data if not path.exists()]:
            raise EnvironmentFault(
                f"{lacking[0]} is not there, and the brief names it as data: put it there, or"
                " share it."
            )
        top = SCRATCH / f"autoresearch-ray-{os.geteuid()}"
        top.mkdir(mode=0o700, exist_ok=True)
        if top.stat().st_uid != os.geteuid():
            raise EnvironmentFault(f"{top} belongs to somebody else.")
        # Left by runs that were killed
        for path in top.glob("*.lock"):
            with path.open("ab") as lock:
                if path.stem != kit.key and _alone(lock):
                    remove(path.with_suffix(""))
                    path.unlink(missing_ok=True)
        place = top / kit.key
        whole, path = place / "whole", top / f"{kit.key}.lock"
        # Shared while in use; whoever finds nothing unpacks, alone
        while True:
            self._lock = path.open("ab")
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            if whole.exists() and _valid(self._lock, path):
                break
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if not whole.exists() and _valid(self._lock, path):
                _fill(place, kit)
        state = place / "runs" / f"{self._run}-{self._place.name.replace(':', '-')}"
        checkpoint = place / "checkpoint" / kit.checkpoint if kit.checkpoint else None
        return SlotContext(
            kit.brief,
            Copy(kit, place, state),
            self._isolation,
            self._slot(),
            state,
            checkpoint,
            self._secrets.scrub,
        )


def _alone(lock: IO[bytes]) -> bool:
    """Whether nobody else uses what the lock stands for; one's own share in it is given up."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _valid(lock: IO[bytes], path: Path) -> bool:
    """Whether the lock's file is still the one that others find: the last one removes it."""
    return path.exists() and path.stat().st_ino == os.fstat(lock.fileno()).st_ino


def _fill(place: Path, kit: Kit) -> None:
    remove(place)
    place.mkdir()
    with tarfile.open(fileobj=io.BytesIO(kit.files)) as tar:
        # Our own, setup's modes included
        tar.extractall(place, filter="fully_trusted")
    repo = place / "repo.git"
    git("init", "-q", "--bare", "--template=", str(repo))
    git(f"--git-dir={repo}", "index-pack", "--stdin", stdin=kit.objects)
    (repo / "shallow").write_text(f"{kit.facts['base']}\n")
    (place / "whole").touch()
