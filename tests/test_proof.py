"""What a run may spend and claim, and what it takes from earlier ones: the real loop and proof on trials that take no time."""

from __future__ import annotations

import json
import random
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import quick
import studies
import tiny

from autoresearch_action import brief as briefs
from autoresearch_action import report
from autoresearch_action.acceptance import Decision, NeedRuns, RunRequest
from autoresearch_action.acceptance.noise import Noise, good
from autoresearch_action.agents import Context, Draft
from autoresearch_action.brief import Brief
from autoresearch_action.errors import InputError
from autoresearch_action.ledger import CACHE, Experiments, Ledger, RunState
from autoresearch_action.ledger.experiments import measurement
from autoresearch_action.records import Measurement, Run, Trial, Verdict
from autoresearch_action.research.history import Inheritance, changed, inheritance
from autoresearch_action.workspace.trees import Workspace

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmark"))
import overhead

SOURCE = "LR = 0.1\n#\n#\n#\nWIDTH = 4\n"


def bowl(literals: dict[str, float], trial: Trial) -> float:
    dice = random.Random(f"{trial.seed} {sorted(literals.items())}")
    return (
        1
        + 0.5 * (literals["LR"] - 0.3) ** 2
        + (literals["WIDTH"] - 8) ** 2 * 0.01
        + dice.gauss(0, 0.01)
    )


def events(home: Path, kind: str) -> list[dict[str, Any]]:
    lines = [
        json.loads(line)
        for line in (home / ".autoresearch" / "ledger.jsonl").read_text().splitlines()
    ]
    return [line for line in lines if line["event"] == kind]


@pytest.mark.parametrize("usd", [3, 8, 14, 17, 20, 23, 26])
def test_dollars_of_device_and_calls_are_a_hard_cap_of_search_and_proof(
    tmp_path: Path, usd: int
) -> None:
    """A trial costs one dollar and so does a call: whatever the cap is, what was spent stays below it."""
    home = quick.repository(tmp_path / "home", SOURCE, transfer="{set: {WIDTH: 9}, require: true}")
    edits = [("WIDTH = 4", "WIDTH = 6"), *(("LR = 0.1", f"LR = 0.2{index}") for index in range(8))]
    try:
        run_state = quick.go(
            home, quick.Agent(edits, usd=1.0), bowl, max_usd=usd, gpu_usd_per_hour=3600.0
        )
    except InputError as error:
        assert "--max-usd" in str(error)
        assert usd < 26
        run_state = RunState.of(home / ".autoresearch" / "ledger.jsonl")
    assert run_state.usd + run_state.device_seconds <= usd
    assert usd < 26 or "dollars" in run_state.stop_reason


def test_device_time_of_trials_in_flight_at_a_kill_counts(tmp_path: Path) -> None:
    """Nobody knows how long they had run: one of usual length for each slot."""
    home = quick.repository(tmp_path / "home", SOURCE)
    edits = [("LR = 0.1", f"LR = 0.2{index}") for index in range(4)]

    def dies(run_state: RunState) -> str:
        if run_state.trials >= 5:
            raise MemoryError
        return ""

    for _ in range(3):
        with pytest.raises(MemoryError):
            quick.go(home, quick.Agent(edits), bowl, dies, seconds=7.0)
    run_state = quick.go(home, quick.Agent(edits), bowl, seconds=7.0)
    assert run_state.trials > 5
    assert run_state.trial_seconds == 7 * run_state.trials
    assert run_state.cut_seconds == 3 * 7 * len(quick.Executor.slots)
    assert run_state.device_seconds == run_state.trial_seconds + run_state.cut_seconds


def test_an_idea_that_was_thought_of_while_the_incumbent_moved_is_measured_on_the_new_one(
    tmp_path: Path,
) -> None:
    moved = threading.Event()

    class Slow(quick.Agent):
        def propose(self, context: Context) -> Draft:
            draft = super().propose(context)
            assert draft.description.startswith("WIDTH") or moved.wait(60)
            return draft

    def seen(run_state: RunState) -> str:
        if run_state.kept:
            moved.set()
        return ""

    home = quick.repository(tmp_path / "home", SOURCE)
    run_state = quick.go(
        home, Slow([("WIDTH = 4", "WIDTH = 8"), ("LR = 0.1", "LR = 0.3")]), bowl, seen
    )
    made, measured = (e for e in run_state.experiments.values() if e.description == "LR = 0.3")
    assert run_state.carried == {made.number}
    assert not made.runs
    assert measured.parent == run_state.experiments[run_state.kept[0]].commit
    assert measured.runs


def test_an_idea_that_was_never_measured_is_no_experiment(tmp_path: Path) -> None:
    """Made while others ran, and the incumbent moved by a change of its very line: it was never measured."""
    home = quick.repository(tmp_path / "home", SOURCE)
    edits = [("WIDTH = 4", f"WIDTH = {value}") for value in (8, 9, 7)] + [
        ("LR = 0.1", f"LR = -{value}") for value in range(1, 9)
    ]
    run_state = quick.go(home, quick.Agent(edits), bowl, max_experiments=5)
    assert run_state.unmeasured
    assert run_state.tried == 5
    assert "all 5 experiments" in run_state.stop_reason
    assert run_state.unmeasured == RunState.of(run_state.state / "ledger.jsonl").unmeasured
    measured = [
        e
        for number, e in run_state.experiments.items()
        if number and number not in run_state.carried and e.runs
    ]
    assert len(measured) == 5
    assert not any(run_state.experiments[number].runs for number in run_state.unmeasured)


def lucky(literals: dict[str, float], trial: Trial) -> float:
    """X helps only where WIDTH is 4: in the head that has both, it is left out."""
    x = literals["X"]
    return 2 + (literals["WIDTH"] - 8) ** 2 * 0.01 - (x if literals["WIDTH"] == 4 else max(0, -x))


def test_a_proof_that_was_interrupted_goes_on_and_searches_no_further(tmp_path: Path) -> None:
    home = quick.repository(tmp_path / "home", SOURCE.replace("LR = 0.1", "X = 0.0"), exact="true")
    edits = [
        ("X = 0.0", "X = 0.01"),
        ("X = 0.01\n#\n#\n#\nWIDTH = 4", "X = 0.01\n#\n#\n#\nWIDTH = 8"),
    ]  # one after the other

    def begun(run_state: RunState) -> str:
        return "interrupted" if "plans" in run_state.facts else ""

    run_state = quick.go(home, quick.Agent(edits, patient=True), lucky, begun, max_experiments=2)
    assert not run_state.finished
    assert len(events(home, "stack")) == 1
    assert len(run_state.kept) == 1
    asked, agent = len(events(home, "ask")), quick.Agent([("X = 0.01", "X = -0.5")])
    run_state = quick.go(home, agent, lucky, max_experiments=9)
    assert run_state.finished
    assert run_state.improved
    assert not agent.calls
    assert len(events(home, "ask")) == asked
    assert len(events(home, "stack")) == 1
    assert run_state.confirmation
    assert run_state.confirmation.numbers == run_state.kept


def test_kept_changes_that_do_not_apply_on_one_another_end_in_a_sentence(tmp_path: Path) -> None:
    home = quick.repository(tmp_path / "home", SOURCE, exact="true")
    run_state = quick.go(
        home,
        quick.Agent([("WIDTH = 4", "WIDTH = 6")]),
        lambda literals, _: bowl(literals, TRIAL),
        lambda s: "enough" * bool(s.kept),
    )
    ledger = Ledger(home / ".autoresearch")
    twice = run_state.experiments[run_state.kept[0]]
    assert twice.proposal
    assert twice.verdict
    other = twice.proposal.model_copy(
        update={"patch": twice.proposal.patch.replace("WIDTH = 6", "WIDTH = 7"), "parent": "f" * 40}
    )
    number = ledger.run_state.next_number
    ledger.propose(number, other, twice.commit, "e" * 40)
    ledger.append(
        "verdict", Verdict(number=number, status="keep", reason="", description="", agent="")
    )
    ledger.close()
    run_state = quick.go(home, quick.Agent([]), lambda literals, _: bowl(literals, TRIAL))
    assert run_state.finished
    assert run_state.confirmation
    assert "do not apply" in run_state.confirmation.reason


def test_a_ledger_of_the_release_before_goes_on_and_is_reported(tmp_path: Path) -> None:
    """Its claim was half measured when it was interrupted, after a search with references, an edit
    that was carried on, and a prune. It ends as that release ended it.
    """
    home = quick.repository(tmp_path / "home", SOURCE, transfer="{set: {LR: 0.2}}")
    state = home / ".autoresearch"
    shutil.copytree(Path(__file__).parent / "fixtures" / "release", state)
    renamed(home, state)
    before = RunState.of(state / "ledger.jsonl")
    assert {stage: len(runs) for (stage, _), runs in before.confirm_runs.items()} == {
        "prune": 2,
        "confirm": 4,
    }
    for event in events(home, "trial"):
        facts = ("purpose", "side", "split", "scale", "slice", "asked_by")
        told, trial = event["trial"], measurement(event).trial
        # A claim was asked for by no experiment's screen
        shown = facts if trial.stage == "search" else facts[:-1]
        assert {name: getattr(trial, name) for name in shown} == {n: told[n] for n in shown}
    run_state = quick.go(home, quick.Agent([]), bowl, gpu_usd_per_hour=1.0)
    assert run_state.trials == 48
    assert run_state.tried == 4
    confirmation = run_state.confirmation
    assert confirmation
    assert confirmation.held
    assert confirmation.numbers == [2, 4, 7]
    assert confirmation.estimate == pytest.approx(0.16613440681104508, abs=1e-12)
    assert confirmation.p_value == 0.0078125
    assert confirmation.notes[1].startswith("transfer: 1.1923 → 1.00961 over 3 pairs")
    report.write(state, run_state)
    assert "1.1731 → 1.0070" in (state / "PULL_REQUEST.md").read_text()
    assert len((state / "results.tsv").read_text().splitlines()) == 9


def renamed(home: Path, state: Path) -> None:
    """Give a ledger from elsewhere the commits of this repository: made anew, patch by patch."""
    path = state / "ledger.jsonl"
    workspace = Workspace(home, state, briefs.read(Path("program.md"), home))
    text = path.read_text()
    told = [json.loads(line) for line in text.splitlines()]
    commits = {told[0]["base"]: workspace.base}
    for event in told:
        if event["event"] == "proposal":
            patch = (state / "trials" / f"{event['number']:04d}" / "patch.diff").read_text()
            parent = commits[event["parent"]]
            commits[event["commit"]] = workspace.commit(parent, patch, event["description"])
    for old, new in commits.items():
        text = text.replace(old, new)
    path.write_text(text)


class Generous:
    """A rule of keeping: one run, and whatever is better than the incumbent's mean is kept."""

    def __init__(self, brief: Brief, noise: Noise, seed: int, **_: object) -> None:
        self.sign, self.seed = brief.sign, seed

    def decide(
        self, candidate: Sequence[Measurement], incumbent: Sequence[Measurement]
    ) -> NeedRuns | Decision:
        if not candidate:
            return NeedRuns((RunRequest("head", self.seed),))
        gain = self.sign * (good(candidate)[0] - fmean(good(incumbent)))
        return Decision("keep" if gain > 0 else "discard", "dummy", gain)


def test_another_rule_of_keeping_is_one_class(tmp_path: Path) -> None:
    home = quick.repository(tmp_path / "home", SOURCE)
    edits = [("LR = 0.1", "LR = -0.5"), ("WIDTH = 4", "WIDTH = 7")]
    run_state = quick.go(home, quick.Agent(edits), bowl, keep_rule=Generous)
    measured = [e for number, e in run_state.experiments.items() if number and e.runs]
    assert {len(e.runs) for e in measured} == {1}
    assert {e.verdict.reason for e in measured if e.verdict} == {"dummy"}
    assert [run_state.experiments[number].description for number in run_state.kept] == ["WIDTH = 7"]
    assert run_state.improved


TRIAL = Trial(number=0, commit="", seed=1)


class Killed(BaseException):
    """The end of the process."""


def test_an_attempt_is_counted_once_wherever_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = quick.repository(tmp_path / "home", SOURCE)
    whole = Ledger.append

    def fails(self: Ledger, event: str, record: Any = None, **fields: Any) -> None:
        if fields.get("name") == "claims":
            raise Killed
        whole(self, event, record, **fields)

    monkeypatch.setattr(Ledger, "append", fails)
    with pytest.raises(Killed):
        quick.go(home, quick.Agent([("WIDTH = 4", "WIDTH = 7")]), bowl)
    monkeypatch.setattr(Ledger, "append", whole)
    run_state = quick.go(home, quick.Agent([]), bowl)
    assert run_state.improved
    assert "1 claim in 1 attempt " in run_state.facts["claims"]
    assert (
        json.loads((home / ".autoresearch" / "claims.json").read_text())["claims"]["attempts"] == 1
    )


def test_an_earlier_run_s_stack_is_measured_as_a_whole(tmp_path: Path) -> None:
    """The second change applies on the first alone; on a newer base both go first, as one candidate that names them."""
    home = quick.repository(tmp_path / "home", "WIDTH = 4\nLR = 0.1\n")
    edits = [("WIDTH = 4", "WIDTH = 6"), ("WIDTH = 6", "WIDTH = 8")]
    run_state = quick.go(home, quick.Agent(edits, patient=True), bowl)
    assert len(run_state.kept) == 2
    assert run_state.improved
    stack = tuple(
        proposal
        for number in run_state.kept
        if (proposal := run_state.experiments[number].proposal)
    )
    (home / "README").write_text("A newer base.\n")
    base = tiny.commit(home)

    put_aside(home / ".autoresearch")
    run_state = quick.go(home, quick.Agent([]), bowl, inherited=Inheritance(stack=stack))
    (whole,) = events(home, "proposal")
    assert whole["parent"] == base
    assert whole["description"] == "Together: WIDTH = 6; WIDTH = 8"
    assert run_state.improved

    put_aside(home / ".autoresearch")
    quick.go(
        home,
        quick.Agent([]),
        bowl,
        inherited=Inheritance(stack=stack, settled=frozenset([whole["tree"]])),
    )
    assert not events(home, "proposal")

    put_aside(home / ".autoresearch")
    broken = stack[0].model_copy(update={"patch": stack[0].patch.replace("WIDTH = 4", "WIDTH = 5")})
    quick.go(home, quick.Agent([]), bowl, inherited=Inheritance(stack=(broken, stack[0])))
    assert [event["description"] for event in events(home, "proposal")] == ["WIDTH = 6"]
    assert "left out (WIDTH = 6): The patch does not apply" in events(home, "message")[0]["text"]


def test_a_machine_that_has_stepped_hides_no_later_gain(tmp_path: Path) -> None:
    """Slower by 30 σ after the baseline: the incumbent is seen again, and what helps is kept."""
    names = "ABCDEFGH"
    source = SOURCE + "".join(f"#\n#\n#\n{name} = 1\n" for name in names)
    home = quick.repository(tmp_path / "home", source)
    program = (home / "program.md").read_text()
    (home / "program.md").write_text(program.replace("metric: val_bpb", "metric: seconds"))
    tiny.commit(home)

    def timing(literals: dict[str, float], trial: Trial) -> float:
        noise = random.Random(f"{trial.seed} {sorted(literals.items())}").gauss(0, 0.1)
        gain = 2 * (literals["WIDTH"] == 5)
        return 100 - gain + 3 * (trial.purpose != "baseline") + noise

    edits = [*((f"{name} = 1", f"{name} = 2") for name in names), ("WIDTH = 4", "WIDTH = 5")]
    run_state = quick.go(home, quick.Agent(edits), timing)
    kept = [run_state.experiments[number].description for number in run_state.kept]
    assert "WIDTH = 5" in kept
    assert run_state.improved


def test_a_decision_reads_no_more_of_a_long_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More experiments than are kept in memory: what is read again is what agents are shown, once."""
    size = CACHE + 500
    ledger = overhead.long_ledger(tmp_path / "home", size)
    lines, read = Experiments._lines, Counter[str]()

    def counted(self: Experiments, offsets: list[int]) -> Any:
        read["experiments"] += 1
        return lines(self, offsets)

    monkeypatch.setattr(Experiments, "_lines", counted)
    edits = [("LR = 0.1", f"LR = 0.3{number}") for number in range(5)]
    agent = quick.Agent(edits)
    run_state = quick.go(tmp_path / "home", agent, overhead.slower, max_experiments=size + 5)
    assert run_state.tried == size + 5
    assert len(RunState.of(ledger).experiments) == size + 6
    assert read["experiments"] < 400


def test_the_baseline_sets_the_clock_and_has_none_to_keep(tmp_path: Path) -> None:
    home = quick.repository(tmp_path / "home", SOURCE, time_budget="1")
    seen: list[Trial] = []

    def watched(literals: dict[str, float], trial: Trial) -> float:
        seen.append(trial)
        return bowl(literals, trial)

    assert quick.go(home, quick.Agent([("WIDTH = 4", "WIDTH = 6")]), watched).improved
    assert (
        len({trial.purpose for trial in seen if trial.number == 0}) == 2
    )  # at first, and beside the head
    assert {trial.clock_limit is None for trial in seen if trial.number == 0} == {True}
    assert {trial.clock_limit is None for trial in seen if trial.number} == {False}


def put_aside(state: Path) -> None:
    ledger = Ledger(state)
    ledger.restart(f"run-{len(list(state.glob('history/*.jsonl')))}")
    ledger.close()


def test_the_stack_is_that_of_the_newest_run_that_proved_something(tmp_path: Path) -> None:
    """A run in between that kept nothing does not lose it, nor one that kept something and proved nothing."""
    now = Run(id="now", started=1.0, base="a" * 40, brief_id="program")

    def after(words: str, held: bool, count: int = 4, **facts: Any) -> tuple[set[str], int]:
        studies.make(tmp_path, count, words, every=3, held=held, **facts)
        put_aside(tmp_path)
        left = inheritance(tmp_path, now)
        return {proposal.description for proposal in left.stack}, len(left.settled)

    assert after("first", False) == ({"first"}, 0)
    assert after("proved", True) == ({"proved"}, 0)
    assert after("nothing", False, count=0) == ({"proved"}, 0)
    assert after("kept", False) == ({"proved"}, 4)
    assert after("another base", False, base="b" * 40) == ({"proved"}, 4)
    assert after("another brief", True, brief_id="other") == ({"proved"}, 4)


def test_evidence_goes_on_where_all_that_it_rests_on_is_the_same() -> None:
    machine = {
        "processor": "a",
        "cores": "2",
        "memory": "8 GiB",
        "slots": "cpu:0",
        "system": "Linux 6.1",
    }
    old = Run(
        id="old",
        started=1.0,
        base="a",
        brief_hash="b",
        data="c",
        checkpoint={"uri": "u", "sha256": "d"},
        environment=machine,
    )
    assert (
        changed(
            old,
            old.model_copy(
                update={
                    "id": "now",
                    "started": 2.0,
                    "environment": machine | {"system": "Linux 6.2"},
                }
            ),
        )
        == []
    )
    for update, told in (
        ({"base": "x"}, "the commit"),
        ({"brief_hash": "x"}, "the brief"),
        ({"data": "x"}, "setup's outputs or the data"),
        ({"checkpoint": {"uri": "u", "sha256": "x"}}, "the checkpoint"),
        ({"environment": machine | {"gpu": "x"}}, "the gpu"),
        ({"environment": machine | {"slots": "cpu:0, cpu:1"}}, "the number of slots"),
    ):
        assert changed(old, old.model_copy(update=update)) == [told]
