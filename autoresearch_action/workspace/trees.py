"""The workspace: the user's repository, a private bare one beside it, and the clean checkouts that
trials see.

Candidates are commits in `STATE/repo.git`, which borrows the user's objects. Checkouts hold no
`.git`: index and objects lie elsewhere, so a trial can neither read history nor leave a hook. The
user's own refs, index, hooks and configuration are never touched but by `branch`, at the very end.
Which patches are allowed is patch.py's.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

from autoresearch_action.brief import Brief
from autoresearch_action.errors import EnvironmentFault, InputError
from autoresearch_action.workspace.folders import altered, link, remove, remove_git
from autoresearch_action.workspace.git import GitError, environment, git, in_the_way, line, merge
from autoresearch_action.workspace.hydrate import hydrate, pointers, submodules
from autoresearch_action.workspace.patch import PatchRefused, check_patch, editable

__all__ = ["PatchRefused", "Workspace"]
# Ten times a long train.py: an edit is no place for weights
MAX_PATCH_BYTES = 250_000
# How git's listing of a folder begins
FOLDER = "040000 "
# In a patch
REPOSITORY = b"\nnew file mode 160000\n"
# What each file of a patch was
BEFORE = re.compile(rb"^index ([0-9a-f]{40,64})\.\.", re.MULTILINE)
PLACEHOLDERS = {".gitkeep", ".gitignore", ".keep", "README.md"}


class Workspace:
    """One repository at one base commit.

    `root` is the repository's top, `prefix` the working directory relative to it ("" at the top),
    `base` the commit that everything is measured against. Raises InputError where there is no
    repository, no commit or a dirty one.
    """

    def __init__(self, directory: Path, state: Path, brief: Brief, base: str = "HEAD") -> None:
        self.directory, self.state, self.brief = directory.resolve(), state.resolve(), brief
        try:
            self.root = Path(line("rev-parse", "--show-toplevel", cwd=self.directory))
        except GitError:
            raise InputError(
                f"{directory} is in no git repository: `git init` and commit what is there first."
            ) from None
        prefix = self.directory.relative_to(self.root.resolve()).as_posix()
        self.prefix = "" if prefix == "." else prefix
        try:
            self.base = line(
                "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}", cwd=self.root
            )
        except GitError:
            raise InputError(
                f"The repository at {self.root} has no commit {base}: commit what is there first."
            ) from None
        self.branch_name = os.environ.get("GITHUB_REF_NAME") or self._symbolic()
        # Where submodules and LFS files are taken from
        self.hydrated = self.root
        self.repo = self.state / "repo.git"
        # Where setup works, and what it made
        self.setup_tree = self.state / "slots" / "setup"
        self.setup_folder = self.state / "setup"
        self.setup_hash = ""
        self._refuse_dirty()
        self._refuse_untracked()
        self._refuse_nothing_to_edit()
        self._open()
        entries = self._entries(self.base)
        self.submodules = submodules(self.root, entries)
        self.filtered = pointers(self.root, entries, self._git, self.base)

    def _symbolic(self) -> str:
        try:
            return line("symbolic-ref", "--short", "-q", "HEAD", cwd=self.root)
        except GitError:
            return ""

    def _refuse_dirty(self) -> None:
        """What is not committed would be neither measured nor published: say so before anything is
        spent.
        """
        words = ("status", "--porcelain", "-z", "--untracked-files=no", "--ignore-submodules=dirty")
        shown = git(*words, cwd=self.root).decode("utf-8", "surrogateescape")
        program = (PurePosixPath(self.prefix) / self.brief.path).as_posix()
        dirty = [
            entry[3:] for entry in shown.split("\0") if len(entry) > 3 and entry[3:] != program
        ]
        if dirty:
            more = f" and {len(dirty) - 1} more" if len(dirty) > 1 else ""
            raise InputError(
                f"{dirty[0]}{more} has changes that are not committed: commit or stash them, then"
                " run again."
            )

    def _refuse_untracked(self) -> None:
        """A file to edit that lies there and is in no commit would be in no checkout."""
        for pattern in self.brief.edit:
            name = PurePosixPath(self.prefix, pattern.strip("/"))
            if (self.root / name).is_file() and not git(
                "ls-tree", "-z", self.base, "--", str(name), cwd=self.root
            ):
                raise InputError(
                    f"`edit` names {pattern}, which is not committed: git add it and commit, then"
                    " run again."
                )

    def _refuse_nothing_to_edit(self) -> None:
        names = git("ls-tree", "-r", "-z", "--name-only", "--full-tree", self.base, cwd=self.root)
        paths = names.decode("utf-8", "surrogateescape").split("\0")
        if not any(editable([path], self.prefix, self.brief) for path in paths):
            raise InputError(
                f"`edit` ({', '.join(self.brief.edit)}) names no file that is committed here: there"
                " is nothing to change."
            )

    def _open(self) -> None:
        """The private repository: empty but for a link to the user's objects, so that gigabytes are
        not copied.
        """
        objects = Path(line("rev-parse", "--git-path", "objects", cwd=self.root))
        objects = objects if objects.is_absolute() else self.root / objects
        # Written last
        if not (self.repo / "objects" / "info" / "alternates").exists():
            self.state.mkdir(parents=True, exist_ok=True)
            git("init", "-q", "--bare", "--template=", str(self.repo))
        info = self.repo / "objects" / "info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "alternates").write_text(f"{objects.resolve()}\n")
        shallow = Path(line("rev-parse", "--git-path", "shallow", cwd=self.root))
        shallow = shallow if shallow.is_absolute() else self.root / shallow
        if shallow.exists():
            shutil.copy(shallow, self.repo / "shallow")

    def _git(
        self, *words: str, stdin: bytes = b"", index: Path | None = None, tree: Path | None = None
    ) -> bytes:
        place = [f"--git-dir={self.repo}", *([f"--work-tree={tree}"] if tree else [])]
        return git(
            *place,
            *words,
            cwd=tree,
            stdin=stdin,
            extra={"GIT_INDEX_FILE": str(index)} if index else None,
        )

    def _line(self, *words: str) -> str:
        return self._git(*words).decode("utf-8", "surrogateescape").strip()

    # -- checkouts --

    def checkout(self, tree: Path, commit: str, sealed: bool = False) -> None:
        """Make `tree` the pristine checkout of `commit`, with setup's outputs; whatever was there
        before is gone.

        `sealed`: `readonly` will stand there for whoever works in it, so that setup's folders can
        be left empty. Cleaned before files are written: a .gitattributes left behind would
        rule how git writes them.
        """
        index = tree.with_name(f"{tree.name}.index")
        # Of a git that was killed: a tree has one user
        index.with_name(f"{index.name}.lock").unlink(missing_ok=True)
        # A link in its place is never followed: what it leads to is not ours to clean
        if tree.is_symlink() or not tree.is_dir() or self._altered(tree, commit):
            remove(tree)
        tree.mkdir(parents=True, exist_ok=True)
        try:
            self._git("clean", "-ffdxq", index=index, tree=tree)
            remove_git(tree)
            self._git("read-tree", "--reset", "-u", commit, index=index, tree=tree)
        except GitError:
            remove(tree)
            index.unlink(missing_ok=True)
            tree.mkdir(parents=True)
            self._git("read-tree", "--reset", "-u", commit, index=index, tree=tree)
        for path in (*self.submodules, *self.filtered):
            hydrate(self.hydrated / path, tree / path)
        for name in self._made(commit) if sealed else ():
            source, target = self.setup_folder / name, tree / name
            folder = source.is_dir() and not source.is_symlink()
            (target if folder else target.parent).mkdir(parents=True, exist_ok=True)
            if not folder:
                link(str(source), str(target))
        if not sealed and self.setup_folder.exists():
            shutil.copytree(self.setup_folder, tree, dirs_exist_ok=True, symlinks=True)

    def _altered(self, tree: Path, commit: str) -> bool:
        """Whether a folder has modes or access lists that git would leave to the next who works
        in it.
        """
        return any(map(altered, (tree, *(tree / name for name in self.folders(commit)))))

    @lru_cache(maxsize=2)  # noqa: B019 (one workspace a process; a large repository has many)
    def _entries(self, commit: str) -> tuple[tuple[str, str], ...]:
        """(mode, type and object; path) of everything that is tracked, folders too."""
        shown = (
            self._git("ls-tree", "-r", "-t", "-z", commit)
            .decode("utf-8", "surrogateescape")
            .split("\0")
        )
        return tuple(
            (facts, path) for facts, _, path in (entry.partition("\t") for entry in shown if entry)
        )

    @lru_cache(maxsize=64)  # noqa: B019 (one workspace a process)
    def frozen_entries(self, commit: str) -> tuple[str, ...]:
        """Paths, relative to the root, that are made read-only in a trial: every tracked entry at
        the level of the working directory and above it, and whatever setup made, wherever it lies.
        New files may appear beside them, and in folders that hold placeholders only.
        """
        way = PurePosixPath(self.prefix).parts
        within = dict[str, set[str]]()
        for facts, path in self._entries(commit):
            if facts.startswith(FOLDER):
                continue
            parts = path.split("/")
            depth = next(
                (n for n, (mine, on) in enumerate(zip(parts, way, strict=False)) if mine != on),
                len(way),
            )
            within.setdefault("/".join(parts[: depth + 1]), set()).add("/".join(parts[depth + 1 :]))
        held = [path for path, names in within.items() if not names <= PLACEHOLDERS]
        return tuple(dict.fromkeys([*held, *self._made(commit)]))

    def readonly(self, commit: str, tree: Path) -> dict[str, Path]:
        """By each of `frozen_entries`, what is to stand there: setup's own, else the checkout's."""
        tops = {self.setup_folder / name: name for name in self._made(commit)}
        shown = {name: path for path, name in tops.items() if path.is_dir()}
        return {name: shown.get(name, tree / name) for name in self.frozen_entries(commit)}

    @lru_cache(maxsize=64)  # noqa: B019 (one workspace a process)
    def _made(self, commit: str) -> tuple[str, ...]:
        """The topmost of what setup made: files, and folders that hold nothing tracked."""
        held, folders = [], {self.prefix, *self.submodules, *self.folders(commit)}
        for folder, names, files in os.walk(self.setup_folder):
            at = PurePosixPath(folder).relative_to(self.setup_folder)
            below = {name: (at / name).as_posix() for name in (*names, *files)}
            held += [path for path in below.values() if path not in folders]
            names[:] = [name for name in names if below[name] in folders]
        return tuple(held)

    def folders(self, commit: str) -> set[str]:
        """Folders that hold something tracked, below the root."""
        return {path for facts, path in self._entries(commit) if facts.startswith(FOLDER)}

    # -- patches and commits --

    def diff(self, tree: Path, parent: str) -> str:
        """The edit made in `tree`, a checkout, as a git-format patch against `parent`. Raises
        PatchRefused when it is too large or no edit at all.

        The checkout's own index goes on being used: only what differs from it is read.
        """
        index = tree.with_name(f"{tree.name}.index")
        if tree.is_symlink():
            raise PatchRefused("The folder of the code was replaced by a link.")
        index.with_name(f"{index.name}.lock").unlink(missing_ok=True)
        try:
            self._git(
                "add", "-A", "--force", "--", ".", *self._not_ours(parent), index=index, tree=tree
            )
        except GitError as error:
            # A repository inside, attributes that git cannot follow, no folder any more
            raise PatchRefused(
                "Git cannot read the edit:"
                f" {str(error).splitlines()[0].removeprefix('error: ')[:200]}."
            ) from None
        words = ("-p", "--cached", "--no-renames", "--no-color", "--full-index")
        patch = self._git("diff-index", *words, parent, index=index)
        if REPOSITORY in patch:
            # No later checkout would clean what lies in it: the index has it as one entry
            remove(tree)
            index.unlink()
            raise PatchRefused("The edit has a git repository in it.")
        if len(patch) > MAX_PATCH_BYTES:
            raise PatchRefused(
                f"The edit is {len(patch):,} bytes long; {MAX_PATCH_BYTES:,} are allowed."
            )
        return patch.decode("utf-8", "surrogateescape")

    def untracked(self, tree: Path, index: Path) -> list[str]:
        """Files in `tree` that git does not know, relative to it."""
        names = (
            self._git("ls-files", "-z", "--others", index=index, tree=tree)
            .decode("utf-8", "surrogateescape")
            .split("\0")
        )
        return [name for name in names if name]

    def _not_ours(self, parent: str) -> list[str]:
        here = (*self.submodules, *self.filtered, *self._made(parent))
        bytecode = [f":(exclude,glob)**/{name}" for name in ("__pycache__", "*.pyc")]
        return [*bytecode, *(f":(exclude,literal){path}" for path in here)]

    def commit(self, parent: str, patch: str, message: str, three_way: bool = False) -> str:
        """A commit with `patch` applied on `parent`. Raises PatchRefused with a sentence."""
        raw = patch.encode("utf-8", "surrogateescape")
        if len(raw) > MAX_PATCH_BYTES:
            raise PatchRefused(
                f"The patch is {len(raw):,} bytes long; {MAX_PATCH_BYTES:,} are allowed."
            )
        paths = check_patch(patch, self.prefix, self.brief)
        index = self.state / "slots" / f"commit-{secrets.token_hex(8)}.index"
        index.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._git("read-tree", parent, index=index)
            try:
                words = ("--cached", "--whitespace=nowarn", *(["--3way"] if three_way else []))
                self._git("apply", *words, stdin=raw, index=index)
            except GitError as error:
                if not three_way or not self._merged(raw, paths, parent, index):
                    said = str(error).splitlines()[0].removeprefix("error: ")
                    raise PatchRefused(f"The patch does not apply: {said}.") from None
            tree = self._git("write-tree", index=index).decode().strip()
        finally:
            index.unlink(missing_ok=True)
        self._refuse_frozen(parent, tree)
        return self._commit_tree(tree, parent, message)

    def _merged(self, patch: bytes, paths: list[str], parent: str, index: Path) -> bool:
        """Merge line by line what git would not. Whether that could be done; `index` holds the
        result.
        """
        self._git("read-tree", parent, index=index)
        blobs = [blob.decode() for blob in BEFORE.findall(patch)]
        made = index.with_name(f"{index.name}.made")
        try:
            for path, blob in zip(paths, blobs, strict=True):
                self._git(
                    "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", index=made
                )
            self._git("apply", "--cached", "--whitespace=nowarn", stdin=patch, index=made)
            for path, blob in zip(paths, blobs, strict=True):
                base = self._git("cat-file", "blob", blob)
                ours, theirs = (
                    self._git("cat-file", "blob", f":0:{path}", index=at) for at in (index, made)
                )
                if (merged := merge(base, ours, theirs)) is None:
                    return False
                mode = (
                    self._git("ls-files", "-s", "--", f":(top,literal){path}", index=index)
                    .split()[0]
                    .decode()
                )
                blob = self._git("hash-object", "-w", "--stdin", stdin=merged).decode().strip()
                self._git("update-index", "--cacheinfo", f"{mode},{blob},{path}", index=index)
        except (GitError, ValueError):
            # A file that either made or deleted, or a text that is not at hand
            return False
        finally:
            made.unlink(missing_ok=True)
        return True

    def _refuse_frozen(self, parent: str, tree: str) -> None:
        """What the patch says it touches was checked; what it did touch is checked once more, on
        the trees.
        """
        raw = (
            self._git("diff-tree", "-r", "-z", "--no-renames", parent, tree)
            .decode("utf-8", "surrogateescape")
            .split("\0")
        )
        for facts, path in zip(raw[::2], raw[1::2], strict=False):
            old, new = facts.lstrip(":").split()[:2]
            if (
                new in ("120000", "160000")
                or (old != "000000" and new not in (old, "000000"))
                or new == "100755" != old
            ):
                raise PatchRefused(
                    f"{path}: links, submodules and changes of mode are not allowed."
                )
        refused = [path for path in raw[1::2] if not editable([path], self.prefix, self.brief)]
        if refused:
            raise PatchRefused(f"{refused[0]} is not in `edit`: it stays as it is.")

    def _commit_tree(self, tree: str, parent: str, message: str) -> str:
        text = " ".join(message.split())[:200] or "Edit"
        said = text.encode("utf-8", "replace")
        commit = self._git("commit-tree", tree, "-p", parent, stdin=said).decode().strip()
        self._trees[commit] = tree
        self._git("update-ref", f"refs/trials/{commit}", commit)
        return commit

    def carry(self, commit: str, onto: str) -> str | None:
        """The commit's own change re-applied (three-way) on `onto`; None where it conflicts."""
        parent, message = (
            self._line("rev-parse", f"{commit}^"),
            self._line("log", "-1", "--format=%s", commit),
        )
        try:
            return self.commit(onto, self.patch(parent, commit), message, three_way=True)
        except PatchRefused:
            return None

    def patch(self, parent: str, commit: str) -> str:
        return self._git(
            "diff", "--no-renames", "--no-color", "--full-index", parent, commit
        ).decode("utf-8", "surrogateescape")

    def stat(self, base: str, head: str) -> list[tuple[str, int, int]]:
        """(path, lines added, lines removed) between two commits."""
        rows = [
            row.split("\t")
            for row in self._line("diff", "--numstat", "--no-renames", base, head).split("\n")
            if row
        ]
        return [
            (path, int(added), int(removed)) for added, removed, path in rows if added.isdigit()
        ]

    @cached_property
    def _trees(self) -> dict[str, str]:
        """By commit."""
        return {}

    def tree(self, commit: str) -> str:
        if commit not in self._trees:
            self._trees[commit] = self._line("rev-parse", f"{commit}^{{tree}}")
        return self._trees[commit]

    @lru_cache(maxsize=256)  # noqa: B019 (one workspace a process)
    def frozen(self, commit: str) -> str:
        """sha256 over every tracked file that may not be edited (path, mode, object)."""
        files = [
            (facts, path) for facts, path in self._entries(commit) if not facts.startswith(FOLDER)
        ]
        may, total = (
            set(editable([path for _, path in files], self.prefix, self.brief)),
            hashlib.sha256(),
        )
        for facts, path in files:
            if path not in may:
                total.update(f"{facts}\t{path}\n".encode("utf-8", "surrogateescape"))
        return total.hexdigest()

    def mentions(self, word: str) -> bool:
        """Whether a tracked file of the base holds `word`."""
        try:
            return bool(self._git("grep", "-l", "-I", "-F", word, self.base))
        except GitError:
            # Found nowhere
            return False

    def branch(self, name: str, tip: str) -> str:
        """Leave `tip`, a commit of the private repository, as a branch in the user's: one commit
        per kept change.

        Returns the branch's name: a suffix is added rather than overwriting commits that are not
        ours, or a branch that is checked out, and dashes stand for slashes where a branch has the
        name of a folder of it.
        """
        if in_the_way(name, self._is_branch):
            name = name.replace("/", "-")
        for suffix in ("", *(f"-{number}" for number in range(2, 100))):
            if self._ours(f"{name}{suffix}"):
                words = ("-q", "--no-tags", "--no-write-fetch-head", str(self.repo))
                git("fetch", *words, f"+{tip}:refs/heads/{name}{suffix}", cwd=self.root)
                return f"{name}{suffix}"
        raise EnvironmentFault(f"There are a hundred branches {name}-…: delete some.")

    def _is_branch(self, name: str) -> bool:
        try:
            line("rev-parse", "--verify", "--quiet", f"refs/heads/{name}", cwd=self.root)
        except GitError:
            return False
        return True

    def _ours(self, name: str) -> bool:
        """Whether the branch may be (over)written: it is not there, or all its commits since the
        base are ours.
        """
        if not self._is_branch(name):
            return True
        if name in line("worktree", "list", "--porcelain", cwd=self.root):
            return False
        authors = line(
            "log", "--format=%ce", f"{self.base}..refs/heads/{name}", cwd=self.root
        ).split()
        return set(authors) <= {environment()["GIT_COMMITTER_EMAIL"]}
