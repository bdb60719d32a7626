"""The pull request's words: title, body and step summary, from the ledger alone.

Everything a model wrote goes through text.py. The body is kept below its limit by leaving out
details, last ones first; the verdict always stays.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from autoresearch_action import text
from autoresearch_action.brief.metric_names import taken_for
from autoresearch_action.ledger import RunState
from autoresearch_action.records import Confirmation, Run
from autoresearch_action.report import tables
from autoresearch_action.report.compared import Number, numbers
from autoresearch_action.report.reproduce import commands as commands_again
from autoresearch_action.report.tables import Change, Row
from autoresearch_action.trials import FLAKY, checkpoint

# Characters; GitHub refuses 65,536
BODY_LIMIT = 58_000
# Characters of a step summary, four bytes each at most; GitHub takes 1 MiB
SUMMARY_LIMIT = 250_000
# Of a patch's header: what it does to files beside changing their lines
FILES = {
    "new file mode": "adds a file",
    "deleted file mode": "deletes a file",
    "rename from": "renames a file",
}
# Of the Mermaid chart
POINTS = 100


@dataclass(frozen=True)
class Detail:
    """How much is told. Tried from the fullest down until the body fits."""

    rows: int
    prose: int
    why: int
    words: int


DETAILS = (
    Detail(300, 12_000, 4_000, 300),
    Detail(120, 6_000, 1_500, 200),
    Detail(40, 2_000, 600, 140),
    Detail(10, 300, 200, 80),
)


def title(run_state: RunState) -> str:
    """One line without Markdown: what was claimed, or that nothing was."""
    run, confirmation = _run(run_state), run_state.confirmation
    if confirmation is None or not confirmation.held:
        return text.plain(f"autoresearch: no confirmed change of {run.metric}")
    word = " (self-reported)" if self_reported(run) else ""
    return text.plain(f"autoresearch{word}: {_change(run, confirmation)}")


def body(
    run_state: RunState,
    *,
    notes: tuple[str, ...] = (),
    picture: str = "",
    commits: Mapping[int, str] | None = None,
    head: str = "",
    waits: bool = False,
    limit: int = BODY_LIMIT,
) -> str:
    """The body of the pull request. `notes` (of the publisher) stand below the verdict; `picture`
    is an address, `commits` the published commits by experiment and `head` the last of them;
    `waits`: its checks want an approval.
    """
    written = ""
    for detail in DETAILS:
        facts = _facts(run_state, detail, notes, picture, commits or {}, head)
        written = str(
            _template().render(facts | {"next": _next(run_state, facts["changes"], waits)})
        )
        if len(written) <= limit:
            return written
    return (
        written[: limit - 200].rsplit("\n", 1)[0]
        + "\n\n… cut here: the whole of it is in report.html.\n"
    )


def summary(run_state: RunState) -> str:
    """The step summary: the body, with room for more of it."""
    return body(run_state, limit=SUMMARY_LIMIT)


def _run(run_state: RunState) -> Run:
    assert run_state.run is not None
    return run_state.run


def verdict_line(run_state: RunState) -> str:
    """The verdict in one line of plain text."""
    run, confirmation = _run(run_state), run_state.confirmation
    if confirmation is None:
        return (
            "No verdict: the run ended before anything could be confirmed."
            if run_state.stop_reason
            else "No verdict yet: the run goes on."
        )
    if not confirmation.held:
        return confirmation.reason or "Nothing held."
    data = " and held-out data" if run.holdout else ""
    over = f"{_runs(run_state, confirmation)} on fresh seeds{data}"
    if confirmation.test == "exact":
        over = "an exact count on this instance"
    return f"{_change(run, confirmation)}, over {over}, re-measured on this head."


def _runs(run_state: RunState, confirmation: Confirmation) -> str:
    """How many runs the proof has."""
    if "two-sample" in (confirmation.test or ""):
        sides = [run.trial.side for run in run_state.proof]
        return f"{sides.count('base')} and {sides.count('head')} runs"
    return f"{confirmation.pairs} pair{'s' * (confirmation.pairs != 1)} of runs"


def _change(run: Run, confirmation: Confirmation) -> str:
    """val_bpb 2.140 → 2.080 (−2.9 %, 95 % interval −3.8 % to −2.0 %)."""
    before, after, estimate = confirmation.baseline, confirmation.best, confirmation.estimate
    assert before is not None and after is not None and estimate is not None
    sign, scale = 1 if run.goal == "maximize" else -1, abs(before)
    ends, half = _ends(confirmation), _half(confirmation)

    def percent(gain: float) -> str:
        if not scale:
            return text.rounded(sign * gain, half, plus=True)
        if not half:
            return f"{text.signed(100 * sign * gain / scale, 3)} %"
        return f"{text.rounded(100 * sign * gain / scale, 100 * half / scale, plus=True)} %"

    inside = percent(estimate)
    if ends:
        first, last = sorted(ends, key=lambda gain: sign * gain)
        inside += f", 95 % interval {percent(first)} to {percent(last)}"
    told = (text.rounded(value, half) for value in (before, after))
    return f"{run.metric} {' → '.join(told)} ({inside})"


def _ends(confirmation: Confirmation) -> list[float]:
    """Of the interval; none of an exact count."""
    ends = [end for end in (confirmation.low, confirmation.high) if end is not None]
    return ends if len(ends) == 2 and confirmation.test != "exact" else []


def _half(confirmation: Confirmation) -> float:
    """Half of the interval's width, 0 where there is none: no digit beyond it means anything."""
    ends = _ends(confirmation)
    return (max(ends) - min(ends)) / 2 if ends else 0.0


def _facts(
    run_state: RunState,
    detail: Detail,
    notes: tuple[str, ...],
    picture: str,
    commits: Mapping[int, str],
    head: str,
) -> dict[str, Any]:
    run, confirmation = _run(run_state), run_state.confirmation
    sign = 1 if run.goal == "maximize" else -1
    proven, told = tables.changes(run_state), numbers(run_state)
    # One row an idea: under the number that it was last carried on as
    recent = run_state.recent(tables.MOST_ROWS)
    last = [experiment for experiment in recent if experiment.number not in run_state.carried]
    rows = tables.rows(last, run.metric, sign)
    stats = tables.total(stat for change in proven for stat in change.files)
    shown = (
        [r for r in rows if r.number == 0 or r.status == "keep"]
        if detail.rows < 20
        else rows[-detail.rows :]
    )
    return {
        "run_state": run_state,
        "run": run,
        "confirmation": confirmation,
        "verdict": verdict_line(run_state),
        "adjusted": _adjusted(run, confirmation),
        "warnings": warnings(run_state),
        "notes": notes,
        "picture": text.image(f"{run.metric} by experiment", picture),
        "stats": stats,
        "added": sum(added for _, added, _ in stats),
        "removed": sum(removed for _, _, removed in stats),
        "changes": proven,
        "commits": commits,
        "rows": shown,
        "hidden": len(run_state.statuses.keys() - run_state.carried) - len(shown),
        "numbers": told[: detail.rows],
        "risks": risks(run_state, proven, told),
        "chart": _chart(rows, run),
        "judged": judged(run_state),
        "commands": commands_again(run_state, head),
        "environment": {key: value for key, value in run.environment.items() if value},
        "cost": cost(run_state),
        "prose": "" if run.visibility == "hash" else run.prose or "(empty)",
        "detail": detail,
        "marker": marker(run, confirmation, head),
    }


def marker(run: Run, confirmation: Confirmation | None, head: str) -> text.Inert:
    """What `publish` reads back from a body: which brief, run, base, tree and head it speaks of."""
    tree = confirmation.tree if confirmation else ""
    told = {"brief": run.brief_id, "run": run.id, "base": run.base, "tree": tree, "head": head}
    return text.Inert(f"<!-- autoresearch {text.comment(json.dumps(told))} -->")


def _adjusted(run: Run, confirmation: Confirmation | None) -> str:
    if (
        confirmation is None
        or not confirmation.held
        or confirmation.adjusted is None
        or confirmation.test == "exact"
    ):
        return ""
    change = text.rounded(run.sign * confirmation.adjusted, _half(confirmation), plus=True)
    return f"Adjusted for having passed the test, the estimate is {change}."


def self_reported(run: Run) -> bool:
    """Whether the changed program itself says what it scores: its claim is its own word."""
    return not run.contract.get("evaluate")


def warnings(run_state: RunState) -> list[str]:
    """What a reviewer must know before believing anything else."""
    run = _run(run_state)
    found = []
    level = run.environment.get("sandbox", "")
    if level != "full":
        found.append(
            f"Trials ran with {'reduced isolation' if level == 'reduced' else 'no isolation'}:"
            " a candidate could have cheated."
        )
    if self_reported(run):
        found.append(
            "The metric is self-reported: the changed program printed it itself. Give the"
            " brief a scorer (evaluate)."
        )
    if (run_state.facts.get("noise") or {}).get("blind"):
        found.append("Seeds have no effect on this program, so luck cannot be told from a gain.")
    if odd := sum(verdict.suspicious for verdict in run_state.verdicts()):
        found.append(
            f"{odd} experiment{'s' * (odd != 1)} did to the scorer what no honest one does, and"
            f" {'were' if odd != 1 else 'was'} refused: look at what proposes them."
        )
    if not run_state.finished:
        found.append("The run was interrupted; what is proven here was proven before.")
    return found


def risks(run_state: RunState, proven: list[Change], told: list[Number]) -> list[str]:
    """What to look at before merging, beside the metric, which is the first of `told`."""
    confirmation, found = run_state.confirmation, list[str]()
    if moved := [number.name for number in told[1:] if number.clear]:
        found.append(f"Beside the metric these moved beyond their noise: {', '.join(moved)}.")
    for change in proven:
        for word, does in FILES.items():
            if re.search(rf"^{word}", change.patch, re.MULTILINE):
                found.append(f"Experiment {change.number} {does}.")
    for note in confirmation.notes if confirmation else []:
        if "over its limit" in note:
            found.append(f"{note[0].upper()}{note[1:]}.")
    if (run_state.facts.get("noise") or {}).get("reseed"):
        found.append("Literal seeds were replaced in the trials' copies, not in what is published.")
    runs = [run for number in (0, *run_state.kept) for run in run_state.experiments.runs(number)]
    runs += [run for claimed in run_state.confirm_runs.values() for run in claimed]
    flaky = {note for run in runs for note in run.notes if note.startswith(FLAKY)}
    found += [f"On one and the same tree {note}" for note in sorted(flaky)]
    return found


def judged(run_state: RunState) -> list[tuple[str, str]]:
    """How it was judged: (what, how) in plain text."""
    run, confirmation = _run(run_state), run_state.confirmation
    noise = run_state.facts.get("noise") or {}
    found = [
        (
            "frozen",
            f"everything but {', '.join(run.contract.get('edit', ['train.py']))}; sha256"
            f" {run.frozen[:16]}",
        )
    ]
    if run.data:
        found.append(("data", f"sha256 {run.data[:16]}"))
    kind, why = taken_for(run.metric, run.contract.get("measures"))
    found.append(("metric", f"{run.metric}, measured as {kind}: {why}"))
    if run.checkpoint:
        found.append(
            (
                "checkpoint",
                f"{checkpoint.shown(run.checkpoint.get('uri', ''))}, sha256"
                f" {run.checkpoint.get('sha256', '')[:16]}",
            )
        )
    if "time-budget" in run.contract:
        found.append(
            (
                "time",
                f"{run.contract['time-budget']:g} s of training for every run, measured from"
                " outside",
            )
        )
    if noise:
        sigma = (
            "an exact metric"
            if noise.get("exact")
            else f"σ = {noise['sigma']:.3g} over {noise['runs']} runs of the base"
        )
        found.append(
            ("noise", sigma + ("; literal seeds were replaced" if noise.get("reseed") else ""))
        )
    if confirmation and confirmation.test:
        level = (
            f"; p = {confirmation.p_value:.2g} at level {confirmation.level:.2g}"
            if confirmation.p_value is not None
            else ""
        )
        found.append(
            (
                "test",
                f"{confirmation.test} over {_runs(run_state, confirmation)}, base and head in"
                f" random order{level}",
            )
        )
        found.append(("interval", f"over {confirmation.over or 'seeds'}"))
    if run_state.facts.get("claims"):
        found.append(("claims", str(run_state.facts["claims"])))
    found += [("note", note) for note in (confirmation.notes if confirmation else [])]
    audit = run_state.facts.get("audit") or {}
    if audit.get("kept"):
        found.append(
            (
                "early stops",
                f"audited on {audit['looks']} first looks, {audit['lost']} of {audit['kept']}"
                " winners would have been lost",
            )
        )
    base = run_state.experiments[0].verdict if 0 in run_state.experiments else None
    if base and "environment" in base.hashes:
        found.append(("environment", f"sha256 {base.hashes['environment']}"))
    found.append(("sandbox", run.environment.get("sandbox", "unknown")))
    return found


def cost(run_state: RunState) -> list[tuple[str, str]]:
    run, usage = _run(run_state), run_state.usage
    hours = run_state.device_seconds / 3600
    rate = run.budget.get("gpu_usd_per_hour") or 0.0
    rest = len(run_state.statuses) - (0 in run_state.statuses) - run_state.tried
    found = [
        (
            "experiments",
            f"{run_state.tried}, in {run_state.trials} trials"
            + (f"; {rest} more carried on or never measured" if rest else ""),
        )
    ]
    if usage.calls:
        tokens = (
            f"{usage.input_tokens:,} in, {usage.output_tokens:,} out,"
            f" {usage.cache_read_tokens:,} read from the cache"
        )
        found.append(("model", f"{usage.calls} calls, {tokens}, {run_state.usd:.2f} dollars"))
    else:
        found.append(("model", "none"))
    for agent, held in tables.expectations(run_state.recent(tables.MOST_ROWS)):
        found.append((f"expectations of {agent}", held))
    cut = (
        f", {run_state.cut_seconds / 3600:.2f} of them in trials that were cut off"
        if run_state.cut_seconds >= 36
        else ""
    )
    found.append(
        ("device", f"{hours:.2f} hours{cut}" + (f", {hours * rate:.2f} dollars" if rate else ""))
    )
    found.append(
        (
            "wall clock",
            text.duration(max(0.0, (run_state.stopped or run_state.last) - run_state.first)),
        )
    )
    found.append(("stopped", run_state.stop_reason or "it did not"))
    return found


def _chart(rows: list[Row], run: Run) -> str:
    """The incumbent's search value by experiment, as Mermaid; the table says the same."""
    best, points = None, []
    for r in rows:
        if r.status == "keep" and r.value is not None:
            best = r.value
        if best is not None and math.isfinite(best):
            points.append((r.number, best))
    if len(points) < 2:
        return ""
    step = -(-len(points) // POINTS)
    points = points[::step] + ([points[-1]] if (len(points) - 1) % step else [])
    values = [value for _, value in points]
    margin = (max(values) - min(values)) * 0.1 or abs(values[0]) * 0.01 or 1.0
    return "\n".join(
        [
            "xychart-beta",
            f'  title "{text.label(run.metric)} of the incumbent, search estimates"',
            f'  x-axis "experiment" {points[0][0]} --> {points[-1][0]}',
            f'  y-axis "{text.label(run.metric)}" {min(values) - margin:.6g} -->'
            f" {max(values) + margin:.6g}",
            f"  line [{', '.join(f'{value:.6g}' for value in values)}]",
        ]
    )


def _next(run_state: RunState, proven: list[Change], waits: bool) -> list[str]:
    if not run_state.improved:
        return [
            "Read the table for what was tried; the next run's agents are shown it.",
            "Say in the brief what to try instead, or give it more time: `autoresearch"
            " measure` says what a gain of 1 % needs.",
        ]
    advice = ["Read the diff: it is all that this pull request changes."]
    if waits:
        advice.append(
            "Approve its checks: opened with `GITHUB_TOKEN`, it has them wait for that; with"
            " an App token they start by themselves."
        )
    if len(proven) > 1:
        advice.append(
            "Each change is one commit, so that you can drop one; measure what is left by"
            " running again before you merge it."
        )
    advice.append(
        "Merge it, and the next run starts from here. Close it, and say in the brief what was"
        " wrong with it."
    )
    advice.append("Push to the branch, and the next run leaves it alone and opens another.")
    return advice


@lru_cache(maxsize=1)
def _template() -> Any:
    from autoresearch_action.report.templates import environment

    made = environment(html=False)
    made.filters |= {
        "inline": text.inline,
        "quote": text.quote,
        "fence": text.fence,
        "number": lambda value: text.Inert(text.number(value)),
        "rounded": lambda value, half: text.Inert(text.rounded(value, half)),
        "within": lambda value, half: text.Inert(text.rounded(value, half, plus=True)),
        "duration": lambda seconds: text.Inert(text.duration(seconds)),
    }
    return made.get_template("pull_request.md.j2")
