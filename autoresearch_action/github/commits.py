"""From proven patches to commits, without a checkout: what is handed over is checked, applied and
written through the API.

The patches are untrusted: they come from a job that ran a model's code. Which files they may touch
is read from the brief at the base commit, not from the ledger; nothing of them is ever executed.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from github import InputGitTreeElement
from github.GitCommit import GitCommit

from autoresearch_action import brief as briefs
from autoresearch_action.brief import Brief
from autoresearch_action.errors import InputError
from autoresearch_action.github.api import Api
from autoresearch_action.records import Run
from autoresearch_action.workspace.git import GitError, git
from autoresearch_action.workspace.patch import PatchRefused, check_patch

MOST_PATCHES = 100
# Of all patches together
MOST_BYTES = 1_000_000
MOST_FILES = 200

# By path; None: not there
Contents = dict[str, bytes | None]


class Base:
    """The base commit as GitHub has it: files are fetched when asked for, tree by tree."""

    def __init__(self, api: Api, sha: str) -> None:
        self.api = api
        commit = api.ask("read the base commit", lambda: api.repository.get_git_commit(sha))
        if commit is None:
            raise InputError(
                f"The commit {sha[:12]}, which everything was measured against, is not on GitHub: push it, then publish."
            )
        self.commit: GitCommit = commit
        self._trees: dict[str, dict[str, Any]] = {}

    def entry(self, path: str) -> Any:
        """The tree entry (mode, type, sha) at `path`; None where there is none."""
        sha, parts, found = self.commit.tree.sha, PurePosixPath(path).parts, None
        for place, part in enumerate(parts):
            if sha not in self._trees:
                tree = self.api.call(
                    "read the base commit", partial(self.api.repository.get_git_tree, sha)
                )
                self._trees[sha] = {element.path: element for element in tree.tree}
            found = self._trees[sha].get(part)
            if found is None or (found.type != "tree" and place < len(parts) - 1):
                return None
            sha = found.sha
        return found

    def read(self, path: str) -> bytes | None:
        """The file at `path`. Raises InputError for anything but a plain file."""
        entry = self.entry(path)
        if entry is None:
            return None
        if entry.type != "blob" or entry.mode not in ("100644", "100755"):
            raise InputError(f"{path} is no plain file at the base commit: it may not be changed.")
        blob = self.api.call(f"read {path}", lambda: self.api.repository.get_git_blob(entry.sha))
        return (
            base64.b64decode(blob.content) if blob.encoding == "base64" else blob.content.encode()
        )


def brief_of(base: Base, run: Run) -> Brief:
    """The brief as the base commit has it: what may be edited is its word. Raises InputError."""
    prefix = "" if run.working_directory == "." else f"{run.working_directory}/"
    raw = base.read(f"{prefix}{run.program}")
    if raw is None:
        raise InputError(
            f"{run.program} is not in the commit that was measured ({run.base[:12]}): the brief must be committed."
        )
    return briefs.parse(raw, Path(run.program), Path("."))


def check(patches: Sequence[str], run: Run, brief: Brief) -> list[str]:
    """The paths that the patches touch. Raises InputError for what may not be published."""
    if len(patches) > MOST_PATCHES or sum(map(len, patches)) > MOST_BYTES:
        raise InputError(
            f"The changes are too many or too large to publish ({MOST_PATCHES} patches, {MOST_BYTES:,} bytes at most)."
        )
    prefix = "" if run.working_directory == "." else run.working_directory
    try:
        touched = dict.fromkeys(
            path for patch in patches for path in check_patch(patch, prefix, brief)
        )
    except PatchRefused as error:
        raise InputError(f"A change may not be published: {error}") from None
    if len(touched) > MOST_FILES:
        raise InputError(
            f"The changes touch {len(touched)} files; {MOST_FILES} at most are published."
        )
    return list(touched)


def applied(files: Mapping[str, bytes | None], patches: Sequence[str]) -> list[Contents]:
    """What each patch changes, applied one on the other: contents by path. Raises InputError where
    one does not apply.
    """
    steps: list[Contents] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        git("init", "-q", "--template=", folder)
        for path, data in files.items():
            if data is not None:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(data)
        before = dict(files)
        for place, patch in enumerate(patches, 1):
            try:
                git(
                    "apply",
                    "--whitespace=nowarn",
                    cwd=root,
                    stdin=patch.encode("utf-8", "surrogateescape"),
                )
            except GitError as error:
                raise InputError(
                    f"Change {place} does not apply to the commit it was measured on: {str(error).splitlines()[0]}."
                ) from None
            after = {path: _content(root / path) for path in files}
            steps.append({path: data for path, data in after.items() if data != before[path]})
            before = after
    return steps


def _content(path: Path) -> bytes | None:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path.name} became something else than a plain file.")
    return path.read_bytes() if path.exists() else None


def write(
    api: Api, base: Base, steps: Sequence[Contents], messages: Sequence[str]
) -> list[GitCommit]:
    """One commit for each step, on the base; no branch points to them yet. GitHub signs them for
    the token's owner.
    """
    commits: list[GitCommit] = []
    parent = base.commit
    for step, message in zip(steps, messages, strict=True):
        elements = [
            InputGitTreeElement(path, _mode(base, path), "blob", sha=_blob(api, data))
            for path, data in sorted(step.items())
        ]
        tree = api.call(
            "write the commits",
            partial(api.repository.create_git_tree, elements, parent.tree),
        )
        parent = api.call(
            "write the commits",
            partial(api.repository.create_git_commit, message, tree, [parent]),
        )
        commits.append(parent)
    return commits


def _mode(base: Base, path: str) -> str:
    entry = base.entry(path)
    return entry.mode if entry is not None else "100644"


def _blob(api: Api, data: bytes | None) -> str | None:
    if data is None:
        return None
    encoded = base64.b64encode(data).decode()
    return api.call(
        "write the commits", lambda: api.repository.create_git_blob(encoded, "base64")
    ).sha
