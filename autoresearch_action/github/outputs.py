"""Outputs, step summary and annotations of a job: GITHUB_OUTPUT, GITHUB_STEP_SUMMARY and workflow
commands.

Does nothing outside a job. Values come through files with random delimiters, so no text can forge
another output.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from autoresearch_action import text
from autoresearch_action.ledger import RunState
from autoresearch_action.report import body, tables

# Annotations of one kind in a step: GitHub shows no more
MOST_NOTICES = 10
ARTIFACT = (
    "ledger.jsonl",
    "claims.json",
    "results.tsv",
    "report.html",
    "progress.png",
    "PULL_REQUEST.md",
    "trials",
    "proven",
)


def place(state: Path, brief_id: str, shard: str, environ: Mapping[str, str]) -> None:
    """Where the run's state is and what its artifact is called: said first, so that a cancelled job
    still has it.
    """
    job = "-".join(filter(None, (environ.get("GITHUB_RUN_ID"), environ.get("GITHUB_RUN_ATTEMPT"))))
    name = "-".join(
        filter(None, ("autoresearch", brief_id, job, f"shard-{shard}" if shard else ""))
    )
    put(
        environ,
        **{
            "state-directory": str(state),
            "artifact-name": name,
            "artifact-path": "\n".join(str(state / part) for part in ARTIFACT),
        },
    )


def write(run_state: RunState, environ: Mapping[str, str]) -> None:
    """The outputs of the research step, its summary and its annotations."""
    if run_state.run is None:
        return
    put(environ, **research(run_state))
    summarize(body.summary(run_state), environ)
    for warning in body.warnings(run_state)[:MOST_NOTICES]:
        annotate("warning", warning)
    annotate("notice", body.verdict_line(run_state))
    proven = {change.number for change in tables.changes(run_state)}
    kept = [number for number, status in run_state.statuses.items() if number and status == "keep"]
    for number in sorted(kept, key=lambda number: number not in proven)[: MOST_NOTICES - 1]:
        annotate(
            "notice",
            f"{'Proven' if number in proven else 'Kept, not proven'}:"
            f" {run_state.experiments[number].description}",
        )


def failed(step: str, told: str, environ: Mapping[str, str]) -> None:
    """A step that fails says why in its summary, in an annotation and in the log. `told`: a
    sentence, perhaps a log's tail.
    """
    sentence, _, tail = told.partition("\n")
    summarize(
        f"**autoresearch {step} failed.** {text.inline(sentence, 1_000)}\n"
        + (f"\n{text.fence(tail)}\n" if tail else ""),
        environ,
    )
    annotate("error", told)
    with fenced():
        # Where the fence is: the two streams of a job have no order
        print(f"autoresearch: {text.visible(told)}", flush=True)


def research(run_state: RunState) -> dict[str, str]:
    """The outputs of action.yml that the research step gives."""
    run, confirmation = run_state.run, run_state.confirmation
    assert run is not None
    noise = run_state.facts.get("noise") or {}
    baseline = (
        confirmation.baseline
        if confirmation and confirmation.baseline is not None
        else noise.get("mean")
    )
    best = (
        confirmation.best
        if confirmation and confirmation.best is not None
        else _incumbent(run_state, run.metric)
    )
    percent = 0.0
    if (
        confirmation
        and confirmation.held
        and confirmation.estimate is not None
        and confirmation.baseline
    ):
        percent = 100 * confirmation.estimate / abs(confirmation.baseline)
    device = run_state.device_seconds / 3600 * (run.budget.get("gpu_usd_per_hour") or 0.0)
    improved = str(run_state.improved).lower()
    own_word = run_state.improved and body.self_reported(run)
    return {
        "improved": "self-reported" if own_word else improved,
        "metric-name": run.metric,
        "baseline": "" if baseline is None else f"{baseline:.10g}",
        "best": "" if best is None else f"{best:.10g}",
        "improvement-percent": f"{percent:.4g}",
        "experiments": str(run_state.tried),
        "kept": str(len(run_state.proven())),
        "cost-usd": f"{run_state.usd + device:.4f}",
        "stop-reason": text.line(run_state.stop_reason),
        "branch": (run_state.facts.get("branch") or {}).get("name", ""),
        "report-path": str(run_state.state / "report.html"),
    }


def _incumbent(run_state: RunState, metric: str) -> float | None:
    verdict = run_state.experiments[run_state.kept[-1]].verdict if run_state.kept else None
    return verdict.metrics.get(metric) if verdict else None


def put(environ: Mapping[str, str], **values: str) -> None:
    """Set outputs of the present step."""
    _append(
        environ.get("GITHUB_OUTPUT"),
        "".join(text.output(name, value) for name, value in values.items()),
    )


def summarize(markdown: str, environ: Mapping[str, str]) -> None:
    _append(environ.get("GITHUB_STEP_SUMMARY"), markdown + "\n")


def _append(path: str | None, more: str) -> None:
    if path:
        with open(path, "a", encoding="utf-8", errors="replace") as file:
            file.write(more)


def annotate(kind: str, words: str) -> None:
    """An annotation on the job's page; nothing outside a job."""
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print(f"::{kind} title=autoresearch::{text.command(words)}", flush=True)


@contextmanager
def fenced() -> Iterator[None]:
    """Nothing that is printed inside is taken for a workflow command: no trial's output can set a
    variable.
    """
    if os.environ.get("GITHUB_ACTIONS") != "true":
        yield
        return
    mark = secrets.token_hex(16)
    print(f"::stop-commands::{mark}", flush=True)
    try:
        yield
    finally:
        sys.stdout.flush()
        print(f"::{mark}::", flush=True)
