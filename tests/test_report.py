"""The reports: harmless whatever a model writes, bounded whatever the size, and readable in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_origin

import pytest
import studies
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pydantic import BaseModel
from test_cli import autoresearch

from autoresearch_action import brief as briefs
from autoresearch_action import report, text
from autoresearch_action.brief import Brief
from autoresearch_action.budget import Budget
from autoresearch_action.commands import resume
from autoresearch_action.commands import run as run_command
from autoresearch_action.github import outputs
from autoresearch_action.ledger import RunState
from autoresearch_action.report import body, html, plot, tables
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


# -- every field of a ledger at once, whoever adds one, in every place where it is shown

EVIL = (
    "`code` ``` ~~~ -->\n\n<img src=x onerror=alert(1)> @octocat fixes #1 GH-4 [y](https://evil.example) ![x](http://evil.example/p.png)"
    " | cell | ${{ secrets.X }} \u200b\u202e\x1b[31m $x$ \" ' --> <script>x</script>\n# Heading\n```\n~~~\n</details></pre></title>\n::set-output name=improved::true\n"
    "##[error]x\n::add-mask::a\nCo-authored-by: Eve <eve@evil.example>\n\n- [ ] task\n1. one\n[ref]: https://evil.example\n| a |\n| - |\nAutoresearch-Run: other\n[skip ci]"
)
GRAMMAR = {"details", "summary"}


def spoilt(value: Any, evil: str) -> Any:
    """`value` with every text in it replaced, names of entries too; a word of a fixed list stays, as its type does not take another."""
    if isinstance(value, BaseModel):
        fixed = {
            name
            for name, field in type(value).model_fields.items()
            if get_origin(field.annotation) is Literal
        }
        update = {
            name: spoilt(getattr(value, name), evil)
            for name in type(value).model_fields
            if name not in fixed
        }
        if hasattr(value, "metrics"):
            update["metrics"] = {evil: 1.0, "val_bpb": 1.0}
        return value.model_copy(update=update)
    if isinstance(value, str):
        return evil
    if isinstance(value, dict):
        return {key: spoilt(inner, evil) for key, inner in value.items()} | {evil: evil}
    if isinstance(value, list):
        return [spoilt(inner, evil) for inner in value]
    return value


def poisoned(folder: Path, evil: str, monkeypatch: pytest.MonkeyPatch) -> RunState:
    """A run as no reader would let it in: each text of each record says `evil`."""
    run_state = studies.make(folder)
    experiments = {
        number: spoilt(run_state.experiments[number], evil) for number in run_state.experiments
    }
    run = run_state.run
    assert run is not None
    filled = run.model_copy(
        update={
            "agents": ["x"],
            "checkpoint": {"uri": "x", "sha256": "x"},
            "data": "x",
            "repository": "o/r",
        }
    )
    contract = {
        "edit": [evil],
        "setup": evil,
        "check": evil,
        "run": evil,
        "evaluate": evil,
        "time-budget": 5.0,
    }
    run_state.run = spoilt(filled, evil).model_copy(update={"contract": contract, "budget": {}})
    monkeypatch.setattr(type(run_state.experiments), "__getitem__", lambda _, n: experiments[n])
    run_state.confirmations = [spoilt(one, evil) for one in run_state.confirmations]
    run_state.facts |= {
        "claims": evil,
        "branch": {"name": evil, "commits": {"1": evil}},
        "audit": {"looks": 3, "kept": 2, "lost": 0},
    }
    run_state.stop_reason, run_state.messages = evil, [evil]
    for (stage, _), runs in list(run_state.confirm_runs.items()):
        printed = [run.model_copy(update={"metrics": {evil: run.value}}) for run in runs]
        run_state.confirm_runs[stage, evil] = printed
    monkeypatch.setattr(run_state, "verdicts", lambda: (e.verdict for e in experiments.values()))
    return run_state


class Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.comments: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        self.tags[f"/{tag}"] += 1

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


def tokens(markdown: str) -> list[Token]:
    found = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    return [inner for token in found for inner in (token, *(token.children or []))]


def harmless(markdown: str, pictures: int = 0) -> list[Token]:
    """What a reader of Markdown finds in it holds nothing that works by itself."""
    found = tokens(markdown)
    kinds = Counter(token.type for token in found)
    assert kinds["image"] == pictures
    assert not kinds["link_open"]
    assert not [token for token in found if token.type == "code_block"]
    pages = [Page(token.content) for token in found if token.type in ("html_block", "html_inline")]
    assert {tag.removeprefix("/") for page in pages for tag in page.tags} <= GRAMMAR
    assert not {name for page in pages for name in page.attributes}
    assert sum(len(page.comments) for page in pages) == 1, "the marker"
    shown = "\n".join(token.content for token in found if token.type in ("text", "html_block"))
    assert not re.search(
        r"[@#]\w|\bGH-\d|://|www\.|[\u200b\u202e\x1b]",
        re.sub(r"<!--.*?-->", "", shown, flags=re.DOTALL),
    )
    return found


def test_no_field_of_a_ledger_does_anything_in_a_pull_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_state = poisoned(tmp_path, EVIL, monkeypatch)
    told = body.body(
        run_state,
        notes=(EVIL,),
        picture=f"https://github.example/{EVIL}.png",
        commits={1: EVIL},
        head=EVIL,
        limit=10**6,
    )
    found = harmless(told, pictures=1)
    assert [token.info for token in found if token.type == "fence"] == ["mermaid", "sh", "markdown"]
    chart, commands, _ = (token.content for token in found if token.type == "fence")
    assert [len(re.findall('"', line)) for line in chart.splitlines()] == [0, 2, 2, 2, 0]
    assert "octocat" in commands, "shown, not removed"
    heads = [
        token.content
        for before, token in zip(found, found[1:], strict=False)
        if before.type == "heading_open"
    ]
    assert heads == [
        "Numbers",
        "Changes",
        "What you can do next",
        "All experiments",
        "How it was judged",
        "Reproduce",
        "Cost",
        "The brief",
    ]
    cells = [sum(1 for token in row if token.type == "td_open") for row in rows(found)]
    assert set(cells) == {3, 5, 6, 7}
    assert outdated_marker(told) == {
        "brief": EVIL,
        "run": EVIL,
        "base": EVIL,
        "tree": EVIL,
        "head": EVIL,
    }
    assert "\n" not in body.title(run_state)
    assert not re.search(r"[@#]\w", body.title(run_state))


# What GitHub's Markdown (cmark-gfm) makes a link of by itself, were it not broken up
LINKS = (
    "https://evil.example", "HTTP://evil.example", "ftp://evil.example", "(www.evil.example", "x_www.evil.example", "*WWW.evil.example",
    "~www.evil.example", "eve@evil.example", "eve@_evil.example", "eve@-evil.example", "mailto:eve@_evil.example", "xmpp:eve@evil.example/x",
    "https:\u200b//evil.example", "w\ufe0fww.evil.example", "eve\u034f@evil.example",
)  # fmt: skip


@pytest.mark.parametrize("words", LINKS)
def test_nothing_becomes_a_link_by_itself(words: str) -> None:
    """A joiner behind `://` or `@` alone would do nothing: browsers leave it out of a host's name."""
    for shown in (text.inline(words), text.quote(words), text.plain(words)):
        literal = re.sub(r"\\(?=[^\w\s])", "", shown)
        assert not re.search(r"(?i)://|www\.|@(?!\u2060)", literal), literal


def test_what_is_not_seen_is_not_shown() -> None:
    for letter in "\u034f\u115f\u180b\u2800\u3164\ufe0f\uffa0\U000e0041\U000e0155":
        assert text.line(f"a{letter}b") == "ab"
    assert text.line("für 模型 é é क्ष") == "für 模型 é é क्ष"


def test_a_template_puts_out_no_list_as_it_is() -> None:
    assert "<img" not in str(text.finalized(["<img src=x>"]))
    assert text.finalized(1.5) == 1.5


def test_no_value_keeps_a_run_from_being_shown(tmp_path: Path) -> None:
    """A program prints what it likes, and a mean of it may be anything."""
    for value in (1.7e308, -1.7e308, float("inf"), float("nan"), 5e-324):
        run_state = studies.make(tmp_path / str(value), 5)
        ledger = run_state.path
        told = json.loads(ledger.read_text().splitlines()[-3])
        told |= {"number": 5, "metrics": {"val_bpb": str(value)}, "status": "keep"}
        told = {"event": "verdict", "number": 5, "status": "keep"} | told
        ledger.write_text(ledger.read_text() + json.dumps(told, separators=(",", ":")) + "\n")
        report.write(tmp_path, RunState.of(ledger))
        assert (tmp_path / "progress.png").stat().st_size > 1_000


def test_no_cell_of_the_table_is_a_formula(tmp_path: Path) -> None:
    for words in ("=1+1", "+1", "-1", "@SUM(1)", '"a'):
        run_state = studies.make(tmp_path / str(ord(words[0])), 1, words=words)
        cell = tables.results_tsv(run_state).splitlines()[-1].split("\t")[-1]
        assert cell == f"'{words}"


def rows(found: list[Token]) -> list[list[Token]]:
    """The tokens of each row below a table's head."""
    parts: list[list[Token]] = []
    for token in found:
        if token.type == "tr_open":
            parts.append([])
        elif parts:
            parts[-1].append(token)
    return [part for part in parts if any(token.type == "td_open" for token in part)]


def outdated_marker(told: str) -> dict[str, str]:
    from autoresearch_action.github.outdated import marker

    return marker(SimpleNamespace(body=told))  # type: ignore[arg-type]


def test_no_field_of_a_ledger_does_anything_in_a_page_a_picture_or_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def page(folder: str, evil: str) -> Page:
        run_state = poisoned(tmp_path / folder, evil, monkeypatch)
        experiments = run_state.recent()
        shown = tables.rows(experiments, "val_bpb", 1)
        picture = plot.progress(shown, evil, True, True)
        assert picture.startswith(b"\x89PNG")
        told = html.page(run_state, experiments, shown, picture)
        assert not re.search("[\u200b\u202e\x1b]", told)
        lines = tables.results_tsv(run_state).splitlines()
        assert {line.count("\t") for line in lines} == {4}
        assert len(lines) == 22
        return Page(told)

    evil, plain = page("evil", EVIL), page("plain", "x\n" * (EVIL.count("\n") + 1))
    assert evil.tags == plain.tags
    assert evil.attributes == plain.attributes
    assert evil.comments == plain.comments == []


def test_no_field_of_a_ledger_does_anything_in_a_commit_or_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_state = poisoned(tmp_path, EVIL, monkeypatch)
    (change,) = tables.changes(run_state)
    trailers = {
        "Autoresearch-Brief": EVIL,
        "Autoresearch-Run": EVIL,
        "Autoresearch-Experiment": "1",
    }
    message = text.message(change.description, change.hypothesis, trailers)
    parsed = subprocess.run(
        ["git", "interpret-trailers", "--parse"],
        input=message,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [line.partition(":")[0] for line in parsed.splitlines()] == list(trailers)
    assert len(message.split("\n")[0]) <= 80
    words = message.rpartition("\n\n")[0]
    assert not re.search(r"[@#]\w|\[skip ci|://\w", words)
    signed = text.message("Reviewed-by: Eve", "Signed-off-by : Eve", trailers)
    assert not re.search(r"^\S+-by\s*:", signed, re.MULTILINE)

    environ = {
        "GITHUB_OUTPUT": str(tmp_path / "out"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
    }
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    outputs.write(run_state, environ)
    names, lines = [], iter((tmp_path / "out").read_text().splitlines())
    for line in lines:
        name, _, mark = line.partition("<<")
        names.append(name)
        while next(lines) != mark:
            pass
    assert names == list(outputs.research(run_state))
    told = capsys.readouterr().out.splitlines()
    assert all(re.match(r"::(notice|warning) title=autoresearch::", line) for line in told)
    harmless((tmp_path / "summary").read_text())
    assert not re.search(r"[\r\n]", text.command(EVIL))


CONTEXTS: dict[str, Callable[[str], str]] = {
    "inline": text.inline,
    "quotation": text.quote,
    "image": lambda words: text.image(words, "https://github.example/x.png"),
    "fence": text.fence,
    "template": lambda words: str(text.finalized(words)),
    "cell": lambda words: f"| a | b |\n| - | - |\n| {text.inline(words)} | y |",
}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *"`~*_[]()<>!#@|$\\&-+=.:/\"'{}\n\r\t 1aw\u200b\u202e\u2028\x00\x1b",
                "://",
                "<!--",
                "-->",
                "![",
                "](",
                "@a",
                "#1",
                "www.",
            ]
        ),
        max_size=40,
    ).map("".join)
)
def test_each_context_holds_any_text(words: str) -> None:
    for name, shown in CONTEXTS.items():
        found = Counter(
            token.type for token in tokens(f"before\n\n{shown(words)}\n\nafter <!-- -->")
        )
        assert found["image"] == (name == "image"), name
        assert found["fence"] == (name == "fence"), name
        assert found["html_inline"] == 1, name
        for kind in (
            "link_open",
            "html_block",
            "heading_open",
            "hr",
            "code_block",
            "bullet_list_open",
            "ordered_list_open",
            "code_inline",
        ):
            assert not found[kind], (name, kind)
    assert Page(f"<!-- {text.comment(words)} -->").comments == [f" {text.comment(words)} "]


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


def test_the_commands_of_a_body_measure_what_was_measured(tmp_path: Path) -> None:
    """Run as they stand, they give the proof's own numbers, held-out part included."""
    home = tiny.repository(tmp_path / "home")
    tiny.patch(home, tmp_path / "ideas" / "1.diff", ("WIDTH = 4", "WIDTH = 8"))
    autoresearch(home, "run", "--agent", f"patches:{tmp_path / 'ideas'}", "--max-minutes", "3")
    told = (home / ".autoresearch" / "PULL_REQUEST.md").read_text()
    script = told.split("```sh\n")[1].split("```")[0]
    done = subprocess.run(["sh", "-e", "-c", script], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # The program prints its value, and the scorer then its own
    printed = re.findall(r"^val_bpb: (.*)", done.stdout, re.MULTILINE)[1::2]
    (measured,) = RunState.of(home / ".autoresearch" / "ledger.jsonl").confirm_runs.values()
    assert Counter(printed) == Counter(f"{run.value:.6f}" for run in measured)
    assert len(printed) >= 8


def test_the_body_is_bounded_and_keeps_its_verdict(tmp_path: Path) -> None:
    run_state = studies.make(
        tmp_path,
        count=400,
        words="A long description that goes on, " * 20,
        prose="Prose. " * 60_000,
    )
    for limit in (body.BODY_LIMIT, 9_000, 2_000):
        told = body.body(run_state, limit=limit)
        assert len(told) <= limit and "re-measured on this head" in told.split("## Changes")[0]
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
        "300 s of training for every run" in told and "export AUTORESEARCH_TIME_BUDGET=300" in told
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
