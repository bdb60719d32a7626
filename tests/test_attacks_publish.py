"""Attacks on publishing, from a handed-over state folder: each is refused where it should be and, with that layer off, by the next one.

Layers, in order: what is taken in (handover.py), how a patch is read (patch.py), the difference of trees (commits.py), the confirmed
tree. Behind them all: there is no work tree, so that no name in a patch leads anywhere.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import studies
import tiny
from delivery import Delivery
from fake_github import FakeGitHub
from pydantic import ValidationError

from autoresearch_action import report
from autoresearch_action.brief import Brief, parse
from autoresearch_action.brief import read as read_brief
from autoresearch_action.commands.publish import checkout, publish_session
from autoresearch_action.errors import EnvironmentFault, InputError
from autoresearch_action.github import commits, handover, memory
from autoresearch_action.github.api import Api, connect
from autoresearch_action.github.pull_request import publish
from autoresearch_action.ledger import read as read_ledger
from autoresearch_action.records import Run
from autoresearch_action.research.fleet import gather
from autoresearch_action.workspace.patch import Touched
from autoresearch_action.workspace.trees import Workspace

SECRET = "ghs_what_the_publishing_job_may_write_with"
PROGRAM = """---
edit: [{edit}]
run: python train.py
evaluate: python score.py
metric: val_bpb
goal: minimize
---
Lower it.
"""
FILES = {"train.py": "old\n", "score.py": "old\n", "src/a.py": "old\n", "src/score.py": "old\n"}


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGitHub]:
    with FakeGitHub(tmp_path_factory.mktemp("github") / "o.git") as made:
        for name, content in FILES.items():
            made.human_commit("main", name, content)
        yield made


def environ(fake: FakeGitHub) -> dict[str, str]:
    return {
        "GITHUB_TOKEN": fake.token,
        "GITHUB_REPOSITORY": fake.repository,
        "GITHUB_API_URL": fake.url,
        "GITHUB_SERVER_URL": "https://github.example",
    }


def api(fake: FakeGitHub) -> Api:
    return connect(environ(fake))


def brief(edit: str) -> Brief:
    return parse(PROGRAM.format(edit=edit).encode(), Path("program.md"), Path("/nonexistent"))


def link(name: str, to: str = "/proc/self") -> str:
    """A link made by a header that git reads, with prefixes of its own."""
    return (
        f"diff --git i/{name} w/{name}\nnew file mode 120000\n--- /dev/null\n+++ w/{name}\n"
        f"@@ -0,0 +1 @@\n+{to}\n\\ No newline at end of file\n"
    )


def unlink(name: str, to: str = "/proc/self") -> str:
    return (
        f"diff --git i/{name} w/{name}\ndeleted file mode 120000\n--- i/{name}\n+++ /dev/null\n"
        f"@@ -1 +0,0 @@\n-{to}\n\\ No newline at end of file\n"
    )


def say(path: str) -> str:
    """A header without a change, which git passes over."""
    return f"diff --git a/{path} b/{path}\n"


def new(path: str) -> str:
    return f"{say(path)}new file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n"


def change(path: str) -> str:
    return f"{say(path)}--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-old\n+new\n"


FORM = "no diff as `git diff` writes it"
OUTSIDE = "is not in `edit`"
# edit, patches, what the reader says, what the trees say ("": they show nothing but an allowed change)
ATTACKS: dict[str, tuple[str, list[str], str, str]] = {
    "a link, and a name behind it": ('"src/**"', [link("src/x") + say("src/x/environ"), unlink("src/x") + change("src/a.py")], FORM, "no plain file"),
    "a file becomes a link": ("train.py", [link("train.py") + say("train.py/environ")], FORM, "does not apply"),
    "a link to the repository": ("train.py", [unlink("train.py", "old"), link("train.py", ".git") + say("train.py/config")], FORM, "does not apply"),
    "a link in git's own form": ('"src/**"', [link("src/x").replace("i/", "a/").replace("w/", "b/")], "links, submodules", "no plain file"),
    "a second file in the old form": ("train.py", [change("train.py") + "--- a/.github/workflows/x.yml\n+++ b/.github/workflows/x.yml\n@@ -0,0 +1 @@\n+x\n"], FORM, OUTSIDE),
    "a submodule": ('"src/**"', ["diff --git i/src/m w/src/m\nnew file mode 160000\nindex 0000000..1234567123456712345671234567123456712345\n--- /dev/null\n+++ w/src/m\n@@ -0,0 +1 @@\n+Subproject commit 1234567123456712345671234567123456712345\n" + say("src/m")], FORM, "no plain file"),
    "an executable": ('"src/**"', ["diff --git i/src/a.py w/src/a.py\nold mode 100644\nnew mode 100755\n" + say("src/a.py")], FORM, "changed its mode"),
    "an executable, plainly": ('"src/**"', [say("src/a.py") + "old mode 100644\nnew mode 100755\n"], "change of mode", "changed its mode"),
    "a new executable": ('"src/**"', [new("src/x.py").replace("100644", "100755")], "executables", "no plain file"),
    "a rename": ('"**"', ["diff --git a/src/a.py b/src/x.py\nsimilarity index 100%\nrename from src/a.py\nrename to src/x.py\n"], FORM, "does not apply"),
    "a copy of a frozen file": ("src/x.py", ["diff --git a/score.py b/src/x.py\nsimilarity index 100%\ncopy from score.py\ncopy to src/x.py\n"], FORM, "does not apply"),
    "a CR in a header": ("train.py", [change("train.py").replace("b/train.py\n", "b/train.py\r\n", 1)], FORM, ""),
    "an ordinary frozen file": ("train.py", [change("score.py")], OUTSIDE, OUTSIDE),
    ".git in other letters": ('"**"', [new(".GitHub/Workflows/x.yml")], OUTSIDE, OUTSIDE),
    "an action": ('"**"', [new(".github/actions/a/action.yml")], OUTSIDE, OUTSIDE),
    "attributes below": ('"**"', [new("src/.gitattributes")], OUTSIDE, OUTSIDE),
    "submodules below": ('"**"', [new("src/.gitmodules")], OUTSIDE, OUTSIDE),
    "zero-width .git": ('"**"', [new(".g\u200cit/hooks/post-checkout")], OUTSIDE, "does not apply|is not in `edit`"),
    "a trailing dot": ('"**"', [new(".git./config")], OUTSIDE, "does not apply|is not in `edit`"),
    "a stream": ('"**"', [new(".git::$INDEX_ALLOCATION/config")], OUTSIDE, "does not apply|is not in `edit`"),
    "backslashes": ('"**"', [new("src\\..\\.github\\workflows\\x.yml")], OUTSIDE, "does not apply|is not in `edit`|other files"),
    "another form of a name": ('"**"', [new("src/cafe\u0301.py")], OUTSIDE, OUTSIDE),
    "many headers": ("train.py", [change("train.py") + say("train.py") * 25_000], FORM, ""),
    "a very long name": ('"**/x.py"', [f"diff --git a/{'/' * 400_000}y b/{'/' * 400_000}y\n"], FORM, "does not apply|other files"),
    "quotes": ('"**"', ['diff --git "a/' + "\\\\" * 200_000 + '" "b/' + "x" * 100_000 + "\n"], FORM, "does not apply|other files|do not add up"),
    "words": ('"**"', ["just words\n"], FORM, "does not apply|do not add up"),
    "nothing": ('"**"', [""], "names no file", "does not apply|do not add up"),
}  # fmt: skip


def replay(fake: FakeGitHub, edit: str, patches: list[str], tree: str = "0" * 40) -> None:
    base = commits.Base(api(fake), fake.sha("main") or "")
    with commits.replayed(base, patches, "", [brief(edit)], tree):
        pass


def as_git_reads(patch: str) -> list[Touched]:
    """Layer one off: whatever git says that a patch touches."""
    words = ["git", "apply", "--numstat", "-z"]
    told = subprocess.run(
        words, input=patch.encode("utf-8", "surrogateescape"), capture_output=True
    ).stdout
    rows = [row.split("\t") for row in told.decode("utf-8", "surrogateescape").split("\0") if row]
    return [
        Touched(path, *(int(n) if n.isdigit() else 0 for n in (added, removed)))
        for added, removed, path in rows
    ]


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_patch_is_refused_where_it_is_read(fake: FakeGitHub, name: str) -> None:
    edit, patches, words, _ = ATTACKS[name]
    started = time.monotonic()
    with pytest.raises(InputError, match=words) as refused:
        replay(fake, edit, patches)
    assert len(str(refused.value)) < 1_000
    assert str(refused.value).isprintable()
    assert time.monotonic() - started < 5.0


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_patch_is_refused_by_what_it_does(
    fake: FakeGitHub, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit, patches, _, words = ATTACKS[name]

    def unchecked(patches: list[str], prefix: str, allowed: list[Brief]) -> list[str]:
        # The names that exist, so that each patch has what it applies to
        return [
            path
            for path in FILES
            if any(path in (t.path for t in as_git_reads(p)) for p in patches)
        ]

    monkeypatch.setattr(commits, "check", unchecked)
    monkeypatch.setattr(commits, "read", as_git_reads)
    with pytest.raises(InputError, match=words or "do not add up"):
        replay(fake, edit, patches)


def test_what_lies_in_a_file_or_beside_a_namesake_is_refused(fake: FakeGitHub) -> None:
    for path, words in (
        ("src/Score.py", "in other letters"),
        ("SRC/x.py", "in other letters"),
        ("train.py/x.py", "in a file"),
    ):
        with pytest.raises(InputError, match=words):
            replay(fake, '"**"', [new(path)])
    for pair in (("a", "a/b"), ("A.py", "a.py")):
        with pytest.raises(InputError, match="have one name"):
            replay(fake, '"**"', [new(pair[0]), new(pair[1])])
    with pytest.raises(InputError, match="no plain file"):
        replay(fake, '"**"', [new("src")])


# -- from a state folder to a pull request


def handed(
    folder: Path, fake: FakeGitHub, edit: str, patches: list[str], tree: str, **run: object
) -> Path:
    """A run that says that `patches` were proven and lead to `tree`."""
    fake.human_commit("main", "program.md", PROGRAM.format(edit=edit) + f"<!-- {folder.name} -->\n")
    contract = brief(edit).contract
    state = folder / "state"
    facts = {"base": fake.sha("main"), "repository": fake.repository, "contract": contract} | run
    studies.make(state, **facts)
    (state / "proven" / "01-0001.diff").unlink()
    for number, patch in enumerate(patches, 1):
        (state / "proven" / f"{number:02d}-{number:04d}.diff").write_text(patch)
    numbers = json.dumps(list(range(1, len(patches) + 1)), separators=(",", ":"))
    ledger = state / "ledger.jsonl"
    ledger.write_text(
        ledger.read_text().replace("b" * 40, tree).replace('"numbers":[1]', f'"numbers":{numbers}')
    )
    return state


def confirmed(fake: FakeGitHub, path: str, content: bytes) -> str:
    blob = fake.git("hash-object", "-w", "--stdin", data=content).strip()
    root = fake.git("rev-parse", "main^{tree}").strip()
    return fake._tree(root, [{"path": path, "mode": "100644", "type": "blob", "sha": blob}])


@pytest.mark.parametrize("off", ["nothing", "the reader", "the reader and the trees"])
def test_no_file_of_the_publishing_machine_leaves_it(
    fake: FakeGitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: str
) -> None:
    """A link is made and taken away again between two commits; the final tree is the confirmed one."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "token").write_text(SECRET)
    series = [
        link("src/x", str(secret)) + say("src/x/token"),
        unlink("src/x", str(secret)) + change("src/a.py"),
    ]
    state = handed(tmp_path, fake, '"src/**"', series, "b" * 40)
    tree = confirmed(fake, "src/a.py", b"new\n")
    (state / "ledger.jsonl").write_text(
        (state / "ledger.jsonl").read_text().replace("b" * 40, tree)
    )
    if off != "nothing":
        monkeypatch.setattr(commits, "check", lambda *_: ["src/a.py", "src/x"])
        monkeypatch.setattr(commits, "read", as_git_reads)
    if off == "the reader and the trees":
        monkeypatch.setattr(commits.Replay, "_check", lambda *_: None)
    before = len(fake.writes)
    try:
        publish(state, environ(fake) | {"GITHUB_TOKEN": fake.token})
    except InputError:
        assert len(fake.writes) == before, "nothing is uploaded before all is known"
    else:
        assert off == "the reader and the trees"
    for blob in fake.git(
        "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)"
    ).splitlines():
        sha, kind = blob.split()
        assert kind != "blob" or SECRET not in fake.git("cat-file", "blob", sha)


def test_an_honest_series_of_a_made_up_run_is_published(fake: FakeGitHub, tmp_path: Path) -> None:
    """The attacks' own ground: without one, it works."""
    state = handed(tmp_path, fake, '"src/**"', [change("src/a.py")], "b" * 40)
    tree = confirmed(fake, "src/a.py", b"new\n")
    (state / "ledger.jsonl").write_text(
        (state / "ledger.jsonl").read_text().replace("b" * 40, tree)
    )
    done = publish(state, environ(fake))
    assert done.operation in ("created", "updated")
    assert fake.git("rev-parse", f"{done.head}^{{tree}}").strip() == tree


# -- what is taken in


def edited(run: Delivery, old: str, new: str) -> None:
    text = (run.state / "ledger.jsonl").read_text()
    assert old in text
    (run.state / "ledger.jsonl").write_text(text.replace(old, new))


def field(event: str, name: str, value: object) -> Callable[[Delivery], None]:
    """The field `name` of every `event` says `value`."""

    def spoil(run: Delivery) -> None:
        events = [
            json.loads(line) for line in (run.state / "ledger.jsonl").read_text().splitlines()
        ]
        for told in events:
            if told["event"] == event and (event != "fact" or told["name"] == "noise"):
                told[name] = value
        (run.state / "ledger.jsonl").write_text(
            "".join(json.dumps(e, separators=(",", ":")) + "\n" for e in events)
        )

    return spoil


def linked(*parts: str) -> Callable[[Delivery], None]:
    def spoil(run: Delivery) -> None:
        path = run.state.joinpath(*parts)
        aside = path.with_name(f"{path.name}.aside")
        path.rename(aside)
        path.symlink_to(aside)

    return spoil


def fifo(run: Delivery) -> None:
    (run.state / "claims.json").unlink()
    os.mkfifo(run.state / "claims.json")


def huge(name: str) -> Callable[[Delivery], None]:
    """A file that would not fit anywhere, and takes no room."""
    return lambda run: os.truncate(run.state / name, 1 << 40)


def many(run: Delivery) -> None:
    for number in range(100):
        (run.state / "proven" / f"{number:02d}-{number:04d}.diff").write_text(change("train.py"))


def first(run: Delivery) -> str:
    return (run.state / "ledger.jsonl").read_text().splitlines()[0]


def appended(line: str) -> Callable[[Delivery], None]:
    def spoil(run: Delivery) -> None:
        with (run.state / "ledger.jsonl").open("a") as file:
            file.write(f"{line}\n")

    return spoil


AUDIT = '{{"event":"fact","at":1,"name":"audit","value":{{"looks":1,"stopped":1,"kept":1,"lost":0,"looser":{}}}}}'
EVIL = "r -->\n<img src=x>\nCo-authored-by: Eve <eve@evil.example>"
TAKEN: dict[str, tuple[Callable[[Delivery], None], str]] = {
    "the ledger is a link": (linked("ledger.jsonl"), "ledger.jsonl .* is a link"),
    "the series is a link": (linked("proven"), "proven .* is a link"),
    "a patch is a link": (linked("proven", "01-0001.diff"), "01-0001.diff .* is a link"),
    "the trials are a link": (linked("trials"), "patch.diff .* is a link"),
    "a trial is a link": (linked("trials", "0001"), "patch.diff .* is a link"),
    "the claims are a link": (linked("claims.json"), "claims.json .* is a link"),
    "claims that are never written": (fifo, "claims.json .* no plain file"),
    "a ledger that never ends": (huge("ledger.jsonl"), "too large"),
    "claims that never end": (huge("claims.json"), "too large"),
    "a patch that never ends": (huge("proven/01-0001.diff"), "too large"),
    "a hundred patches": (many, "too many"),
    "a patch with another name": (lambda run: (run.state / "proven/01-0001.diff").rename(run.state / "proven/x.diff"), "not named"),
    "a patch that the ledger does not know": (lambda run: (run.state / "proven/01-0001.diff").rename(run.state / "proven/01-0009.diff"), "not the ones"),
    "a key twice": (lambda run: edited(run, first(run), first(run)[:-1] + ',"id":"other"}'), "Line 1 "),
    "a key twice, in other letters": (lambda run: edited(run, first(run), first(run)[:-1] + ',"i\\u0064":"other"}'), "Line 1 "),
    "a line with blanks": (lambda run: edited(run, '{"event":"verdict",', '{"event":"verdict", '), "does not hold a ledger"),
    "facts in another order": (lambda run: edited(run, first(run), '{"at":1,' + first(run)[1:]), "Line 1 "),
    "a number of many digits": (lambda run: edited(run, '"started":', '"started":' + "9" * 5_000), "Line 1 "),
    "a deep nest": (field("run", "environment", json.loads("[" * 50 + "]" * 50)), "Line 1 "),
    "an id with a trailer": (field("run", "id", EVIL), "Line 1 .*id"),
    "a brief's id that ends a comment": (field("run", "brief_id", EVIL), "Line 1 .*brief_id"),
    "a brief's id that is another folder": (field("run", "brief_id", "../../.github/workflows"), "Line 1 .*brief_id"),
    "a metric that is none": (field("run", "metric", "val_bpb\n"), "Line 1 .*metric"),
    "a branch that is none": (field("run", "branch", "main --force"), "Line 1 .*branch"),
    "a hash that is none": (field("run", "frozen", "\n@octocat a"), "Line 1 .*frozen"),
    "a base that is a branch": (field("run", "base", "main"), "no commit"),
    "a tree that is none": (field("confirmation", "tree", "main"), "no commit or no tree"),
    "a commit that is none": (field("verdict", "commit", "a b"), "commit"),
    "a status that is none": (field("verdict", "status", "kept"), "status"),
    "a claim without figures": (field("confirmation", "estimate", None), "no figures"),
    "a claim of infinity": (field("confirmation", "best", "Infinity"), "no figures"),
    "a noise that is none": (field("fact", "value", "x"), "does not hold a ledger"),
    "another goal": (field("run", "goal", "maximize"), "another `goal`"),
    "another metric": (field("run", "metric", "loss"), "another `metric`"),
    "another scorer": (lambda run: edited(run, "score.py", "true.py"), "another `evaluate`"),
    "another edit": (lambda run: edited(run, '"contract":{', '"contract":{"edit":["**"],'), "another `edit`"),
    "another brief": (field("run", "brief_id", "other"), "answers another one"),
    "a time that is none": (field("run", "contract", {"time-budget": "x", "edit": ["train.py"]}), "does not hold a ledger"),
    "a level that is none": (field("confirmation", "level", None), "does not hold a ledger"),
    "a noise in words": (field("fact", "value", {"sigma": "1", "dof": 1, "mean": 1.0}), "does not hold a ledger"),
    "an event of nothing": (appended("{}"), "does not hold a ledger"),
    "a list of nothing": (appended("[]"), "does not hold a ledger"),
    "a list for an event": (appended('["event"]'), "does not hold a ledger"),
    "a stack of halves": (appended('{"event":"stack","at":1,"numbers":[0.5]}'), "does not hold a ledger"),
    "a stack that never ends": (appended('{"event":"stack","at":1,"numbers":[1' + ",1" * 1_000 + "]}"), "kept more"),
    "a commit that is a list": (field("proposal", "commit", ["<img src=x>"]), "does not hold a ledger.*commit"),
    "a noise that ends later runs": (field("fact", "value", {"sigma": 1.0, "dof": -1, "mean": 1.0}), "does not hold a ledger.*dof"),
    "a noise without end": (field("fact", "value", {"sigma": 1e300, "dof": 1, "mean": 1.0}), "does not hold a ledger.*sigma"),
    "a rule that stops everything": (appended(AUDIT.format("-1.0")), "does not hold a ledger.*looser"),
    "a rule that is no number": (appended(AUDIT.format("NaN")), "does not hold a ledger"),
    "a stack of nothing": (appended('{"event":"stack","at":1,"numbers":[1,999]}'), "does not know"),
    "an id that is a file of the memory": (field("run", "id", "claims.json"), "names a run"),
    "a branch in colours": (field("run", "branch", "a\u009b31m\u202e"), "names a run or a branch"),
    "a program of two lines": (field("run", "program", "a\nb.md"), "outside of its repository"),
    "a folder above": (field("run", "working_directory", ".."), "outside of its repository"),
    "a program elsewhere": (field("run", "program", "/etc/passwd"), "outside of its repository"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_a_state_folder_is_untrusted_as_a_whole(run: Delivery, name: str) -> None:
    spoil, words = TAKEN[name]
    spoil(run)
    with pytest.raises(InputError, match=words) as refused:
        publish(
            run.state,
            run.environ,
            remember=lambda told, claimed: memory.save(told, run.environ, claimed),
        )
    assert str(refused.value).isprintable()
    assert not run.fake.pulls
    if "another `" not in str(refused.value) and "no commit" not in words:
        assert not run.fake.writes, "nor is it remembered"


def test_what_changes_after_the_check_is_not_used(run: Delivery) -> None:
    """The state folder is swapped between check and use."""

    def swap(*_: object) -> str:
        for patch in (run.state / "proven").glob("*.diff"):
            patch.write_text(new(".github/workflows/x.yml"))
        (run.state / "ledger.jsonl").write_text("")
        return ""

    done = publish(run.state, run.environ, remember=swap)
    assert done.operation == "created"
    assert run.fake.git("diff", "--name-only", "main", done.head).split() == ["train.py"]


def test_a_plain_checkout_s_brief_is_read_from_its_files(fake: FakeGitHub) -> None:
    for name, content in (
        ("program.md", "Lower it.\n"),
        ("prepare.py", "TIME_BUDGET = 60\n"),
        ("uv.lock", "\n"),
    ):
        fake.human_commit("main", f"plain/{name}", content)
    base = commits.Base(api(fake), fake.sha("main") or "")
    run = Run(id="x", started=1.0, base=base.commit.sha, working_directory="plain")
    found = commits.brief_of(base, run, "there")
    assert found.informal
    assert found.id == "plain--program"
    assert found.contract["time-budget"] == 60
    assert found.contract["run"] == ".venv/bin/python train.py"


def test_no_picture_of_the_research_job_is_shown(run: Delivery) -> None:
    for name in ("progress.png", "report.html"):
        (run.state / name).write_text("Approved by the security team")
    publish(
        run.state,
        run.environ,
        remember=lambda told, claimed: memory.save(told, run.environ, claimed),
    )
    files = run.fake.git("ls-tree", "-r", "--name-only", memory.BRANCH).split()
    for name in ("progress.png", "report.html"):
        (path,) = [file for file in files if file.endswith(name)]
        assert "Approved" not in run.fake.git("show", f"{memory.BRANCH}:{path}")


def test_what_is_remembered_is_diffs_within_limits(
    run: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = read_ledger(run.state).kept
    first, second = (run.state / "trials" / f"{number:04d}" / "patch.diff" for number in kept)
    genuine = first.read_bytes()
    second.write_bytes(b"any bytes\n" * 100)
    publish(
        run.state,
        run.environ,
        remember=lambda told, claimed: memory.save(told, run.environ, claimed),
    )
    files = run.fake.git("ls-tree", "-r", "--name-only", memory.BRANCH).split()
    (patch,) = [file for file in files if file.endswith("patch.diff")]
    assert run.fake.git("show", f"{memory.BRANCH}:{patch}").encode() == genuine
    monkeypatch.setattr(memory, "MOST_LEDGER", 1_000)
    with pytest.raises(EnvironmentFault, match="without its trials"):
        publish(
            run.state,
            run.environ,
            remember=lambda told, claimed: memory.save(told, run.environ, claimed),
        )


def test_what_is_said_of_a_run_is_lines_that_can_be_seen(run: Delivery) -> None:
    field("confirmation", "held", False)(run)
    field("confirmation", "reason", "a\x1b]0;b\x07\ud800c\n::warning::d")(run)
    assert run.publish().describe() == "No pull request: a]0;bc ::warning::d"


def test_by_hand_nothing_is_said_before_it_is_looked_at(
    run: Delivery, capsys: pytest.CaptureFixture[str]
) -> None:
    field("confirmation", "held", False)(run)
    field("confirmation", "reason", "a\x1b]0;b\x07")(run)
    publish_session(run.state, True, None, {})
    assert capsys.readouterr().out.splitlines()[0] == "Dry run: a]0;b"
    linked("ledger.jsonl")(run)
    with pytest.raises(InputError, match="is a link"):
        publish_session(run.state, True, None, {})


def test_reports_are_written_through_no_link(run: Delivery, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    for name in ("report.html", "report.html.part"):
        (run.state / name).unlink(missing_ok=True)
        (run.state / name).symlink_to(mine)
    report.write(run.state, read_ledger(run.state))
    assert mine.read_text() == "mine"


def test_no_pull_request_is_closed_by_a_base_of_one_s_own(run: Delivery) -> None:
    """Measured on its very head, everything of it would be there already."""
    head = run.publish().head
    field("confirmation", "held", False)(run)
    field("run", "base", head)(run)
    assert run.publish().operation == "none"
    assert run.fake.pulls[1]["state"] == "open"


def test_today_s_brief_has_a_word_too(run: Delivery) -> None:
    narrow = run.fake.read("main", "program.md").replace("edit: [train.py]", "edit: [other.py]")
    run.fake.advance("main", "program.md", narrow)
    with pytest.raises(InputError, match=r"train.py is not in `edit` \(other.py\)"):
        run.publish()
    run.fake.advance("main", "program.md", narrow.replace("other.py", "'*.py'"))
    assert run.publish().operation == "created"


def test_the_brief_s_word_stands_not_the_ledger_s(run: Delivery) -> None:
    field("run", "prose", "Approved by the security team.")(run)
    run.publish()
    assert "Lower the loss." in run.fake.pulls[1]["body"]
    assert "security team" not in run.fake.pulls[1]["body"]


def test_what_was_dispatched_is_not_the_ledger_s_word(run: Delivery) -> None:
    """Prose that came with the event: this job has it itself."""
    said, forged = "Try Adam.", "Approved by the security team."
    answers = Brief(run="true", prose=forged, dispatched=True).id
    field("run", "prose", forged)(run)
    field("run", "brief_id", answers)(run)
    for more in ({}, {"AUTORESEARCH_BRIEF": said}):
        with pytest.raises(InputError, match="answers another one"):
            run.publish(**more)
    assert not run.fake.writes
    field("run", "brief_id", Brief(run="true", prose=said, dispatched=True).id)(run)
    run.publish(AUTORESEARCH_BRIEF=f" {said}\n")
    assert said in run.fake.pulls[1]["body"]
    assert forged not in run.fake.pulls[1]["body"]


def test_the_ledger_does_not_say_where_a_pull_request_is_for(run: Delivery) -> None:
    run.fake.git("branch", "release", "main")
    run.fake.git("branch", "wide", "main")
    field("run", "branch", "wide")(run)
    field("run", "repository", "octo/other")(run)
    run.publish()
    assert run.fake.pulls[1]["base"] == "main"
    run.publish(GITHUB_REF="refs/heads/release", AUTORESEARCH_BRANCH="x")
    assert run.fake.pulls[2]["base"] == "release"
    run.environ.pop("GITHUB_REPOSITORY")
    with pytest.raises(EnvironmentFault, match="Set GITHUB_REPOSITORY"):
        run.publish()


ORIGINS = {
    "https://github.example/octo/repo.git": "octo/repo",
    "https://me:word@github.example/octo/repo": "octo/repo",
    "git@github.example:octo/repo.git": "octo/repo",
    "ssh://git@github.example:22/octo/repo/": "octo/repo",
    "https://elsewhere.example/octo/repo.git": "",
    "https://elsewhere.example/x@github.example/octo/repo": "",
    "/srv/octo/repo.git": "",
}


@pytest.mark.parametrize("origin", ORIGINS)
def test_by_hand_the_checkout_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    tiny.git(tmp_path, "init", "-q", "-b", "work")
    tiny.git(tmp_path, "remote", "add", "origin", origin)
    monkeypatch.chdir(tmp_path)
    found = checkout({"GITHUB_SERVER_URL": "https://github.example"})
    assert found.get("GITHUB_REPOSITORY", "") == ORIGINS[origin]
    assert found["GITHUB_REF"] == "refs/heads/work"


def test_nothing_is_uploaded_for_a_tree_that_was_not_confirmed(run: Delivery) -> None:
    field("confirmation", "tree", "c" * 40)(run)
    with pytest.raises(InputError, match="do not add up"):
        run.publish()
    assert not run.fake.writes


@pytest.mark.parametrize("adds_up", [True, False])
def test_a_claim_is_counted_where_what_is_handed_over_adds_up(run: Delivery, adds_up: bool) -> None:
    if not adds_up:
        field("confirmation", "tree", "c" * 40)(run)
    with nullcontext() if adds_up else pytest.raises(InputError, match="do not add up"):
        publish(
            run.state,
            run.environ,
            remember=lambda told, claimed: memory.save(told, run.environ, claimed),
        )
    claims = json.loads(run.fake.git("show", f"{memory.BRANCH}:program/claims.json"))["claims"]
    assert claims["attempts"] == 1
    assert claims["claimed"] == [1] * adds_up


def test_a_folder_that_github_lists_in_part_is_refused(run: Delivery) -> None:
    run.fake.settings["truncated"] = True
    with pytest.raises(InputError, match="more files than GitHub lists"):
        run.publish()
    assert not run.fake.writes


def test_a_tree_that_github_makes_otherwise_ends_it(
    run: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        run.fake, "_tree", lambda *_: run.fake.git("rev-parse", "main^{tree}").strip()
    )
    with pytest.raises(InputError, match="another object"):
        run.publish()
    assert not run.fake.pulls


def test_a_file_that_github_sends_otherwise_ends_it(
    run: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = commits.Base.read
    monkeypatch.setattr(
        commits.Base,
        "read",
        lambda base, path: (genuine(base, path) or b"") + b"# more\n" * (path == "train.py"),
    )
    with pytest.raises(InputError, match="another file than its tree names"):
        run.publish()


def described(run: Delivery) -> None:
    """Half a surrogate in what a change is called."""
    events = [json.loads(line) for line in (run.state / "ledger.jsonl").read_text().splitlines()]
    for told in events:
        if told["event"] == "proposal":
            told["description"] = "x\ud800"
        if told["event"] == "verdict" and told["estimate"]:
            told["estimate"] += 1.0
    (run.state / "ledger.jsonl").write_text(
        "".join(json.dumps(e, separators=(",", ":")) + "\n" for e in events)
    )


def unwritten(run: Delivery) -> None:
    (run.state / "ledger.jsonl").unlink()
    os.mkfifo(run.state / "ledger.jsonl")


SHARDS: dict[str, Callable[[Delivery], None]] = {
    "nothing is wrong": lambda run: None,
    "a name that cannot be written": described,
    "a ledger that is never written": unwritten,
    "a ledger that never ends": huge("ledger.jsonl"),
    "a ledger that is a link": linked("ledger.jsonl"),
    "a patch that is a link": linked("trials", "0001", "patch.diff"),
    "a patch that never ends": huge("trials/0001/patch.diff"),
    "another base": field("run", "base", "c" * 40),
    "a stack of nothing": appended('{"event":"stack","at":1,"numbers":[999]}'),
    "a stack that never ends": appended(
        '{"event":"stack","at":1,"numbers":[1' + ",1" * 100_000 + "]}"
    ),
    "a patch outside of the brief": lambda run: (
        (run.state / "trials/0001/patch.diff").write_text(new(".github/workflows/x.yml")) and None
    ),
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_poisoned_shard_costs_itself_alone(run: Delivery, tmp_path: Path, name: str) -> None:
    shards, target, notes = tmp_path / "shards", tmp_path / "merged", list[str]()
    for shard in ("a", "b\n::error::c"):
        shutil.copytree(run.state, shards / shard)
    poisoned = replace(run, state=shards / "b\n::error::c")
    SHARDS[name](poisoned)
    workspace = Workspace(run.home, tmp_path / "merge", read_brief(Path("program.md"), run.home))
    started = time.monotonic()
    assert gather(shards, workspace, target, notes.append) == 2
    assert time.monotonic() - started < 20.0
    assert [path.name for path in sorted(target.iterdir())] == ["000.diff", "001.diff"]
    # What the brief does not allow is passed over, as anybody's would be
    assert len(notes) == (list(SHARDS).index(name) not in (0, 1, len(SHARDS) - 1))


def test_files_are_read_by_no_link_and_no_further_than_allowed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "c").mkdir()
    (tmp_path / "d").symlink_to("c")
    (tmp_path / "c" / "e").write_bytes(b"e")
    assert handover.content(tmp_path, "a", most=10) == b"x" * 10
    assert handover.content(tmp_path, "none", most=10) is None
    assert handover.content(tmp_path, "none", "e", most=10) is None
    assert handover.content(tmp_path, "c", "e", most=10) == b"e"
    for parts, most in (
        (("a",), 9),
        (("b",), 10),
        (("c",), 10),
        (("d", "e"), 10),
        (("a", "e"), 10),
    ):
        with pytest.raises(InputError):
            handover.content(tmp_path, *parts, most=most)


SHAPES = {
    "id": (["program", "für--program", "20261130-010203-abcd", ""], ["a.lock", "a.", "..", "a..b", ".x", "a/b", "a\n", "a b", "-->", "a\u200b"]),
    "branch": (["main", "feature/x", "1/merge", "für", ""], ["main\n", "a b", "a..b", "a.lock", "/a", "a/", "a//b", "-x", "a^", "a~1", "a:b", "@", "x/.y", "a@{1}", "a\\b"]),
    "metric": (["val_bpb", "acc@5", "a/b-c"], ["val bpb", "x\n", "1x", "`x`", ""]),
    "frozen": (["", "0123456789abcdef"], ["x", "ab\n", "A" * 16, "a" * 65]),
    "base": (["a" * 40, ""], ["a b", "a\n", "a/b", "a" * 65]),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_what_names_something_has_a_shape(name: str) -> None:
    good, bad = SHAPES[name]
    facts: dict[str, object] = {"id": "x", "started": 1.0, "base": "a" * 40}
    for value in good:
        Run.model_validate(facts | {name: value})
    for value in bad:
        with pytest.raises(ValidationError):
            Run.model_validate(facts | {name: value})
