"""What people see: results.tsv, progress.png, report.html and PULL_REQUEST.md, views of the ledger and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from autoresearch_action.ledger import Study
from autoresearch_action.report import body, html, plot, tables


def write(state: Path, study: Study) -> None:
    """(Re)write the four files in `state`, each replaced in one step. Nothing where the ledger has no run yet."""
    if study.run is None:
        return
    minimize = study.run.goal == "minimize"
    experiments = study.recent(tables.MOST_ROWS)
    rows = tables.rows(experiments, study.run.metric, -1 if minimize else 1)
    held = study.confirmation.held if study.confirmation else None
    everything = (
        rows if len(rows) == len(study.statuses) else [tables.row(v, study.run.metric, -1 if minimize else 1) for v in study.verdicts()]
    )
    picture = plot.progress(everything, study.run.metric, minimize, held)
    _write(state / "results.tsv", tables.results_tsv(study).encode())
    _write(state / "progress.png", picture)
    _write(state / "report.html", html.page(study, experiments, rows, picture).encode("utf-8", "replace"))
    _write(state / "PULL_REQUEST.md", f"# {body.title(study)}\n\n{body.body(study)}".encode("utf-8", "replace"))


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.part")
    partial.write_bytes(data)
    os.replace(partial, path)
