"""Which brief a run answers: the one that this job expects, as the base commit has it, with the
prose that was dispatched. The ledger has no word in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoresearch_action.brief import Brief
from autoresearch_action.errors import InputError
from autoresearch_action.records import Run

# Keys of the brief that a reviewer is shown, and that decide what was measured
MEASURED_BY = ("edit", "setup", "check", "run", "evaluate", "time-budget")


def expected(run: Run, program: str, working_directory: str, prose: str) -> None:
    """The ledger was made by a job that ran a model's code: it does not get to say which brief it
    answers. Raises InputError.
    """
    for name, told, wanted in (
        ("program", run.program, program),
        ("working-directory", run.working_directory, working_directory),
    ):
        if wanted and Path(told) != Path(wanted):
            raise InputError(
                f"{name}: the run says {told[:100]!r}, this job expects {wanted!r};"
                " nothing is published."
            )
    path, place = Path(run.program), Path(run.working_directory)
    brief = _answered(Brief(run="true", path=path, place=place), prose)
    if run.brief_id != brief.id:
        raise InputError(
            f"brief: the run answers another one than this job's ({run.brief_id!r}, not"
            f" {brief.id!r}): where the prose was given by hand, give the same here. Nothing is"
            " published."
        )


def _answered(brief: Brief, prose: str) -> Brief:
    """The brief with the prose that came in place of its own, if any did."""
    given = {"prose": prose, "dispatched": True}
    return brief.model_copy(update=given) if prose else brief


def as_briefed(run: Run, brief: Brief, prose: str) -> Run:
    """The run with what the brief says, which the ledger does not get to say. Raises InputError
    where they differ.
    """
    told: dict[str, Any] = {"metric": run.metric, "goal": run.goal}
    wanted: dict[str, Any] = {"metric": brief.metric, "goal": brief.goal}
    # A plain checkout's setup depends on what the machine had already
    for key in MEASURED_BY if not brief.informal else set(MEASURED_BY) - {"setup"}:
        told[key], wanted[key] = run.contract.get(key), brief.contract.get(key)
    wrong = next((key for key, value in wanted.items() if told[key] != value), "")
    if wrong:
        raise InputError(
            f"{run.program} says another `{wrong}` at the commit that was measured than the ledger:"
            " nothing is published."
        )
    prose = _answered(brief, prose).prose
    update = {"contract": brief.contract, "prose": prose, "visibility": brief.visibility}
    return run.model_copy(update=update)
