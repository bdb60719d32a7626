"""The reports: harmless whatever a model writes, bounded whatever the size, and readable in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import studies
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_action import brief as briefs
from autoresearch_action import report, text
from autoresearch_action.brief import Brief
from autoresearch_action.budget import Budget
from autoresearch_action.commands import resume
from autoresearch_action.commands import run as run_command
from autoresearch_action.github import outputs
from autoresearch_action.report import body
from autoresearch_action.report.live import View
from autoresearch_action.workspace.trees import Workspace

HOSTILE = (
    "@octocat fixes #12 octo/repo#3 GH-4 https://evil.example www.evil.example ![x](http://evil.example/p.png) [y](http://evil.example)"
    " <script>document.title = 'hacked'</script><img src=x onerror=alert(1)> <!-- hidden --> | cell | `code` ``` $x$ **bold** \u202e\u200b\x1b[31m"
    "\n::set-output name=improved::true\n##[error]x\n```\n</details>\n# Heading\n| a | b |"
)


def outside_fences(markdown: str) -> str:
    """What GitHub renders as Markdown: all but fenced blocks."""
    kept, fence = [], ""
    for line in markdown.split("\n"):
        mark = re.match(r"(`{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif fence and re.fullmatch(rf"{fence}`*\s*", line):
            fence = ""
        elif not fence:
            kept.append(line)
    assert not fence, "a fence was left open"
    return "\n".join(kept)


def test_the_words_of_a_model_do_nothing_in_a_pull_request(tmp_path: Path) -> None:
    run_state = studies.make(tmp_path, words=HOSTILE)
    shown = outside_fences(body.body(run_state))
    shown = re.sub(r"^<!-- autoresearch \{.*\} -->$", "", shown, count=1, flags=re.MULTILINE)
    for harm in (
        "@octocat",
        "#12",
        "#3",
        "GH-4",
        "https://evil",
        "www.evil",
        "![",
        "<script",
        "<img",
        "<!--",
        "\u202e",
        "\u200b",
        "\x1b",
        "> # Heading",
    ):
        assert harm not in shown, harm
    assert not re.search(r"(?<!\\)\]\(", shown), "a link"
    for word in ("octocat", "evil", "cell", "code"):
        assert word in shown, f"{word} was to be shown, not removed"
    assert shown.count("</details>") == shown.count("<details>")
    table = [
        line for line in shown.split("## All experiments")[1].splitlines() if line.startswith("|")
    ]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {8}, (
        "a cell broke out of its row"
    )


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300))
def test_inline_and_fence_hold_any_text(words: str) -> None:
    line = text.inline(words)
    assert (
        "\n" not in line
        and not re.search(r"(?<!\\)[|`\[\]]", line)
        and "<" not in line
        and not re.search(r"[@#]\w", line)
    )
    assert outside_fences(f"{text.fence(words)}\nend") == "end"
    assert not re.search(r"(?<!\\)(?:\\\\)*\\$", line), "an escape that would swallow what follows"


def test_the_body_is_bounded_and_keeps_its_verdict(tmp_path: Path) -> None:
    run_state = studies.make(
        tmp_path,
        count=400,
        words="A long description that goes on, " * 20,
        prose="Prose. " * 60_000,
    )
    for limit in (body.BODY_LIMIT, 9_000, 2_000):
        told = body.body(run_state, limit=limit)
        assert len(told) <= limit and "re-measured on this head" in told.split("## Scope")[0]
    assert len(body.summary(run_state).encode()) < 1 << 20
    report.write(tmp_path, run_state)
    assert (tmp_path / "report.html").stat().st_size < 5_000_000
    assert len((tmp_path / "results.tsv").read_text().splitlines()) == 402


def test_a_private_brief_stays_private(tmp_path: Path) -> None:
    run_state = studies.make(
        tmp_path, words="x", prose="The secret direction.", visibility="hash", brief_hash="f" * 64
    )
    report.write(tmp_path, run_state)
    for name in ("PULL_REQUEST.md", "report.html"):
        told = (tmp_path / name).read_text()
        assert "secret direction" not in told and "f" * 64 in told


def test_the_window_stands_there_and_a_signed_address_does_not(tmp_path: Path) -> None:
    """A window that happens to be the default one, and a checkpoint's address with a password and a signature."""
    home = tiny.repository(
        tmp_path / "home", program=tiny.PROGRAM.replace("timeout: 20", "time-budget: 300")
    )
    options = run_command.Options(
        Path("program.md"),
        None,
        ("optuna",),
        1,
        5,
        1,
        0,
        None,
        "auto",
        "local",
        None,
        tmp_path,
        False,
    )
    brief = briefs.read(Path("program.md"), home)
    machine = SimpleNamespace(environment={"sandbox": "full"})
    given = {
        "uri": "https://user:pw@host/m.pt?X-Amz-Signature=secret#x",
        "path": "/m.pt",
        "sha256": "0" * 64,
    }
    run = run_command._describe(options, brief, Workspace(home, tmp_path / "space", brief), machine)  # type: ignore[arg-type]
    run = run.model_copy(update={"checkpoint": resume.recorded(given)})
    told = body.body(studies.make(tmp_path / "state", **run.model_dump()))
    assert (
        "300 s of training for every run" in told
        and "AUTORESEARCH_TIME_BUDGET=300 python score.py" in told
    )
    assert "m.pt, sha256 0000" in told
    for text_ in (told, (tmp_path / "state" / "ledger.jsonl").read_text()):
        assert "secret" not in text_ and "pw@" not in text_


def test_outputs_cannot_be_forged_and_notes_are_no_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_state = studies.make(tmp_path / "state", words=HOSTILE, held=False)
    run_state.stop_reason = "x\nimproved=true\nimproved<<EOF\ntrue\nEOF"
    environ = {
        "GITHUB_OUTPUT": str(tmp_path / "out"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
    }
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    outputs.write(run_state, environ)
    values, lines = {}, iter((tmp_path / "out").read_text().splitlines())
    for line in lines:
        name, _, mark = line.partition("<<")
        values[name] = "\n".join(iter(lambda mark=mark: next(lines), mark))
    assert (
        values["improved"] == "false"
        and values["kept"] == "0"
        and values["experiments"] == "20"
        and "improved=true" in values["stop-reason"]
    )
    commands = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.lstrip().startswith("::") or "##[" in line
    ]
    assert (
        all(re.match(r"::(notice|warning) title=autoresearch::", line) for line in commands)
        and len(commands) >= 1
    )
    assert (
        sum("::Kept, not proven: " in line for line in commands) == 3
        and sum("::notice" in line for line in commands) == 4
    )

    view = View(Brief(run="true", path=Path("program.md"), directory=tmp_path), Budget(1, 1, 1))
    view.note(HOSTILE)
    view.close()
    (line,) = capsys.readouterr().out.splitlines()
    assert re.match(r"\[ +\d+:\d\d\] ", line) and "##[" not in line and "\x1b" not in line


def browser() -> str:
    found = next(
        (
            path
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (path := shutil.which(name))
        ),
        "",
    )
    if not found:
        pytest.skip("Chromium is not installed and could not be")
    return found


def test_the_page_in_a_real_browser(tmp_path: Path) -> None:
    report.write(tmp_path, studies.make(tmp_path, words=HOSTILE))
    page = f"file://{tmp_path / 'report.html'}"
    command = [
        browser(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    dom = subprocess.run(
        [*command, "--dump-dom", page], check=True, capture_output=True, text=True, timeout=90
    ).stdout
    assert "<script" not in dom and "hacked</title>" not in dom and dom.count("<img") == 1
    assert dom.count('class="n"><a href="#e') == 20 and dom.count("<details") >= 21
    shot = tmp_path / "shot.png"
    subprocess.run(
        [*command, "--window-size=1200,1600", f"--screenshot={shot}", page],
        check=True,
        capture_output=True,
        timeout=90,
    )
    from matplotlib.image import imread

    pixels = imread(shot)[..., :3]
    green = abs(pixels - [0x1A / 255, 0x7F / 255, 0x37 / 255]).max(axis=2) < 0.02
    assert green.sum() > 300, "the staircase is not to be seen"
