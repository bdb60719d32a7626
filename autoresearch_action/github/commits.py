"""From proven patches to commits, through trees alone: no work tree, nothing of a text believed.

The patches are untrusted: they come from a job that ran a model's code. They are applied to the
index of a bare repository that holds the touched files and nothing else; which paths, modes and
blobs they change is read from the difference of trees, and what may be changed from the brief as
the base has it and as it is today. The tree that results is computed here and must be the confirmed
one before a byte is uploaded. Where patches come from is handover.py's.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from github import InputGitTreeElement
from github.GitCommit import GitCommit

from autoresearch_action import brief as briefs
from autoresearch_action.brief import Brief
from autoresearch_action.errors import InputError
from autoresearch_action.github.api import Api
from autoresearch_action.records import Run
from autoresearch_action.workspace.git import GitError, git
from autoresearch_action.workspace.patch import (
    PLAIN,
    PatchRefused,
    Touched,
    check_patch,
    editable,
    folded,
    read,
    shown,
)

MOST_FILES = 200
# Bytes of a file that is edited
MOST_BLOB = 5_000_000
FOLDER = "040000"
NEW = PLAIN[0]
NOBODY = "000000"


class Entry(NamedTuple):
    """What a tree says of one name."""

    mode: str
    kind: str
    sha: str
    # Bytes, of a file
    size: int = 0


# By path; None: it is gone
Changes = dict[str, Entry | None]


@dataclass(frozen=True)
class Step:
    """What one patch changes, and the root tree that it leads to."""

    changes: Changes
    tree: str


class Base:
    """A commit as GitHub has it: trees and files are fetched when asked for."""

    def __init__(self, api: Api, sha: str) -> None:
        self.api = api
        commit = api.ask("read the base commit", api.repository.get_git_commit, sha)
        if commit is None:
            raise InputError(
                f"The commit {sha[:12]}, which everything was measured against, is not on GitHub:"
                " push it, then publish."
            )
        self.commit: GitCommit = commit
        self._trees: dict[str, dict[str, Entry]] = {}

    def tree(self, sha: str) -> dict[str, Entry]:
        """The entries of one tree by name. Raises InputError where GitHub shows a part of it."""
        if sha not in self._trees:
            tree = self.api.call("read the base commit", self.api.repository.get_git_tree, sha)
            if tree.raw_data.get("truncated"):
                raise InputError(
                    "A folder of the base commit has more files than GitHub lists: nothing of it"
                    " can be published."
                )
            self._trees[sha] = {
                e.path: Entry(e.mode, e.type, e.sha, e.size or 0) for e in tree.tree
            }
        return self._trees[sha]

    def entry(self, path: str) -> Entry | None:
        """What is at `path`; None where nothing is."""
        found: Entry | None = Entry(FOLDER, "tree", self.commit.tree.sha)
        for part in PurePosixPath(path).parts:
            if found is None or found.kind != "tree":
                return None
            found = self.tree(found.sha).get(part)
        return found

    def file(self, path: str) -> Entry | None:
        """The plain file at `path`; None where nothing is. Raises InputError for anything else, and
        where the name differs from one that is there by letter case alone.
        """
        entry = self.entry(path)
        if entry is not None:
            if entry.kind != "blob" or entry.mode not in PLAIN or entry.size > MOST_BLOB:
                raise InputError(
                    f"{shown(path)} is no plain file of at most {MOST_BLOB:,} bytes at the base"
                    " commit: it may not be changed."
                )
            return entry
        parts = PurePosixPath(path).parts
        for depth in range(len(parts)):
            folder = self.entry("/".join(parts[:depth]))
            if folder is None:
                break
            if folder.kind != "tree":
                raise InputError(f"{shown(path)} would lie in a file of the base commit.")
            names = self.tree(folder.sha)
            if parts[depth] not in names and folded(parts[depth]) in map(folded, names):
                raise InputError(
                    f"{shown(path)} is the name of another file in other letters: some file systems"
                    " take the two for one."
                )
        return None

    def read(self, path: str) -> bytes | None:
        """The content of the plain file at `path`. Raises InputError for anything else."""
        entry = self.file(path)
        if entry is None:
            return None
        blob = self.api.call(f"read {shown(path)}", self.api.repository.get_git_blob, entry.sha)
        if blob.encoding == "base64":
            return base64.b64decode(blob.content)
        return blob.content.encode()


def brief_of(base: Base, run: Run, where: str) -> Brief:
    """The brief as a commit has it: what may be edited is its word. `where` is for the sentence.
    Raises InputError.
    """
    place = PurePosixPath(run.working_directory)
    raw = base.read((place / run.program).as_posix())
    if raw is None:
        raise InputError(f"{run.program} is not in {where}: the brief must be committed.")
    with tempfile.TemporaryDirectory() as folder:
        brief = briefs.parse(raw, Path(run.program), Path(folder))
        if brief.informal:
            # What a plain autoresearch checkout says by its files
            for name in ("prepare.py", "uv.lock"):
                if content := base.read((place / name).as_posix()):
                    Path(folder, name).write_bytes(content)
            brief = briefs.parse(raw, Path(run.program), Path(folder))
    return brief.model_copy(update={"place": Path(place)})


def check(patches: Sequence[str], prefix: str, allowed: Sequence[Brief]) -> list[str]:
    """The paths that the patches touch, each of which every brief must allow. Raises InputError for
    what may not be published.
    """
    touched: dict[str, None] = {}
    try:
        for patch in patches:
            for brief in allowed:
                touched |= dict.fromkeys(check_patch(patch, prefix, brief))
    except PatchRefused as error:
        raise InputError(f"A change may not be published: {error}") from None
    if len(touched) > MOST_FILES:
        raise InputError(
            f"The changes touch {len(touched)} files; {MOST_FILES} at most are published."
        )
    names = {folded(path) for path in touched}
    parents = {folded(str(parent)) for path in touched for parent in PurePosixPath(path).parents}
    if len(names) < len(touched) or names & parents:
        raise InputError(
            "A change may not be published: two of its files have one name, or one is the folder of"
            " another."
        )
    return list(touched)


class Replay:
    """The patches applied one on the other, in the index of a repository that has no work tree.

    `allowed`: the briefs that must all allow what the trees show. Raises InputError.
    """

    def __init__(self, folder: Path, base: Base, prefix: str, allowed: Sequence[Brief]) -> None:
        self.folder, self.base, self.prefix, self.allowed = folder, base, prefix, allowed
        form = "sha256" if len(base.commit.sha) == 64 else "sha1"
        self._git("init", "-q", "--bare", "--template=", f"--object-format={form}", str(folder))

    def _git(self, *words: str, stdin: bytes = b"") -> bytes:
        alone = ("-c", "protocol.file.allow=never", "-c", "core.attributesFile=/dev/null")
        place = () if words[0] == "init" else (f"--git-dir={self.folder}",)
        return git(*alone, *place, *words, cwd=self.folder, stdin=stdin)

    def _line(self, *words: str, stdin: bytes = b"") -> str:
        return self._git(*words, stdin=stdin).decode().strip()

    def steps(self, touched: Sequence[str], patches: Sequence[str]) -> Iterator[Step]:
        """What each patch changes."""
        begin = {path: self._fetched(path) for path in touched}
        index = "".join(f"{e.mode} {e.sha}\t{path}\0" for path, e in begin.items() if e)
        self._git("update-index", "-z", "--index-info", stdin=index.encode())
        before, changes = self._line("write-tree"), Changes()
        for place, patch in enumerate(patches, 1):
            self._apply(patch, place)
            after = self._line("write-tree")
            changed = dict(self._difference(before, after))
            self._check(changed, begin, {touched.path for touched in read(patch)})
            before, changes = after, changes | changed
            root = self._grafted(self.base.commit.tree.sha, changes)
            yield Step(changed, root or self._line("mktree"))

    def content(self, sha: str) -> bytes:
        return self._git("cat-file", "blob", sha)

    def _fetched(self, path: str) -> Entry | None:
        entry, data = self.base.file(path), self.base.read(path)
        if entry is None or data is None:
            return None
        if self._line("hash-object", "-w", "--stdin", stdin=data) != entry.sha:
            raise InputError(f"{shown(path)} came from GitHub as another file than its tree names.")
        return entry

    def _apply(self, patch: str, place: int) -> None:
        raw = patch.encode("utf-8", "surrogateescape")
        try:
            counted = self._git("apply", "--numstat", "-z", "-p1", stdin=raw)
            self._git("apply", "--cached", "-p1", "--whitespace=nowarn", stdin=raw)
        except GitError as error:
            raise InputError(
                f"Change {place} does not apply to the commit it was measured on:"
                f" {shown(str(error).splitlines()[0])}."
            ) from None
        if counted != b"".join(map(_numstat, read(patch))):
            raise InputError(f"Change {place} is read by git as another one than it shows.")

    def _difference(self, before: str, after: str) -> Iterator[tuple[str, Entry | None]]:
        words = ("diff-tree", "-r", "--raw", "-z", "--no-renames", "--no-abbrev", before, after)
        told = self._git(*words).decode("utf-8", "surrogateescape").split("\0")
        for facts, path in zip(told[::2], told[1::2], strict=False):
            _, mode, _, sha, _ = facts.removeprefix(":").split(" ")
            yield path, None if mode == NOBODY else Entry(mode, "blob", sha)

    def _check(self, changed: Changes, begin: Mapping[str, Entry | None], said: set[str]) -> None:
        """Raises InputError where the trees show what may not be published."""
        if set(changed) != said:
            raise InputError("A change touches other files than it names: nothing is published.")
        for path, entry in changed.items():
            old = begin.get(path)
            if entry and entry.mode not in (NEW, old.mode if old else NEW):
                raise InputError(f"{shown(path)} is no plain file any more, or changed its mode.")
            for brief in self.allowed:
                if not editable([path], self.prefix, brief):
                    raise InputError(
                        f"A change may not be published: {shown(path)} is not in `edit`"
                        f" ({', '.join(brief.edit)})."
                    )

    def _grafted(self, tree: str, changes: Changes) -> str | None:
        """The tree with the changes (paths relative to it) made; None where nothing is left."""
        entries = dict(self.base.tree(tree)) if tree else {}
        below: dict[str, Changes] = {}
        for path, entry in changes.items():
            name, _, rest = path.partition("/")
            if rest:
                below.setdefault(name, {})[rest] = entry
            elif entry:
                entries[name] = entry
            else:
                entries.pop(name, None)
        for name, inner in below.items():
            sha = self._grafted(entries[name].sha if name in entries else "", inner)
            entries.pop(name, None)
            if sha:
                entries[name] = Entry(FOLDER, "tree", sha)
        listed = "".join(f"{e.mode} {e.kind} {e.sha}\t{name}\0" for name, e in entries.items())
        raw = listed.encode("utf-8", "surrogateescape")
        return self._line("mktree", "-z", "--missing", stdin=raw) if entries else None


def _numstat(touched: Touched) -> bytes:
    return f"{touched.added}\t{touched.removed}\t{touched.path}\0".encode()


@contextmanager
def replayed(
    base: Base, patches: Sequence[str], prefix: str, allowed: Sequence[Brief], confirmed: str
) -> Iterator[tuple[list[Step], Callable[[str], bytes]]]:
    """(the steps, the content of a blob by its sha) of patches that lead to the tree `confirmed`.
    Raises InputError.
    """
    touched = check(patches, prefix, allowed)
    with tempfile.TemporaryDirectory(prefix="autoresearch-publish-") as folder:
        replay = Replay(Path(folder), base, prefix, allowed)
        steps = list(replay.steps(touched, patches))
        if not steps or steps[-1].tree != confirmed:
            raise InputError(
                "The changes do not add up to the code that was confirmed: nothing is published."
            )
        yield steps, replay.content


def write(
    api: Api,
    base: Base,
    steps: Sequence[Step],
    messages: Sequence[str],
    content: Callable[[str], bytes],
) -> list[str]:
    """One commit for each step, on the base; no branch points to them yet. GitHub signs them for
    the token's owner. Raises InputError where GitHub makes another object than was asked for.
    """
    what, repository, commits = "write the commits", api.repository, list[str]()
    parent = base.commit
    for step, message in zip(steps, messages, strict=True):
        elements = []
        for path, entry in sorted(step.changes.items()):
            if entry:
                encoded = base64.b64encode(content(entry.sha)).decode()
                _same(api.call(what, repository.create_git_blob, encoded, "base64"), entry.sha)
            mode, sha = (entry.mode, entry.sha) if entry else (NEW, None)
            elements.append(InputGitTreeElement(path, mode, "blob", sha=sha))
        tree = api.call(what, repository.create_git_tree, elements, parent.tree)
        _same(tree, step.tree)
        parent = api.call(what, repository.create_git_commit, message, tree, [parent])
        commits.append(parent.sha)
    return commits


def _same(made: Any, sha: str) -> None:
    if made.sha != sha:
        raise InputError("GitHub made another object than was computed here: nothing is published.")
