"""What the reports show, as plain rows: experiments, proven changes, and results.tsv.

Reads the run state only. No layout (body.py, html.py) and no picture (plot.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from autoresearch_action.ledger import RunState
from autoresearch_action.records import Experiment, Verdict
from autoresearch_action.text import cell, line, signed
from autoresearch_action.workspace.patch import PatchRefused, Touched, read

# Of the latest experiments in a report; results.tsv has them all
MOST_ROWS = 300


@dataclass(frozen=True)
class Row:
    """One experiment as the tables show it. `change`: the metric against the incumbent of that
    moment, a search estimate.
    """

    number: int
    commit: str
    value: float | None
    change: float | None
    spread: float | None
    status: str
    reason: str
    description: str
    agent: str
    runs: int
    seconds: float
    memory_gb: float
    usd: float


@dataclass(frozen=True)
class Change:
    """One proven change: a commit of the pull request."""

    number: int
    commit: str
    description: str
    hypothesis: str
    expected: str
    agent: str
    # What the search knew of it when it was kept
    reason: str
    change: float | None
    spread: float | None
    # Path, lines added, lines removed
    files: tuple[tuple[str, int, int], ...]
    patch: str


def row(verdict: Verdict, metric: str, sign: int) -> Row:
    # Of the card, else of the processes
    printed = (verdict.metrics.get(f"peak_{what}_mb") for what in ("vram", "memory", "rss"))
    memory = next((mb for mb in printed if mb), 0.0) / 1024
    return Row(
        number=verdict.number,
        commit=verdict.commit[:7],
        value=verdict.metrics.get(metric),
        change=None if verdict.estimate is None else sign * verdict.estimate,
        spread=verdict.spread,
        status=verdict.status,
        reason=verdict.reason,
        description=verdict.description,
        agent=verdict.agent,
        runs=verdict.runs,
        seconds=verdict.seconds,
        memory_gb=memory,
        usd=verdict.usd,
    )


def rows(experiments: Iterable[Experiment], metric: str, sign: int) -> list[Row]:
    """The rows of all experiments that have a verdict."""
    return [row(e.verdict, metric, sign) for e in experiments if e.verdict is not None]


def changes(run_state: RunState) -> list[Change]:
    """The proven changes in order; empty where nothing was proven."""
    assert run_state.run is not None
    sign = 1 if run_state.run.goal == "maximize" else -1
    commits = (run_state.facts.get("branch") or {}).get("commits", {})
    found = []
    for path in run_state.proven():
        number = int(path.stem.partition("-")[2])
        experiment = run_state.experiments[number]
        proposal, verdict = experiment.proposal, experiment.verdict
        patch = path.read_text("utf-8", "surrogateescape")
        found.append(
            Change(
                number=number,
                commit=commits.get(str(number), experiment.commit)[:7],
                description=experiment.description,
                hypothesis=proposal.hypothesis if proposal else "",
                expected=proposal.expected if proposal else "",
                agent=proposal.agent if proposal else "",
                reason=verdict.reason if verdict else "",
                change=sign * verdict.estimate
                if verdict and verdict.estimate is not None
                else None,
                spread=verdict.spread if verdict else None,
                files=tuple(diffstat(patch)),
                patch=patch,
            )
        )
    return found


def diffstat(patch: str) -> list[Touched]:
    """The files of a diff; none where it is no diff as git writes it."""
    try:
        return read(patch)
    except PatchRefused:
        return []


def expectations(experiments: Iterable[Experiment]) -> list[tuple[str, str]]:
    """How well each agent's expected gains held: (agent, in words), for those that gave numbers."""
    found: dict[str, list[tuple[float, float]]] = {}
    for experiment in experiments:
        proposal, verdict = experiment.proposal, experiment.verdict
        measured = verdict.estimate if verdict else None
        if proposal and proposal.predicted is not None and measured is not None:
            found.setdefault(proposal.agent, []).append((proposal.predicted, measured))
    return [(agent, _held(pairs)) for agent, pairs in found.items()]


def _held(pairs: list[tuple[float, float]]) -> str:
    """Of (expected, measured) gains, > 0 better; the latter by the search."""
    expected, measured = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    half = sum(gain >= wanted / 2 for wanted, gain in pairs)
    told = f"gains of {signed(expected, 3)} on average, measured {signed(measured, 3)}"
    return f"{told}; {half} of {len(pairs)} gave at least half of what was expected"


def total(stats: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Diffstats added up by path."""
    sums: dict[str, tuple[int, int]] = {}
    for path, added, removed in stats:
        before = sums.get(path, (0, 0))
        sums[path] = (before[0] + added, before[1] + removed)
    return [(path, *counts) for path, counts in sums.items()]


def results_tsv(run_state: RunState) -> str:
    """The five columns that people already grep for: commit, metric, memory_gb, status,
    description.
    """
    assert run_state.run is not None
    metric, sign = run_state.run.metric, 1 if run_state.run.goal == "maximize" else -1
    lines = [f"commit\t{line(metric)}\tmemory_gb\tstatus\tdescription"]
    for verdict in run_state.verdicts():
        shown = row(verdict, metric, sign)
        # Stopped before a value; a crash, as autoresearch writes it
        value = "nan" if shown.status == "discard" else "0.000000"
        value = value if shown.value is None else f"{shown.value:.6f}"
        cells = (
            shown.commit,
            value,
            f"{shown.memory_gb:.1f}",
            shown.status,
            cell(shown.description),
        )
        lines.append("\t".join(map(line, cells)))
    return "\n".join(lines) + "\n"
