"""The workspace with real git: clean checkouts, allowed patches, carrying, the branch at the end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny

from autoresearch_action import brief as briefs
from autoresearch_action.errors import InputError
from autoresearch_action.workspace.folders import remove
from autoresearch_action.workspace.git import git, merge
from autoresearch_action.workspace.patch import PatchRefused
from autoresearch_action.workspace.patterns import matches
from autoresearch_action.workspace.trees import Workspace


def workspace(directory: Path, inside: str = "", **keys: object) -> Workspace:
    brief = briefs.read(Path("program.md"), directory / inside).model_copy(update=keys)
    return Workspace(directory / inside, directory / inside / ".autoresearch", brief)


def edit(space: Workspace, old: str, new: str, parent: str | None = None) -> str:
    """A commit with one replacement in train.py."""
    tree = space.state / "slots" / "edit"
    space.checkout(tree, parent or space.base)
    file = tree / space.prefix / "train.py"
    file.write_text(file.read_text().replace(old, new))
    return space.commit(
        parent or space.base, space.diff(tree, parent or space.base), f"{old} to {new}"
    )


def test_a_checkout_is_pristine_whatever_was_left_in_it(tmp_path: Path) -> None:
    space = workspace(tiny.repository(tmp_path / "r"))
    tree = space.state / "slots" / "a"
    space.checkout(tree, space.base)
    (tree / "train.py").write_text("ruined")
    (tree / "score.py").unlink()
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "deep" / "er" / "file").write_text("left behind")
    (tree / "deep").chmod(0o000)
    (tree / "link").symlink_to("/etc/passwd")
    os.utime(tree / "train.py", (1, 1))
    space.checkout(tree, space.base)
    assert sorted(p.name for p in tree.iterdir()) == [
        ".gitignore",
        "program.md",
        "score.py",
        "train.py",
    ]
    assert (tree / "train.py").read_text() == (space.root / "train.py").read_text()
    remove(tree)
    assert not tree.exists()


def test_a_folder_that_was_replaced_is_neither_followed_nor_fatal(tmp_path: Path) -> None:
    space = workspace(tiny.repository(tmp_path / "r"))
    tree, precious = space.state / "slots" / "a", tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("not ours")
    for spoil in (
        lambda: tree.symlink_to(precious),
        lambda: tree.write_text("a file"),
        lambda: None,
        lambda: tiny.git(tmp_path, "init", "-q", str(tree / "inside")),
        lambda: (
            tree.mkdir(),
            (tree / ".gitattributes").write_text("* working-tree-encoding=UTF-16\n"),
            (tree / "b").write_text("b"),
        ),
    ):
        space.checkout(tree, space.base)
        remove(tree)
        spoil()  # type: ignore[no-untyped-call]
        with pytest.raises(PatchRefused):
            space.diff(tree, space.base)
    space.checkout(tree, space.base)
    tree_before = tree.with_name("kept")
    tree.rename(tree_before)
    tree.symlink_to(precious)
    space.checkout(tree, space.base)
    assert (
        (precious / "file").read_text() == "not ours"
        and (tree / "train.py").exists()
        and not tree.is_symlink()
    )


def test_a_repository_that_was_made_inside_is_refused_and_gone(tmp_path: Path) -> None:
    space = workspace(tiny.repository(tmp_path / "r"), edit=["**"])
    tree = space.state / "slots" / "a"
    space.checkout(tree, space.base)
    before = sorted(tree.rglob("*"))
    (tree / "sub").mkdir()
    (tree / "sub" / "file").write_text("left behind")
    tiny.git(tree / "sub", "init", "-q")
    tiny.commit(tree / "sub")
    with pytest.raises(PatchRefused, match="a git repository in it"):
        space.diff(tree, space.base)
    space.checkout(tree, space.base)
    assert sorted(tree.rglob("*")) == before


def test_an_edit_is_seen_whatever_its_size_and_times_say(tmp_path: Path) -> None:
    space = workspace(tiny.repository(tmp_path / "r"))
    tree = space.state / "slots" / "a"
    for _ in range(3):
        space.checkout(tree, space.base)
        file = tree / "train.py"
        facts, text = file.stat(), file.read_text()
        file.write_text(text.replace("LR = 0.1", "LR = 0.2"))
        os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        assert "+LR = 0.2" in space.diff(tree, space.base)


def test_an_edit_becomes_a_commit_that_carries_to_a_new_incumbent(tmp_path: Path) -> None:
    root = tiny.repository(tmp_path / "r")
    space = workspace(root)
    rate, width = edit(space, "LR = 0.1", "LR = 0.2"), edit(space, "NOISE = 0.01", "NOISE = 0.02")
    assert space.stat(space.base, rate) == [("train.py", 1, 1)]
    carried = space.carry(width, rate)
    assert (
        carried
        and "NOISE = 0.02" in space.patch(rate, carried)
        and "\n-LR" not in space.patch(rate, carried)
    )
    assert space.carry(edit(space, "LR = 0.1", "LR = 0.4"), rate) is None
    pause = space.carry(
        edit(space, "PAUSE = 0.0", "PAUSE = 0.1"), width
    )  # the next line: for git a conflict
    assert (
        pause
        and space.stat(width, pause) == [("train.py", 1, 1)]
        and "PAUSE = 0.1" in space.patch(width, pause)
    )
    assert space.frozen(rate) == space.frozen(space.base) != space.tree(rate)
    assert tiny.git(root, "for-each-ref", "--format=%(refname)") == "refs/heads/main"
    assert space.branch("autoresearch/program", carried) == "autoresearch/program"
    assert tiny.git(root, "log", "--format=%s", "main..autoresearch/program").split("\n") == [
        "NOISE = 0.01 to NOISE = 0.02",
        "LR = 0.1 to LR = 0.2",
    ]
    tiny.git(root, "checkout", "-q", "autoresearch/program")
    (root / "train.py").write_text("a person's own work")
    tiny.commit(root)
    tiny.git(root, "checkout", "-q", "main")
    assert space.branch("autoresearch/program", rate) == "autoresearch/program-2"
    tiny.git(root, "branch", "line", "main")
    assert space.branch("line/program", rate) == "line-program"


BODY = "index 1111111..2222222 100644\n--- a/{0}\n+++ b/{0}\n@@ -1 +1 @@\n-a\n+b\n"
REFUSED = {
    "another file": "diff --git a/score.py b/score.py\n" + BODY.format("score.py"),
    "the brief": "diff --git a/program.md b/program.md\n" + BODY.format("program.md"),
    "a hook": "diff --git a/.git/hooks/x b/.git/hooks/x\nnew file mode 100644\n--- /dev/null\n+++ b/.git/hooks/x\n@@ -0,0 +1 @@\n+a\n",
    "a workflow": "diff --git a/.github/workflows/x.yml b/.github/workflows/x.yml\nnew file mode 100644\n--- /dev/null\n+++ b/.github/workflows/x.yml\n"
    "@@ -0,0 +1 @@\n+a\n",
    "above the root": "diff --git a/../x b/../x\n--- a/../x\n+++ b/../x\n@@ -0,0 +1 @@\n+a\n",
    "a link": "diff --git a/train.py b/train.py\nold mode 100644\nnew mode 120000\n",
    "an executable": "diff --git a/train.py b/train.py\nold mode 100644\nnew mode 100755\n",
    "a rename": "diff --git a/score.py b/train.py\nsimilarity index 100%\nrename from score.py\nrename to train.py\n",
    "a submodule": "diff --git a/train.py b/train.py\nnew file mode 160000\n--- /dev/null\n+++ b/train.py\n@@ -0,0 +1 @@\n+Subproject commit x\n",
    "two names": "diff --git a/train.py b/train.py\n--- a/train.py\n+++ b/score.py\n@@ -1 +1 @@\n-a\n+b\n",
    "no file": "just words\n",
    "a huge one": "diff --git a/train.py b/train.py\n" + BODY.format("train.py") + "+x" * 600_000,
    "what does not apply": "diff --git a/train.py b/train.py\n" + BODY.format("train.py"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_patches_that_touch_what_they_may_not_are_refused(tmp_path: Path, what: str) -> None:
    space = workspace(
        tiny.repository(tmp_path / "r"),
        edit=["**"]
        if what in ("a hook", "a workflow", "above the root", "the brief")
        else ["train.py"],
    )
    with pytest.raises(PatchRefused) as refused:
        space.commit(space.base, REFUSED[what], "no")
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


def test_a_monorepo_with_a_submodule_and_a_large_file(tmp_path: Path) -> None:
    library = tiny.repository(tmp_path / "library")
    root = tmp_path / "mono"
    tiny.repository(root / "pkg")
    remove(root / "pkg" / ".git")
    tiny.git(root, "init", "-q", "-b", "main")
    tiny.git(
        root,
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "add",
        "-q",
        str(library),
        "pkg/vendor",
    )
    (root / ".gitattributes").write_text("*.bin filter=lfs\n")
    (root / "pkg" / "weights.bin").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"
    )
    tiny.commit(root)
    with pytest.raises(InputError, match="git lfs pull"):
        workspace(root, "pkg")
    tiny.git(root, "update-index", "--assume-unchanged", "pkg/weights.bin")
    (root / "pkg" / "weights.bin").write_text("real")
    space = workspace(root, "pkg")
    tree = space.state / "slots" / "a"
    space.checkout(tree, space.base)
    assert (tree / "pkg" / "weights.bin").read_text() == "real"
    assert (tree / "pkg" / "vendor" / "train.py").exists()
    commit = edit(space, "LR = 0.1", "LR = 0.3")
    assert space.stat(space.base, commit) == [("pkg/train.py", 1, 1)]
    assert {".gitattributes", "pkg/score.py", "pkg/vendor"} <= set(
        space.frozen_entries(space.base)
    ) and "pkg" not in space.frozen_entries(space.base)


def test_what_is_not_committed_is_refused_before_anything_runs(tmp_path: Path) -> None:
    root = tiny.repository(tmp_path / "r")
    (root / "program.md").write_text((root / "program.md").read_text() + "more\n")
    workspace(root)
    (root / "train.py").write_text("x = 1\n")
    with pytest.raises(InputError, match=r"train\.py has changes that are not committed"):
        workspace(root)
    with pytest.raises(InputError, match="no git repository"):
        Workspace(tmp_path, tmp_path / "s", briefs.read(Path("program.md"), root))


@pytest.mark.parametrize(
    ("pattern", "path", "named"),
    [
        ("train.py", "train.py", True),
        ("train.py", "sub/train.py", False),
        ("**/train.py", "sub/deep/train.py", True),
        ("src/", "src/a/b.py", True),
        ("src/*.py", "src/a/b.py", False),
        ("src/**", "src/a/b.py", True),
        ("*.py", "a.py", True),
        ("*.py", "a.txt", False),
        ("m[a-c]?.py", "mbx.py", True),
        ("m[!a-c]?.py", "mbx.py", False),
    ],
)
def test_edit_patterns(pattern: str, path: str, named: bool) -> None:
    assert matches(path, [pattern]) is named
    assert not matches(path, [pattern, f"!{path}"])


@pytest.mark.parametrize(
    ("ours", "theirs", "merged"),
    [
        ("A b c d e f", "a B c d e f", "A B c d e f"),  # each its own line
        ("A b C d e f", "a B c d e F", "A B C d e F"),
        ("A b c d e f", "A b c d e f", "A b c d e f"),  # the same change
        ("A b c d e f", "A B c d e f", "A B c d e f"),
        ("A b c d e f X", "a B c d e f", "A B c d e f X"),  # and one elsewhere
        ("X a b c d E f", "a b c d e F", "X a b c d E F"),
        ("A b c d e f", "Z b c d e f", None),
        ("A X b c d e f", "a B c d e f", None),  # two lines for one: is the second what was b?
        ("a X b c d e f", "a B c d e f", None),
        ("b c d e f", "a B c d e f", None),
        ("", "a B c d e f", None),
    ],
)
def test_changes_that_touch_merge_line_by_line(ours: str, theirs: str, merged: str | None) -> None:
    base, ours, theirs = (
        "".join(f"{word}\n" for word in text.split()) for text in ("a b c d e f", ours, theirs)
    )
    expected = None if merged is None else "".join(f"{word}\n" for word in merged.split()).encode()
    for end in ("\n", "\r\n"):
        sides = [text.replace("\n", end).encode() for text in (base, ours, theirs)]
        wanted = expected and expected.replace(b"\n", end.encode())
        assert merge(*sides) == merge(sides[0], sides[2], sides[1]) == wanted
    assert merge(base.encode(), ours.encode().rstrip(), theirs.encode()) in (
        None,
        expected,
        expected and expected.rstrip(),
    )


def test_a_line_that_looks_like_a_mark_is_lost_nowhere() -> None:
    for mark in "<|=>":
        base, ours, theirs = (
            f"{mark * 70}\n{text}\n{mark * 70}\n".encode() for text in ("a\nb", "A\nb", "a\nB")
        )
        assert merge(base, ours, theirs) in (None, f"{mark * 70}\nA\nB\n{mark * 70}\n".encode())


def test_equal_lines_are_never_taken_for_each_other() -> None:
    """Where git sees a conflict and lines were lost or added, nothing is guessed."""
    for texts in (
        (b"relu conv conv conv", b"relu conv conv", b"relu conv gelu conv"),
        (b"step zero log save", b"zero step log save", b"step log save zero"),
    ):
        base, ours, theirs = (b"\n".join(text.split()) + b"\n" for text in texts)
        assert merge(base, ours, theirs) is None


def test_a_program_that_may_be_executed_is_carried_as_one(tmp_path: Path) -> None:
    root = tiny.repository(tmp_path / "r")
    (root / "train.py").chmod(0o755)
    tiny.commit(root)
    space = workspace(root)
    carried = space.carry(
        edit(space, "PAUSE = 0.0", "PAUSE = 0.1"), edit(space, "NOISE = 0.01", "NOISE = 0.02")
    )
    assert carried and tiny.git(space.repo, "ls-tree", carried, "train.py").startswith("100755")


def test_git_is_not_ended_by_a_terminals_interrupt_of_the_run() -> None:
    group = git("-c", "alias.group=!ps -o pgid= -p $$", "group")
    assert int(group) != os.getpgrp()
