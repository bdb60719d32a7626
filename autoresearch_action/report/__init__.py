"""What people see: results.tsv, progress.png, report.html and PULL_REQUEST.md, views of the ledger
and nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path

from autoresearch_action.ledger import RunState
from autoresearch_action.report import body, html, plot, tables


def write(state: Path, run_state: RunState) -> None:
    """(Re)write the four files in `state`, each replaced in one step. Nothing where the ledger has
    no run yet.
    """
    if run_state.run is None:
        return
    minimize = run_state.run.goal == "minimize"
    experiments = run_state.recent(tables.MOST_ROWS)
    rows = tables.rows(experiments, run_state.run.metric, -1 if minimize else 1)
    held = run_state.confirmation.held if run_state.confirmation else None
    everything = (
        rows
        if len(rows) == len(run_state.statuses)
        else [
            tables.row(v, run_state.run.metric, -1 if minimize else 1) for v in run_state.verdicts()
        ]
    )
    picture = plot.progress(everything, run_state.run.metric, minimize, held)
    _write(state / "results.tsv", tables.results_tsv(run_state).encode())
    _write(state / "progress.png", picture)
    _write(
        state / "report.html",
        html.page(run_state, experiments, rows, picture).encode("utf-8", "replace"),
    )
    _write(
        state / "PULL_REQUEST.md",
        f"# {body.title(run_state)}\n\n{body.body(run_state)}".encode("utf-8", "replace"),
    )


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.part")
    # Of a folder that somebody else made: through no link
    partial.unlink(missing_ok=True)
    partial.write_bytes(data)
    os.replace(partial, path)
