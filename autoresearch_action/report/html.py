"""report.html: one self-contained page. Verdict, picture, table, every diff and log tail, costs. No
script, nothing loaded.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Any

from autoresearch_action import text
from autoresearch_action.ledger import RunState
from autoresearch_action.records import Experiment
from autoresearch_action.report import body, tables
from autoresearch_action.trials.profile import Hot, hottest, latest

# Characters shown of one diff
MOST_DIFF = 40_000
# Characters shown of one log
MOST_TAIL = 8_000
# Functions of the profile
MOST_HOT = 15


def page(
    run_state: RunState, experiments: list[Experiment], rows: list[tables.Row], picture: bytes
) -> str:
    """The page, as HTML. `experiments` are those shown in full: the latest, the kept and the
    baseline.
    """
    assert run_state.run is not None
    return str(
        _template().render(
            run_state=run_state,
            run=run_state.run,
            title=body.title(run_state),
            verdict=body.verdict_line(run_state),
            warnings=body.warnings(run_state),
            picture=base64.b64encode(picture).decode(),
            rows=rows,
            hidden=len(run_state.statuses) - len(rows),
            details=[_detail(e) for e in experiments if e.verdict is not None and e.number],
            proven=tables.changes(run_state),
            judged=body.judged(run_state),
            cost=body.cost(run_state),
            hot=_hot(run_state),
            environment=run_state.run.environment,
            prose=run_state.run.prose if run_state.run.visibility == "full" else "",
            messages=[text.clip(message, 600) for message in run_state.messages[-50:]],
        )
    )


def _hot(run_state: RunState) -> list[Hot]:
    """The hottest functions of the last profile."""
    made = latest(run_state, "")
    return hottest(made.tail)[:MOST_HOT] if made else []


def _detail(experiment: Experiment) -> dict[str, Any]:
    proposal = experiment.proposal
    last = experiment.runs[-1] if experiment.runs else None
    return {
        "number": experiment.number,
        "verdict": experiment.verdict,
        "hypothesis": proposal.hypothesis if proposal else "",
        "expected": proposal.expected if proposal else "",
        "diff": [
            (_kind(line), line)
            for line in text.clip(
                text.visible(proposal.patch if proposal else ""), MOST_DIFF
            ).splitlines()
        ],
        "tail": text.clip(text.visible(last.tail), MOST_TAIL) if last else "",
        "runs": experiment.runs,
    }


def _kind(line: str) -> str:
    if line.startswith(("+++", "---", "diff ", "index ")):
        return "head"
    return {"+": "plus", "-": "minus", "@": "hunk"}.get(line[:1], "")


@lru_cache(maxsize=1)
def _template() -> Any:
    from autoresearch_action.report.templates import environment

    made = environment(html=True)
    made.filters |= {
        "number": text.number,
        "signed": text.signed,
        "duration": text.duration,
    }
    return made.get_template("report.html.j2")
