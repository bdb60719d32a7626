"""The digest of evidence: what was measured and what became of each idea, of bounded size.

One sign convention (a gain is positive), no experiment twice, none of the book-keeping of edits
that were carried to another incumbent. Each section has a share of the room; what is latest is told
in full, what is older in a line. `record` is the whole record of one experiment.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from autoresearch_action.agents import Context
from autoresearch_action.agents.numbers import (
    POINTS,
    changes,
    curve_told,
    one_line,
    phases,
    searched,
    told,
    values,
)
from autoresearch_action.records import Experiment, Measurement, Verdict
from autoresearch_action.trials.failed import failing
from autoresearch_action.workspace.patch import PatchRefused, read

# Characters, as are all bounds here
HISTORY = 16_000
# One experiment in a line, and in full
SHORT, FULL = 220, 900
# Of an experiment's whole record
PATCH, TAIL = 12_000, 4_000
# Of a profile that names no functions
PROFILE = 2_000
# Files of the data whose sizes are added up
MOST_FILES = 2_000
# Numbers that the incumbent printed
MOST_NUMBERS = 40
# Standard errors above nothing from which an idea is a near miss
NEAR = 0.7
# A row of misses that is less likely than this is a standstill, by a prior of so many kept and
# rejected ideas
UNLIKELY, PRIOR = 0.05, (1.0, 3.0)
# Runs of each code by which the smallest visible gain is told
RUNS = (1, 2, 4, 8)


@dataclass(frozen=True)
class _Row:
    """An experiment in a line, and in full."""

    short: str
    full: str


def digest(context: Context) -> str:
    """All of it, in at most HISTORY characters."""
    past = _Past(context)
    head = "\n".join(filter(None, past.head()))
    sections = past.sections()
    room = HISTORY - len(head) - sum(len(title) + 60 for title, _, _ in sections) - 40
    parts = [head]
    for title, rows, share in sections:
        lines = _fitting(rows, int(room * share))
        if lines:
            parts.append("\n".join([f"{title}:", *lines]))
    return "<history>\n" + "\n\n".join(parts)[: HISTORY - 30] + "\n</history>"


def _fitting(rows: Sequence[_Row], room: int) -> list[str]:
    """The latest rows that there is room for, as many as can be in full; how many were left out."""
    chosen: list[str] = []
    for row in reversed(rows):
        if room < len(row.short) + 1:
            break
        room -= len(row.short) + 1
        chosen.append(row.short)
    for place, row in enumerate(list(reversed(rows))[: len(chosen)]):
        more = len(row.full) - len(row.short)
        if more <= room:
            room -= more
            chosen[place] = row.full
    left = len(rows) - len(chosen)
    return [*([f"({left} older ones left out)"] if left else []), *reversed(chosen)]


class _Past:
    """What the ledger says, sorted by what it means for the next idea."""

    def __init__(self, context: Context) -> None:
        self.context, self.brief = context, context.brief
        self.by_commit = {e.commit: e for e in context.history if e.commit}
        self.baseline = next((e for e in context.history if e.number == 0), None)
        kept = [e for e in context.history if e.number and _status(e) == "keep"]
        self.incumbent = self.by_commit.get(context.parent) or (kept[-1] if kept else self.baseline)
        carried = {e.origin for e in context.history if e.origin is not None}
        # Its edit goes on under another number
        self.done = [
            e
            for e in context.history
            if e.number and e.verdict is not None and e.number not in carried
        ]

    def head(self) -> Iterable[str]:
        context, standing = self.context, self.context.standing
        kinds = [_kind(e) for e in self.done]
        counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
        so_far = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        yield f"You are asked for experiment #{context.number}. So far: {so_far or 'none'}."
        better = "higher" if self.brief.goal == "maximize" else "lower"
        yield (
            f"Every gain here is in {self.brief.metric}'s unit and > 0 where it is better"
            f" ({better} {self.brief.metric}), with its standard error; what was kept first looks"
            " better than it is."
        )
        yield standing.told()
        yield self.visible()
        yield self.machine()
        yield self.present()
        yield self.profile()
        yield self.stagnation()

    def visible(self) -> str:
        """The smallest gain that so many runs can see."""
        sigma, whose = self.context.noise, "the baseline's runs"
        own = [r.value for r in searched(self.incumbent.runs if self.incumbent else [])]
        mine = [value for value in own if value is not None]
        if len(mine) >= 3 and statistics.stdev(mine) > 0:
            sigma, whose = statistics.stdev(mine), "the present code's runs"
        if not sigma:
            return ""
        seen = ", ".join(f"{2 * sigma * (2 / n) ** 0.5:.2g} with {n}" for n in RUNS)
        return (
            f"Two runs of the same code differ by a standard deviation of {sigma:.3g} ({whose})."
            f" The smallest gain that can be seen, by runs of each code: {seen}. Put small changes"
            " of one kind together until they reach it."
        )

    def machine(self) -> str:
        facts = {
            name: value
            for name, value in self.context.machine.items()
            if name != "autoresearch" and value
        }
        told = [f"{name} {value}" for name, value in facts.items()]
        runs = searched(self.incumbent.runs if self.incumbent else [])
        if runs and runs[-1].pace > 1:
            told.append(f"{runs[-1].pace:g} threads a run")
        told += [f"data {path.name} {_size(path):,.0f} MB" for path in self.brief.data]
        if runs and runs[-1].slot.startswith("cpu"):
            told.append("no GPU, so what the code does on one is never run here")
        return f"Machine: {one_line(', '.join(told), 600)}." if told else ""

    def present(self) -> str:
        """What the code that is shown printed, beside the baseline's."""
        if self.incumbent is None or not searched(self.incumbent.runs):
            return "No baseline yet."
        runs = self.incumbent.runs
        mine, first = values(runs), values(self.baseline.runs if self.baseline else [])
        metric = [run.value for run in searched(runs) if run.value is not None]
        count = f"{len(metric)} run{'s' * (len(metric) != 1)}"
        number = self.incumbent.number
        whose = f"#{number} and what was kept before it" if number else "the baseline"
        lines = [f"The code you see is {whose}; over {count} it gave (± spread between runs):"]
        lines.append(told(self.brief.metric, metric) + self._since(metric))
        others = [name for name in mine if name != self.brief.metric][:MOST_NUMBERS]
        for name in others:
            moved = name in first and statistics.fmean(first[name]) != statistics.fmean(mine[name])
            then = f" (baseline {statistics.fmean(first[name]):.6g})" if moved else ""
            lines.append(told(name, mine[name]) + (then if number else ""))
        lines.append(f"Seconds by phase: {phases(runs)}")
        if course := curve_told(runs):
            lines.append(f"Training loss at {_points()} of the run: {course}")
        notes = list(dict.fromkeys(note for run in runs for note in run.notes))[:4]
        lines += [f"Note: {one_line(note, 160)}" for note in notes]
        return "\n".join(lines)

    def profile(self) -> str:
        """Where the time goes: functions with their shares, else the profile's own words."""
        made, context = self.context.profile, self.context
        if made is None or not made.tail.strip():
            return ""
        own = self.incumbent is not None and made.trial.number == self.incumbent.number
        whose = "the code you see" if own else f"#{made.trial.number}, which came before it"
        hot = [f"{one.share:.1%} {one.name} ({one.file}:{one.line})" for one in context.hot[:12]]
        lines = [one_line(line, 160) for line in hot or made.tail[-PROFILE:].splitlines()]
        what = "share of the time by function, libraries that it called included" if hot else ""
        return "\n".join([f"Profile of {whose}{', ' * bool(what)}{what}:", *lines])

    def stagnation(self) -> str:
        """That the search stands still, where a row of misses is unlikely by what came before."""
        measured = [e for e in self.done if _kind(e) != "unmeasured"]
        places = [place for place, e in enumerate(measured) if _status(e) == "keep"]
        before = places[-1] + 1 if places else 0
        row = len(measured) - before
        share = (len(places) + PRIOR[0]) / (before + sum(PRIOR))
        chance = (1 - share) ** row
        if chance >= UNLIKELY:
            return ""
        kinds = Counter(kind for e in measured if (kind := _details(e).get("kind")))
        files = Counter(path for e in measured for path in touched(e))
        near = [f"#{e.number}" for e in self.done if _kind(e) == "near miss"]
        start = f" start from a near miss ({', '.join(near[-5:])}), or put two together;"
        return (
            f"The search stands still: none of the last {row} ideas was kept, which by the share"
            f" kept before happens in {chance:.1%} of cases. Broaden:{start * bool(near)} take a"
            f" part of the code that was not touched (so far {_counted(files)}); take another kind"
            f" of change (so far {_counted(kinds)}); question what all ideas took for given."
        )

    def _since(self, metric: Sequence[float]) -> str:
        runs = searched(self.baseline.runs if self.baseline else [])
        first = [run.value for run in runs if run.value is not None]
        if not first or not self.incumbent or not self.incumbent.number:
            return ""
        gain = self.brief.sign * (statistics.fmean(metric) - statistics.fmean(first))
        return f" (baseline {statistics.fmean(first):.6g}: a gain of {gain:+.3g} in all)"

    def sections(self) -> list[tuple[str, list[_Row], float]]:
        """(title, rows oldest first, share of the room)."""
        of = {
            kind: [self.row(e) for e in self.done if _kind(e) == kind]
            for kind in ("kept", "open", "refuted", "failed", "unmeasured")
        }
        near = sorted((e for e in self.done if _kind(e) == "near miss"), key=_gain)
        pending = [self.row(e) for e in self.context.pending]
        others = [_line(told) for told in self.context.others()]
        earlier = [_earlier(v) for v in self.context.earlier if v.agent and v.runs]
        lessons = [_line(told) for told in self.context.lessons.get(0, "").split("\n") if told]
        return [
            ("Lessons of earlier runs, and what people wrote", lessons, 0.06),
            ("Kept, in this order, all of it in the code you see", of["kept"], 0.2),
            (
                "Near misses: better than the incumbent of then, not by enough to be kept; another"
                " form of the idea, or two together, may be",
                [self.row(e) for e in near],
                0.16,
            ),
            ("Within the noise: not known either way", of["open"], 0.12),
            ("Refuted: worse", of["refuted"], 0.12),
            (
                "Failed before they gave a number (the idea itself was not tested)",
                of["failed"],
                0.12,
            ),
            (
                "Never measured; they may be proposed again on the present code",
                of["unmeasured"],
                0.06,
            ),
            ("Under way, no verdict yet: propose something else", pending, 0.06),
            (
                "Being thought of by other calls at this moment: take another part of the code or"
                " another kind of change",
                others,
                0.04,
            ),
            ("Earlier runs", earlier, 0.06),
        ]

    def row(self, experiment: Experiment) -> _Row:
        head = f"#{experiment.number}{_result(experiment)}: {one_line(experiment.description, 150)}"
        proposal = experiment.proposal
        more = [_stat(experiment)]
        if proposal and proposal.expected:
            more.append(f"expected {one_line(proposal.expected, 120)}")
        if beside := changes(self._numbers(experiment), self._rival(experiment)):
            more.append(beside)
        if proposal and proposal.hypothesis:
            more.append(f"idea: {one_line(proposal.hypothesis, 240)}")
        if proposal and (lesson := self.context.lessons.get(experiment.number)):
            more.append(f"learnt: {one_line(lesson, 200)}")
        full = "; ".join([head, *filter(None, more)])
        return _Row(one_line(head, SHORT), one_line(full, FULL))

    def _numbers(self, experiment: Experiment) -> dict[str, list[float]]:
        found = values(experiment.runs)
        found.pop(self.brief.metric, None)
        return found

    def _rival(self, experiment: Experiment) -> dict[str, list[float]]:
        rival = self.by_commit.get(experiment.parent) or self.baseline
        return values(rival.runs) if rival else {}


def _status(experiment: Experiment) -> str:
    return experiment.verdict.status if experiment.verdict else ""


def _gain(experiment: Experiment) -> float:
    verdict = experiment.verdict
    return verdict.estimate or 0.0 if verdict else 0.0


def _kind(experiment: Experiment) -> str:
    """What a verdict means for the next idea."""
    verdict = experiment.verdict
    if verdict is None:
        return "under way"
    if verdict.status == "keep":
        return "kept"
    if verdict.estimate is None:
        stopped = any(run.outcome == "stopped" for run in experiment.runs)
        if stopped:
            return "refuted"
        return "failed" if experiment.runs or not experiment.commit else "unmeasured"
    spread = verdict.spread or 0.0
    if verdict.estimate <= -spread:
        return "refuted"
    return "near miss" if verdict.estimate > NEAR * spread else "open"


def _result(experiment: Experiment) -> str:
    """The gain, or why there is none."""
    verdict = experiment.verdict
    if verdict is None:
        return ""
    if verdict.estimate is not None:
        spread = f" ± {verdict.spread:.2g}" if verdict.spread else ""
        runs = f" in {verdict.runs} run{'s' * (verdict.runs != 1)}" if verdict.runs else ""
        return f" {verdict.estimate:+.3g}{spread}{runs}"
    failed = next((r for r in reversed(experiment.runs) if _of_search(r) and r.tail.strip()), None)
    reason = one_line(verdict.reason, 160).rstrip(".")
    said = one_line(failing(failed.tail), 400) if failed else ""
    return f" ({reason}{f': {said}' if said and said.rstrip('.') not in reason else ''})"


def _of_search(run: Measurement) -> bool:
    return run.trial.stage == "search"


def _details(experiment: Experiment) -> Mapping[str, str]:
    return experiment.proposal.details if experiment.proposal else {}


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in found.most_common(8)) or "none"


def touched(experiment: Experiment) -> dict[str, tuple[int, int]]:
    """Lines added and removed, by file."""
    try:
        found = read(experiment.proposal.patch) if experiment.proposal else []
    except PatchRefused:
        return {}
    return {one.path: (one.added, one.removed) for one in found}


def _stat(experiment: Experiment) -> str:
    found = [(path, *counts) for path, counts in touched(experiment).items()]
    told = [f"{path} +{added} −{removed}" for path, added, removed in found[:4]]
    rest = len(found) - len(told)
    return ", ".join(told) + (f" and {rest} more files" if rest > 0 else "")


def _size(path: Path) -> float:
    """Megabytes below a folder, of its first MOST_FILES files."""
    files = (one for one in path.rglob("*") if one.is_file() and not one.is_symlink())
    return sum(one.stat().st_size for one in islice(files, MOST_FILES)) / 1e6


def _points() -> str:
    return "/".join(f"{100 * point:g}" for point in POINTS) + " %"


def _earlier(verdict: Verdict) -> _Row:
    gain = f" {verdict.estimate:+.3g}" if verdict.estimate is not None else ""
    return _line(f"{verdict.status}{gain}: {verdict.description}")


def _line(told: str) -> _Row:
    line = one_line(told, SHORT)
    return _Row(line, line)


def record(context: Context, number: int) -> str:
    """The whole record of an experiment. Raises KeyError where there is none."""
    found = {e.number: e for e in [*context.history, *context.pending]}[number]
    past, proposal, verdict = _Past(context), found.proposal, found.verdict
    mine, rival = values(found.runs), past._rival(found) if number else {}
    lines = [past.row(found).full]
    if verdict and verdict.estimate is None:
        # A measured one's gain stands above, by the sign that is used here
        lines.append(f"Verdict: {verdict.status}. {one_line(verdict.reason, 400)}")
    if proposal:
        lines.append(f"Idea: {one_line(proposal.hypothesis, 1_000)}")
    if analysis := _details(found).get("analysis"):
        lines.append(f"Its author's analysis: {one_line(analysis, 2_000)}")
    for name in mine:
        beside = f" (its incumbent: {told('', rival[name]).strip()})" if name in rival else ""
        lines.append(told(name, mine[name]) + beside)
    if seconds := phases(found.runs):
        lines.append(f"Seconds by phase: {seconds}")
    if course := curve_told(found.runs):
        lines.append(f"Training loss at {_points()} of the run: {course}")
    if proposal and proposal.patch:
        lines.append(f"Its diff:\n{_clip(proposal.patch, PATCH)}")
    tail = next((r.tail for r in reversed(found.runs) if _of_search(r) and r.tail.strip()), "")
    if tail:
        lines.append(log(tail))
    return "\n".join(lines)


def log(tail: str) -> str:
    """The end of a log, fenced."""
    shown = tail[-TAIL:].replace("</", "<\\/")
    return f"<log>\n{shown}\n</log>"


def _clip(text: str, limit: int) -> str:
    more = len(text) - limit
    return text if more <= 0 else f"{text[:limit]}\n[… {more:,} further characters …]"
