"""People's own ideas, or another tool's: the *.diff and *.patch files of a folder, in name order,
once each.

A patch is made against the run's base and put three-way on the incumbent: per file, `git apply` on
the base's text and `git merge-file` with the incumbent's, line by line where changes only touch
each other. One that does not apply is said so and passed over.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
from pathlib import Path

from autoresearch_action.agents import AgentFailure, Context, Draft, Exhausted
from autoresearch_action.brief import Brief
from autoresearch_action.errors import InputError
from autoresearch_action.records import Experiment
from autoresearch_action.workspace.git import GitError, git, merge

MAX_BYTES = 1_000_000


class PatchesAgent:
    """See the module's head. Raises InputError when the folder is not there or holds no patch."""

    name = "patches"
    worst_usd: float | None = 0.0
    reads_profiles = False

    def __init__(self, folder: str, brief: Brief) -> None:
        self.folder = (brief.directory / os.path.expanduser(folder)).resolve()
        if not self.folder.is_dir():
            raise InputError(f"--agent patches:{folder}: there is no such folder.")
        self._files = sorted(
            path
            for path in self.folder.iterdir()
            if path.suffix in (".diff", ".patch") and path.is_file()
        )
        if not self._files:
            raise InputError(
                f"--agent patches:{folder}: the folder holds no *.diff or *.patch file."
            )
        self._lock = threading.Lock()
        self._used: set[str] = set()

    def propose(self, context: Context) -> Draft:
        failures = []
        while (path := self._next(context)) is not None:
            try:
                text = _text(path)
                _apply(text, context)
                return Draft(description=subject(text, path.stem), details={"patch": _key(path)})
            except (AgentFailure, OSError, ValueError) as failure:
                # The latter for names that no file system takes
                failures.append(f"{path.name} {failure}")
        if failures:
            raise AgentFailure(f"{'; '.join(failures)[:500]}.")
        many = f"All {len(self._files)} patches" if len(self._files) > 1 else "The one patch"
        raise Exhausted(
            f"{many} of {self.folder.name} {'have' if len(self._files) > 1 else 'has'} been tried."
        )

    def repair(self, context: Context, failed: Experiment) -> Draft | None:
        return None

    def _next(self, context: Context) -> Path | None:
        with self._lock:
            for experiment in [*context.history, *context.pending]:
                if experiment.proposal:
                    # Several, where they were inherited together
                    self._used |= {*experiment.proposal.details.get("patch", "").split("\n")}
            path = next((path for path in self._files if _key(path) not in self._used), None)
            if path:
                self._used.add(_key(path))
            return path


def _key(path: Path) -> str:
    """Name and content: a patch that was rewritten under its old name is another one."""
    try:
        return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    except OSError:
        return path.name


def subject(patch: str, default: str) -> str:
    """A patch's own title: its Subject line, else its first line of prose, else `default`."""
    head = re.split(r"^(?:diff --git |--- |Index: )", patch, maxsplit=1, flags=re.MULTILINE)[0]
    found = re.search(r"^Subject:[ \t]*(.+(?:\n[ \t].+)*)", head, re.MULTILINE)
    if found:
        return " ".join(re.sub(r"^\s*\[[^\]]*\]\s*", "", found[1]).split())[:200]
    prose = [
        line.strip(" #*\t")
        for line in head.splitlines()
        if not re.match(r"From |From:|Date:|index ", line)
    ]
    return next((line for line in prose if line), default)[:200]


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise AgentFailure(f"is larger than {MAX_BYTES:,} bytes")
    try:
        # Line ends as they are
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        raise AgentFailure("cannot be read as UTF-8 text") from None


def _apply(patch: str, context: Context) -> None:
    """Bring `patch` into the incumbent's tree, or change nothing and raise AgentFailure (a half
    sentence).
    """
    names = _names(patch)
    if not names:
        raise AgentFailure("holds no diff")
    # Else made with `git diff --relative` in the working directory
    inside = any((context.directory / name).exists() for name in names)
    whole = not inside or any((context.tree / name).exists() for name in names)
    root = context.tree if whole else context.directory
    for name in names:
        if not (root / name).resolve().is_relative_to(context.tree.resolve()):
            raise AgentFailure(f"touches {name}, which lies outside the repository")
    with tempfile.TemporaryDirectory(prefix="autoresearch-patch-") as scratch:
        before, after = Path(scratch, "base"), Path(scratch, "new")
        for name in names:
            _write_base(context, root.relative_to(context.tree) / name, before / name, after / name)
        after.mkdir(exist_ok=True)
        try:
            alone = {"GIT_CEILING_DIRECTORIES": scratch}
            git("apply", "--whitespace=nowarn", "-", cwd=after, stdin=patch.encode(), extra=alone)
        except GitError as error:
            said = str(error).splitlines()[0].removeprefix("error: ")[:200]
            raise AgentFailure(f"does not apply to the base ({said})") from None
        merged = {
            name: _merge(root / name, before / name, after / name, name) for name in sorted(names)
        }
    for name, content in merged.items():
        if content is None:
            (root / name).unlink(missing_ok=True)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)


def _write_base(context: Context, path: Path, *targets: Path) -> None:
    """Write a file as the run's base has it, from the user's repository; nothing if it has none."""
    base = next((e.commit for e in context.history if e.number == 0 and e.commit), context.parent)
    try:
        text = git("cat-file", "blob", f"{base}:{path.as_posix()}", cwd=context.brief.directory)
    except GitError:
        return
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text)


def _merge(ours: Path, base: Path, theirs: Path, name: str) -> bytes | None:
    """The three-way result for one file; None: it is gone."""
    if theirs.is_symlink():
        raise AgentFailure(f"makes {name} a link")
    present = [path.read_bytes() if path.is_file() else None for path in (ours, base, theirs)]
    if present[0] == present[1]:
        return present[2]
    if present[1] == present[2]:
        return present[0]
    if None in present:
        raise AgentFailure(f"conflicts with what was kept since, in {name}")
    merged = merge(present[1] or b"", present[0] or b"", present[2] or b"")
    if merged is None:
        raise AgentFailure(f"conflicts with what was kept since, in {name}")
    return merged


def _names(patch: str) -> set[str]:
    """The files that it names: `--- a/train.py<TAB>date` is train.py, /dev/null none."""
    lines = re.findall(
        r"^(?:---|\+\+\+|rename from|rename to|copy from) (.+)$", patch, re.MULTILINE
    )
    paths = {line.split("\t")[0].strip().strip('"') for line in lines} - {"/dev/null"}
    return {path[2:] if path.startswith(("a/", "b/")) else path for path in paths}
