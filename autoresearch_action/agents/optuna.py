"""The offline agent: Optuna over the literals of the editable Python files.

Every proposal turns one to three literals of the incumbent. Which ones is drawn by their names
(sizes and rates first) and by what turning them has done so far (untried and rewarding ones first,
ones without effect hardly ever); how far, by Optuna's TPE on the measured gains, each in the range
around the value that the incumbent holds now. No point is proposed twice. Where time is fixed, what
makes a step cheaper comes first: every size is halved once, alone. It learns from the ledger alone,
so a resumed run knows what the first one knew.
"""

from __future__ import annotations

import json
import random
import statistics
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch_action.agents import Context, Draft, Exhausted
from autoresearch_action.agents.edits import editable
from autoresearch_action.agents.literals import Knob, Value, find, swap
from autoresearch_action.brief import Brief
from autoresearch_action.errors import InputError
from autoresearch_action.records import Experiment

TIER_WEIGHT = (8.0, 4.0, 0.5, 0.2)
# For the model's size, the batch and rates
WEIGHTY = 4.0
# How many literals a proposal turns, drawn evenly
SIZES = (1, 1, 2)
RANDOM_FIRST = 4
# Draws without a new point after which the space counts as searched
ATTEMPTS = 300
# Files whose literals are turned
MOST_FILES = 200
# A loss on one side lets this share of it be hoped for on the other
MIRRORED = 0.3
# An effect below this many standard deviations of the noise is none
FLAT = 0.5


@dataclass(frozen=True)
class Lesson:
    """What one measured proposal taught: the literals it turned, from what to what, and the gain (>
    0 better).
    """

    changes: dict[str, tuple[Value, Value]]
    # None: it crashed
    gain: float | None


class OptunaAgent:
    """See the module's head. Raises InputError when no editable file holds a literal to turn."""

    name = "optuna"
    reads_profiles = False
    worst_usd: float | None = 0.0

    def __init__(self, brief: Brief, seed: int, cuda: bool | None = None) -> None:
        self._seed, self._cuda = seed, cuda
        self._lock = threading.Lock()
        self._tried: set[str] = set()
        # Literals that some proposal has turned
        self._turned: set[str] = set()
        if not any(
            find((brief.directory / file).read_bytes(), file)
            for file in _python(brief.directory, brief)
        ):
            raise InputError(
                f"optuna finds no literal to turn in {', '.join(brief.edit)}: it needs Python files"
                " with numbers,"
                " booleans or strings in them; give another --agent (claude needs a key)."
            )

    def propose(self, context: Context) -> Draft:
        sources = {
            file: (context.directory / file).read_bytes()
            for file in _python(context.directory, context.brief)
        }
        knobs = [
            knob for file, source in sources.items() for knob in find(source, file, self._cuda)
        ]
        if not knobs:
            raise Exhausted("The editable files hold no literal that can be turned.")
        lessons = learn(context.history)
        noise = context.noise or _typical([lesson.gain for lesson in lessons])
        lessons += hopes(knobs, lessons, noise)
        with self._lock:
            self._remember(context)
            chosen = self._cheaper(context, knobs) or self._draw(context, knobs, lessons, noise)
            self._tried.add(_point(context.parent, chosen))
            self._turned |= {knob.key for knob in chosen}
        for file, source in sources.items():
            changed = swap(
                source,
                {knob: value for knob, value in chosen.items() if knob.key.startswith(f"{file}:")},
            )
            if changed != source:
                (context.directory / file).write_bytes(changed)
        return Draft(
            description=_told(chosen),
            hypothesis=_hypothesis(list(chosen), lessons),
            comparable=all(knob.comparable for knob in chosen),
            details={
                "changes": json.dumps(
                    {knob.key: [knob.value, value] for knob, value in chosen.items()}
                )
            },
        )

    def repair(self, context: Context, failed: Experiment) -> Draft | None:
        return None

    def _remember(self, context: Context) -> None:
        """Points already proposed, by this process or an earlier one, keyed by the incumbent they
        were for.
        """
        for experiment in [*context.history, *context.pending]:
            changes = _changes(experiment)
            self._turned |= set(changes)
            if changes:
                self._tried.add(
                    _point(experiment.parent, {key: new for key, (_, new) in changes.items()})
                )

    def _cheaper(self, context: Context, knobs: list[Knob]) -> dict[Knob, Value]:
        """One size at half its value, none of them twice: in a fixed time cheaper steps are more
        steps.
        """
        stale = {verdict.description for verdict in context.earlier if verdict.status != "keep"}
        sizes = (
            [knob for knob in knobs if knob.size and knob.key not in self._turned]
            if context.brief.fixed_time
            else []
        )
        halves: list[dict[Knob, Value]] = [{knob: knob.half()} for knob in sizes]
        fresh = [
            half
            for half in halves
            if all(value != knob.value for knob, value in half.items()) and _told(half) not in stale
        ]
        return random.Random(f"{self._seed} {context.seed}").choice(fresh) if fresh else {}

    def _draw(
        self, context: Context, knobs: list[Knob], lessons: list[Lesson], noise: float
    ) -> dict[Knob, Value]:
        dice = random.Random(f"{self._seed} {context.seed} {len(self._tried)}")
        sampler = _Sampler(knobs, lessons, noise, dice.getrandbits(31))
        busy = {key for experiment in context.pending for key in _changes(experiment)}
        weights = {
            knob: weight(knob, lessons, noise) * (0.3 if knob.key in busy else 1.0)
            for knob in knobs
        }
        stale = {verdict.description for verdict in context.earlier if verdict.status != "keep"}
        for attempt in range(ATTEMPTS):
            size = min(dice.choice(SIZES) + attempt // 100, len(knobs))
            keys = sorted(
                knobs, key=lambda knob: dice.random() ** (1 / weights[knob]), reverse=True
            )[:size]
            chosen = {
                knob: value for knob, value in sampler.ask(keys).items() if value != knob.value
            }
            description = _told(chosen)
            if (
                chosen
                and _point(context.parent, chosen) not in self._tried
                and (description not in stale or attempt > 100)
            ):
                return chosen
        raise Exhausted(
            f"Every change within reach of the {len(knobs)} literals has been tried on this"
            " incumbent."
        )


class _Sampler:
    """Optuna's TPE over the present ranges, told the lessons of the ledger."""

    def __init__(self, knobs: list[Knob], lessons: list[Lesson], noise: float, seed: int) -> None:
        # 0.3 s and 40 MB: only where it is used
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        gains = [lesson.gain for lesson in lessons if lesson.gain is not None]
        worst = min([*gains, 0.0]) - noise
        space = {knob.key: self._range(knob) for knob in knobs}
        self._sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=RANDOM_FIRST, n_ei_candidates=16
        )
        self._study = optuna.create_study(direction="maximize", sampler=self._sampler)
        for lesson in lessons:
            params = {}
            for knob in knobs:
                if knob.key in lesson.changes:
                    place = _place(knob, lesson.changes[knob.key][1])
                    if place is not None:
                        params[knob.key] = place
            if params:
                distributions = {key: space[key] for key in params}
                gain = worst if lesson.gain is None else lesson.gain
                self._study.add_trial(
                    optuna.create_trial(params=params, distributions=distributions, value=gain)
                )

    def _range(self, knob: Knob) -> Any:
        if knob.choices:
            return self._optuna.distributions.CategoricalDistribution(knob.choices)
        return self._optuna.distributions.FloatDistribution(-1.0, 1.0)

    def ask(self, knobs: Sequence[Knob]) -> dict[Knob, Value]:
        trial = self._study.ask()
        values: dict[Knob, Value] = {}
        for knob in knobs:
            if knob.choices:
                others = [choice for choice in knob.choices if choice != knob.value]
                drawn: Value = trial.suggest_categorical(knob.key, knob.choices)
                values[knob] = others[0] if len(others) == 1 else drawn
            else:
                values[knob] = knob.at(trial.suggest_float(knob.key, -1.0, 1.0))
        # Only the ledger's lessons count
        self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        return values


def learn(history: Sequence[Experiment]) -> list[Lesson]:
    """The lessons of the proposals that this agent made and that were measured."""
    lessons, worst = [], 0.0
    for experiment in history:
        verdict, changes = experiment.verdict, _changes(experiment)
        if verdict is None or not changes or not verdict.runs:
            continue
        if verdict.status == "crash":
            lessons.append(Lesson(changes, None))
        else:
            # A limit broken or stopped as a loser: no estimate, as bad as the worst that was
            # finished
            gain = worst if verdict.estimate is None else verdict.estimate
            worst = min(worst, gain)
            lessons.append(Lesson(changes, gain))
    return lessons


def hopes(knobs: Sequence[Knob], lessons: Sequence[Lesson], noise: float) -> list[Lesson]:
    """Where turning a number one way alone lost clearly, the other way, never tried, is hoped to
    gain.
    """
    found = []
    for knob in knobs:
        told = [
            (place, lesson)
            for lesson in lessons
            if knob.key in lesson.changes and (place := _place(knob, lesson.changes[knob.key][1]))
        ]
        if knob.choices or not told or len({place > 0 for place, _ in told}) > 1:
            continue
        for place, lesson in told:
            if len(lesson.changes) == 1 and lesson.gain is not None and lesson.gain < -noise:
                found.append(
                    Lesson({knob.key: (knob.value, knob.at(-place))}, -MIRRORED * lesson.gain)
                )
    return found


def weight(knob: Knob, lessons: Sequence[Lesson], noise: float) -> float:
    """How readily a literal is drawn: by its place in the file, then by what turning it did."""
    mine = [lesson for lesson in lessons if knob.key in lesson.changes]
    alone = [lesson for lesson in mine if len(lesson.changes) == 1]
    value = TIER_WEIGHT[knob.tier] * (WEIGHTY if knob.weighty else 1.0)
    gains = [lesson.gain for lesson in mine if lesson.gain is not None]
    if (
        len(gains) > 1
        and all(
            abs(lesson.gain or 0.0) < FLAT * noise for lesson in alone if lesson.gain is not None
        )
        and alone
    ):
        # No effect
        value *= 0.2
    if sum(lesson.gain is None for lesson in alone) > 1:
        # Crashes
        value *= 0.2
    if gains:
        value *= 1 + min(3.0, max(0.0, max(gains) / noise)) if max(gains) > 0 else 0.8 ** len(gains)
    return max(value, 0.01)


def _changes(experiment: Experiment) -> dict[str, tuple[Value, Value]]:
    """What an experiment of this agent turned, from what to what; {} for another's."""
    details: Mapping[str, str] = experiment.proposal.details if experiment.proposal else {}
    return {key: (old, new) for key, (old, new) in json.loads(details.get("changes", "{}")).items()}


def _told(chosen: Mapping[Knob, Value]) -> str:
    return ", ".join(knob.told(value) for knob, value in chosen.items())


def _place(knob: Knob, value: Value) -> Any:
    if knob.choices:
        return value if value in knob.choices else None
    return knob.position(value)


def _point(parent: str, changes: Mapping[Any, Value]) -> str:
    named = {key.key if isinstance(key, Knob) else key: value for key, value in changes.items()}
    return parent + json.dumps(named, sort_keys=True)


def _typical(gains: Sequence[float | None]) -> float:
    """A stand-in for the noise where it is not known: the median size of the effects seen."""
    sizes = [abs(gain) for gain in gains if gain]
    return statistics.median(sizes) if sizes else 1.0


def _hypothesis(knobs: list[Knob], lessons: Sequence[Lesson]) -> str:
    parts = []
    for knob in knobs:
        gains = [
            lesson.gain
            for lesson in lessons
            if knob.key in lesson.changes and lesson.gain is not None
        ]
        told = (
            f"turned {len(gains)} times, best gain {max(gains):+.3g}"
            if gains
            else "not turned before"
        )
        parts.append(f"{knob.name}: {told}")
    return "Search over literals. " + "; ".join(parts) + "."


def _python(directory: Any, brief: Brief) -> list[str]:
    return [file for file in editable(directory, brief.edit) if file.endswith(".py")][:MOST_FILES]
