"""Memory across runs: the ledgers on a branch of their own, one file a run, so that runs never
conflict.

The branch also carries report.html and progress.png for the pull request to show, and the state of
the claims. Written by the publishing job alone, through the API; read before the next run. Trials'
curves and logs stay in the artifact.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from github import InputGitTreeElement
from github.GitTree import GitTree

from autoresearch_action import report
from autoresearch_action.agents import lessons
from autoresearch_action.errors import EnvironmentFault
from autoresearch_action.github.api import Api, Refused, connect
from autoresearch_action.github.stream import stream
from autoresearch_action.ledger import RunState
from autoresearch_action.report.tables import diffstat

BRANCH = "autoresearch-memory"
# Runs that are read back
RECALLED = 20
# Of one file; a larger report stays in the artifact
MOST_BYTES = 5_000_000
# Of a ledger without its trials: some 30,000 experiments, and less than GitHub takes at once
MOST_LEDGER = 50_000_000
# Of the patches of one run that a later one may begin with
MOST_PATCHES = 10_000_000
KEPT_EVENTS = ("run", "proposal", "verdict", "confirmation", "stack", "fact", "stop")
KEPT_LINES = tuple(f'{{"event":"{event}"'.encode() for event in KEPT_EVENTS)
# Attempts against other writers of the branch
RACES = 8

# By path; None: remove
Files = Mapping[str, bytes | None]


@dataclass
class Branch:
    """The memory branch. Reads are of one moment; writes are re-applied when somebody else was
    faster.
    """

    api: Api

    def tip(self) -> tuple[str, GitTree] | None:
        """(commit, root tree), or None where there is no such branch yet."""
        repository = self.api.repository
        ref = self.api.ask("read the memory branch", repository.get_git_ref, f"heads/{BRANCH}")
        if ref is None or ref.ref != f"refs/heads/{BRANCH}":
            return None
        commit = self.api.call("read the memory branch", repository.get_git_commit, ref.object.sha)
        return commit.sha, self.api.call(
            "read the memory branch", repository.get_git_tree, commit.tree.sha
        )

    def listing(self, folder: str) -> dict[str, str]:
        """Blob shas by path below `folder`, relative to it."""
        found = self.tip()
        top = (
            next((e for e in found[1].tree if e.path == folder and e.type == "tree"), None)
            if found
            else None
        )
        if top is None:
            return {}
        tree = self.api.call(
            "read the memory branch",
            self.api.repository.get_git_tree,
            top.sha,
            recursive=True,
        )
        return {element.path: element.sha for element in tree.tree if element.type == "blob"}

    def blob(self, sha: str) -> bytes:
        blob = self.api.call("read the memory branch", self.api.repository.get_git_blob, sha)
        return (
            base64.b64decode(blob.content) if blob.encoding == "base64" else blob.content.encode()
        )

    def write(self, files: Files, message: str) -> bool:
        """Commit `files`; False where the branch holds them already. Raises EnvironmentFault."""
        repository = self.api.repository
        shas: dict[str, str | None] = {path: self._upload(data) for path, data in files.items()}
        for _ in range(RACES):
            found = self.tip()
            elements = [
                InputGitTreeElement(path, "100644", "blob", sha=sha) for path, sha in shas.items()
            ]
            if found is None:
                elements = [
                    element for element, sha in zip(elements, shas.values(), strict=True) if sha
                ]
                tree = self.api.call(
                    "write the memory branch", repository.create_git_tree, elements
                )
                if not elements:
                    return False
                commit = self.api.call(
                    "write the memory branch",
                    repository.create_git_commit,
                    message,
                    tree,
                    [],
                )
            else:
                sha, root = found
                elements = self._present(elements, root)
                if not elements:
                    return False
                tree = self.api.call(
                    "write the memory branch",
                    repository.create_git_tree,
                    elements,
                    root,
                )
                if tree.sha == root.sha:
                    return False
                parent = self.api.call("write the memory branch", repository.get_git_commit, sha)
                commit = self.api.call(
                    "write the memory branch",
                    repository.create_git_commit,
                    message,
                    tree,
                    [parent],
                )
            if self._point(commit.sha, found[0] if found else ""):
                return True
        raise EnvironmentFault(
            "The memory branch is being written by too many at once: try again later."
        )

    def _upload(self, data: bytes | None) -> str | None:
        if data is None:
            return None
        encoded = base64.b64encode(data).decode()
        return self.api.call(
            "write the memory branch",
            self.api.repository.create_git_blob,
            encoded,
            "base64",
        ).sha

    def _present(
        self, elements: list[InputGitTreeElement], root: GitTree
    ) -> list[InputGitTreeElement]:
        """Without removals of what is not there: GitHub refuses those."""
        gone = [e for e in elements if e._identity["sha"] is None]
        if not gone:
            return elements
        tree = self.api.call(
            "read the memory branch",
            self.api.repository.get_git_tree,
            root.sha,
            recursive=True,
        )
        there = {element.path for element in tree.tree}
        return [e for e in elements if e not in gone or e._identity["path"] in there]

    def _point(self, sha: str, before: str) -> bool:
        """Move the branch to `sha` from `before` ("": it is made); False where somebody else was
        faster.
        """
        repository = self.api.repository
        try:
            if not before:
                self.api.call(
                    "write the memory branch",
                    repository.create_git_ref,
                    f"refs/heads/{BRANCH}",
                    sha,
                )
            else:
                ref = self.api.call(
                    "read the memory branch", repository.get_git_ref, f"heads/{BRANCH}"
                )
                self.api.call("write the memory branch", ref.edit, sha, force=False)
        except Refused:
            found = self.tip()
            if found is None or found[0] == before:
                # Nobody was faster: it may not be written
                raise
            return found[0] == sha
        return True


def save(run_state: RunState, environ: Mapping[str, str], claimed: bool) -> str:
    """Put the run, as it was handed over and taken in, on the memory branch; `claimed`: a pull
    request claims what it proved. Returns the address of its picture. Raises EnvironmentFault.
    """
    assert run_state.run is not None
    state, api = run_state.state, connect(environ)
    branch, folder, name = Branch(api), run_state.run.brief_id, run_state.run.id
    ledger, known = _compact(state / "ledger.jsonl"), branch.listing(folder)
    file = f"{name}.jsonl"
    if len(ledger) > MOST_LEDGER:
        raise EnvironmentFault(
            f"The ledger has {len(ledger):,} bytes without its trials, {MOST_LEDGER:,} are the"
            " most: nothing of this run is remembered."
        )
    # A journal is only ever added to
    if file in known and not ledger.startswith(branch.blob(known[file])):
        raise EnvironmentFault(
            f"The memory branch holds another run {name}: nothing of this one is remembered."
        )
    files: dict[str, bytes | None] = {f"{folder}/{file}": ledger}
    # Made here: those of the research job could show anything
    report.write(state, run_state)
    for part in ("report.html", "progress.png"):
        if (state / part).is_file() and (state / part).stat().st_size <= MOST_BYTES:
            files[f"{folder}/{name}/{part}"] = (state / part).read_bytes()
    room = MOST_PATCHES
    for number in run_state.kept:
        patch = run_state.patch(number)
        raw = patch.encode("utf-8", "surrogateescape")
        room -= len(raw)
        # Nothing but a diff
        if room >= 0 and diffstat(patch):
            files[f"{folder}/{name}-trials/{number:04d}/patch.diff"] = raw
    mine = _bytes(state / "claims.json")
    if mine:
        theirs = branch.blob(known["claims.json"]) if "claims.json" in known else b""
        files[f"{folder}/claims.json"] = _further(mine, theirs, claimed)
    theirs = branch.blob(known[lessons.NAME]) if lessons.NAME in known else b""
    if learnt := lessons.joined(theirs, _bytes(state / lessons.NAME), name):
        files[f"{folder}/{lessons.NAME}"] = learnt
    branch.write(files, f"Remember {folder}, run {name}")
    return (
        api.web(quote(f"raw/{BRANCH}/{folder}/{name}/progress.png"))
        if f"{folder}/{name}/progress.png" in files
        else ""
    )


def recall(state: Path, brief_id: str, environ: Mapping[str, str]) -> int:
    """Bring earlier runs of this brief, and the state of its claims, into `state`. Returns how many
    came.

    Raises EnvironmentFault.
    """
    api = connect(environ)
    branch = Branch(api)
    known = branch.listing(brief_id)
    history = state / "history"
    history.mkdir(parents=True, exist_ok=True)
    here = {path.stem for path in history.glob("*.jsonl")} | _current(state)
    wanted = sorted(
        path[: -len(".jsonl")] for path in known if path.endswith(".jsonl") and "/" not in path
    )[-RECALLED:]
    came = [name for name in wanted if name not in here]
    for name in came:
        for path, sha in known.items():
            if path.startswith(f"{name}-trials/"):
                (history / path).parent.mkdir(parents=True, exist_ok=True)
                (history / path).write_bytes(branch.blob(sha))
        (history / f"{name}.jsonl").write_bytes(branch.blob(known[f"{name}.jsonl"]))
    if "claims.json" in known:
        (state / "claims.json").write_bytes(
            _longer(_bytes(state / "claims.json"), branch.blob(known["claims.json"]))
        )
    if lessons.NAME in known:
        # People may have edited them there
        (state / lessons.NAME).write_bytes(branch.blob(known[lessons.NAME]))
    return len(came)


def _current(state: Path) -> set[str]:
    run = RunState.of(state / "ledger.jsonl").run if (state / "ledger.jsonl").exists() else None
    return {run.id} if run else set()


def _compact(ledger: Path) -> bytes:
    """The ledger without its trials: what was tried, what became of it, what was claimed."""

    def lines() -> Iterator[bytes]:
        with ledger.open("rb") as file:
            for line in file:
                if line.endswith(b"\n") and line.startswith(KEPT_LINES):
                    yield line

    return b"".join(lines())


def _further(mine: bytes, theirs: bytes, held: bool) -> bytes:
    """What becomes of the branch's state of the claims by a run's. Raises EnvironmentFault."""
    try:
        return stream(theirs).after(stream(mine), held).written()
    except ValueError:
        raise EnvironmentFault(
            "claims.json of the memory branch, or of this run, is damaged: restore it from the"
            " branch's history."
        ) from None


def _longer(mine: bytes, theirs: bytes) -> bytes:
    """Of two states of the claims the one that has seen more of them: runs of one brief come one
    after the other.
    """

    def seen(data: bytes) -> int:
        try:
            told: Any = json.loads(data)
            return len(told["used"])
        except (ValueError, KeyError, TypeError):
            return -1

    return mine if seen(mine) >= seen(theirs) else theirs


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
