"""What may be edited and how a patch is read: held against git itself."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest
import tiny

from autoresearch_action.agents.edits import allowed
from autoresearch_action.brief import Brief
from autoresearch_action.workspace.patch import PatchRefused, editable, ordinary, read
from autoresearch_action.workspace.patterns import matches

PATTERNS = [
    "train.py", "**/train.py", "src/", "src", "src/*.py", "src/*", "src/**", "src/**/", "src/**/x.py", "*.py", "*", "**", "**/",
    "**/src/", "*/x.py", "/train.py", "a?c.py", "a*.py", "a**b.py", "***/x.py", "x.py ", "x.py\\ ", "src//x.py", "./train.py",
    "m[a-c]?.py", "m[!a-c]?.py", "m[^a-c]?.py", "[A-Z]x.py", "[z-a]x.py", "[a-]x.py", "[]a]x.py", "[a]]x.py", "[!]]x.py", "[\\]]x.py",
    "[[:alpha:]]x.py", "[[:upper:][:digit:]]x.py", "[[:none:]]x.py", "[a/b]x.py", "[a-", "a\\", "a\\[1\\].py", "a\\*.py", "\\#a.py",
    "#a.py", "\\!a.py",
]  # fmt: skip
PATHS = [
    "train.py", "sub/train.py", "sub/deep/train.py", "src", "src/a.py", "src/x.py", "src/a/b.py", "src/a/x.py", "src/a/b/x.py", "a/src/z.py",
    "d/src", "a/x.py", "b/x.py", ".a/x.py", "m/x.py", "a.txt", "a.py", "x.py", "x.py ", "a c.py", "abc.py", "a/b.py", "ab.py", "axb.py",
    "mbx.py", "mdx.py", "ax.py", "zx.py", "Ax.py", "1x.py", "-x.py", "]x.py", "a]x.py", "a[1].py", "a1.py", "#a.py", "!a.py", "a*.py", "[a-",
    "a\\",
]  # fmt: skip


def test_patterns_select_what_git_selects(tmp_path: Path) -> None:
    """`git check-ignore` on every path, by every pattern anchored at the top."""
    tiny.git(tmp_path, "init", "-q", "-b", "main")
    for pattern in PATTERNS:
        (tmp_path / ".git/info/exclude").write_text("/" + pattern.removeprefix("/") + "\n")
        words = ("-c", "core.ignoreCase=false", "check-ignore", "--no-index", "-z", "--stdin")
        told = subprocess.run(
            ["git", *words], cwd=tmp_path, input="\0".join(PATHS), capture_output=True, text=True
        ).stdout
        ours = {path for path in PATHS if matches(path, [pattern])}
        assert ours == {path for path in told.split("\0") if path}, pattern


def test_an_exclamation_mark_takes_a_file_out_whatever_selected_it() -> None:
    for pattern in ("src", "src/", "src/**", "**"):
        assert not matches("src/score.py", [pattern, "!src/score.py"])
        assert matches("src/a.py", [pattern, "!src/score.py"])
    assert matches("src/score.py", ["src", "!src/score.py", "src/score.py"])


NEVER = [
    ".git/config", "src/.git/hooks/x", ".GIT/config", ".gitattributes", "src/.gitattributes", "src/.gitmodules", "src/.gitignore",
    ".github/workflows/x.yml", ".GitHub/Workflows/x.yml", ".github/actions/a/action.yml", ".github/CODEOWNERS", "src/.github/x",
    ".g\u200cit/hooks/x", "\ufeff.git/x", "\uff0egit/config", ".git./config", ".git /config", ".git::$INDEX_ALLOCATION/config",
    "git~1/config", "GIT~2/config", "gitmod~1", "gi7eba~1", "src\\..\\.git\\config", "a\u202egnp.py", "a\u2066b.py", "a\u2028b.py",
    "a\tb.py", "a\nb.py", "a\x7f.py", "a\rb.py", "a\0b.py", "a\ue000.py", "a\udcff.py", "cafe\u0301.py", 'a"b.py', "a./b.py", "a ", "con/a:b",
    "src/a\ufe0f.py", "src/\u3164a.py", "src/a.py\u00a0", "src/a\u2003.py", "src/a\U000e0101.py",
    "../x", "a/../b", "/etc/passwd", "./a.py", "a//b.py", "a/", "", ".", "x" * 256, "y/" * 600 + "x", "program.md", "Program.MD",
]  # fmt: skip


@pytest.mark.parametrize("path", NEVER)
def test_what_is_never_editable(path: str) -> None:
    brief = Brief(run="true", edit=["**"], path=Path("program.md"))
    assert editable([path, "src/a.py"], "", brief) == ["src/a.py"]
    if path.lower() != "program.md":
        assert not ordinary(path)
        assert not allowed(path, ["**"])


def test_what_is_shown_to_an_agent_is_what_it_may_edit() -> None:
    brief = Brief(run="true", edit=["a\\[1\\].py", "m[!a]*.py"], path=Path("program.md"))
    for path in PATHS:
        assert allowed(path, brief.edit) is bool(editable([path], "", brief)), path


# -- our reading of a patch is git's

FILES = {
    "train.py": "".join(f"line {n}\n" for n in range(40)),
    "src/a.py": "old\n",
    "src/my file.py": "one\ntwo\nthree\n",
    "src/b.py": "no end",
    "src/empty.py": "",
    "score.py": "score\n",
    # Lines that look like headers once they are removed or added
    "src/tricky.py": "-- a/score.py\n++ b/score.py\ndiff --git a/score.py b/score.py\n@@ -1 +1 @@\n\\ No newline at end of file\n-- \n"
    "deleted file mode 100644\n\n- x\n+ y\n",
}
HEADERS = [
    "diff --git a/src/a.py b/src/a.py", "diff --git i/src/x w/src/x", "diff --git a/src/a.py b/score.py", "diff --git src/a.py src/a.py",
    'diff --git "a/src/a.py" "b/src/a.py"', "diff --git a/src/a.py b/src/a.py\r", "diff --git a/a b/a b/a b/a", "diff --cc src/a.py", "--- a/score.py", "+++ b/score.py", "--- /dev/null",
    "+++ /dev/null", "--- a/src/a.py\t2020-01-01", "+++ w/src/a.py", "+++ b/./src/a.py", "--- a//src/a.py", "new file mode 100644", "new file mode 120000",
    "new file mode 160000", "new file mode 100755", "deleted file mode 100644", "old mode 100644", "new mode 100755",
    "new mode 120000", "rename from score.py", "rename to src/y.py", "copy from score.py", "copy to src/y.py", "similarity index 100%",
    "index 1111111..2222222 120000", "index 1111111..2222222", "index 1111111..2222222 100755", "GIT binary patch", "literal 3", "Kc${NkU;qFB",
    "@@ -0,0 +1 @@", "@@ -1 +0,0 @@", "@@ -1 +1 @@", "@@ -1,0 +1,0 @@", "@@", "\\ No newline at end of file", "\\ Kein Zeilenumbruch am Dateiende", "-- ", "", " ", "+x", "-x",
    "-- a/score.py", "++ b/score.py", "Index: src/a.py", "Submodule src/m 1111111..2222222:", "\0", "+\u2028x", "-score", "+/etc/passwd",
]  # fmt: skip


def git(
    repository: Path, *words: str, index: Path, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"GIT_INDEX_FILE": str(index), "GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(
        ["git", "--git-dir", str(repository / ".git"), *words], input=stdin, capture_output=True, env=environment, cwd=repository / ".git",
    )  # fmt: skip


def seeds(home: Path) -> list[str]:
    """Honest patches of every kind."""
    changes = [
        {
            "train.py": FILES["train.py"]
            .replace("line 3\n", "line three\n")
            .replace("line 30\n", "")
        },
        {"src/a.py": "new\n", "src/my file.py": "one\n2\nthree\n"},
        {"src/new.py": "fresh\n", "src/void.py": ""},
        {"src/b.py": "no end either"},
        {"src/b.py": "an end\n", "src/a.py": None},
        {"src/empty.py": None, "score.py": "better\n"},
        {"src/a.py": None, "src/a.py/b.py": "within\n"},
        {"src/tricky.py": "".join(reversed(FILES["src/tricky.py"].splitlines(keepends=True)))},
        {"src/tricky.py": None, "src/more.py": FILES["src/tricky.py"]},
    ]
    found = []
    for change in changes:
        for name, content in sorted(change.items(), key=lambda item: item[1] is not None):
            path = home / name
            if content is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
        tiny.git(home, "add", "-A")
        found.append(
            tiny.git(home, "diff", "--cached", "--no-renames", "--full-index", "HEAD") + "\n"
        )
        tiny.git(home, "reset", "-q", "--hard", "HEAD")
        tiny.git(home, "clean", "-fdq")
    return found


def mutated(dice: random.Random, patches: list[str]) -> str:
    lines = dice.choice(patches).split("\n")
    for _ in range(dice.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        at = dice.randrange(len(lines) + 1)
        match dice.randrange(8):
            case 0:
                lines.insert(at, dice.choice(HEADERS))
            case 1 if lines:
                lines.pop(at - 1)
            case 2 if lines:
                lines.insert(at, dice.choice(lines))
            case 3 if lines:
                lines[at - 1] = dice.choice(HEADERS)
            case 4:
                other = dice.choice(patches).split("\n")
                lines[at:at] = other[: dice.randrange(len(other) + 1)]
            case 5 if lines and lines[at - 1]:
                spot = dice.randrange(len(lines[at - 1]))
                lines[at - 1] = (
                    lines[at - 1][:spot]
                    + dice.choice('\r\t 01a/+-@\\"\0')
                    + lines[at - 1][spot + dice.randrange(2) :]
                )
            case 6:
                numbers = [n for n, line in enumerate(lines) if line.startswith("@@")]
                if numbers:
                    lines[dice.choice(numbers)] = (
                        f"@@ -{dice.randrange(9)},{dice.randrange(9)} +{dice.randrange(9)},{dice.randrange(9)} @@"
                    )
            case _:
                lines[at:at] = dice.choice(patches).rstrip("\n").split("\n")
    return "\n".join(lines)


def fuzzed(folder: Path, count: int, seed: int) -> dict[str, int]:
    """Mutated patches, each either refused or read as git reads it. How many of each there were."""
    home = folder / "home"
    home.mkdir()
    for name, content in FILES.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(content)
    tiny.git(home, "init", "-q", "-b", "main")
    tiny.commit(home)
    patches, dice, index = seeds(home), random.Random(seed), folder / "index"
    begin = (home / ".git/index").read_bytes()
    before = tiny.git(home, "rev-parse", "HEAD^{tree}")
    assert [bool(read(patch)) for patch in patches] == [True] * len(patches), "honest ones are read"
    counts = {"refused": 0, "does not apply": 0, "applied": 0}
    for _ in range(count):
        patch = mutated(dice, patches)
        try:
            ours = read(patch)
        except PatchRefused as refused:
            assert str(refused).endswith(".") and str(refused).isprintable()
            counts["refused"] += 1
            continue
        raw = patch.encode("utf-8", "surrogateescape")
        index.write_bytes(begin)
        if git(home, "apply", "--cached", "--whitespace=nowarn", index=index, stdin=raw).returncode:
            counts["does not apply"] += 1
            continue
        counts["applied"] += 1
        counted = git(home, "apply", "--numstat", "-z", index=index, stdin=raw).stdout
        assert counted == b"".join(
            f"{added}\t{removed}\t{path}\0".encode() for path, added, removed in ours
        ), patch
        after = git(home, "write-tree", index=index).stdout.decode().strip()
        told = (
            git(home, "diff-tree", "-r", "-z", "--no-renames", before, after, index=index)
            .stdout.decode()
            .split("\0")
        )
        assert set(told[1::2]) <= {touched.path for touched in ours}, patch
        assert {facts.split()[1] for facts in told[:-1:2]} <= {"100644", "000000"}, patch
    return counts


def test_our_reading_of_a_patch_is_gits(tmp_path: Path) -> None:
    counts = fuzzed(tmp_path, 400, seed=1)
    assert counts["refused"] > 100
    assert counts["applied"] > 30


@pytest.mark.battery
def test_our_reading_of_ten_thousand_patches_is_gits(tmp_path: Path) -> None:
    counts = fuzzed(tmp_path, 10_000, seed=2)
    assert counts["refused"] > 2_500
    assert counts["applied"] > 750
