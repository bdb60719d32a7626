"""The command line. Parsing and wording only; what a command does is in the module it calls."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from autoresearch_action import __version__, budget
from autoresearch_action.errors import UserError

STATE = click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=Path(".autoresearch"),
    show_default=True,
    help="Folder of the ledger and the reports.",
)
PROGRAM = click.option(
    "--program",
    type=click.Path(path_type=Path),
    default=Path("program.md"),
    show_default=True,
    help="The brief.",
)
BRIEF = click.option(
    "--brief",
    default=None,
    metavar="TEXT",
    help="Replaces the prose of the brief, never its front matter.",
)


class Commands(click.Group):
    """Errors are sentences: one line on standard error, and the exit code that DESIGN fixes."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            from autoresearch_action.commands.signals import at_once

            # Nobody reads it any more
            with suppress(OSError, ValueError):
                sys.stdout.flush()
            at_once()

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except UserError as error:
            click.echo(f"autoresearch: {error}", err=True)
            sys.exit(error.exit_code)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            click.echo(f"autoresearch: {error.strerror or error}{where}.", err=True)
            sys.exit(3)


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="autoresearch")
def main() -> None:
    """Propose edits, measure them honestly, keep what is promising, prove what is claimed, open a
    pull request.
    """


# Name, type, default, what it is
CAPS = (
    ("--max-experiments", int, budget.EXPERIMENTS, "Most experiments that are measured."),
    ("--max-minutes", float, budget.MINUTES, "Most minutes, confirmation and report included."),
    ("--max-usd", float, budget.USD, "Most dollars, for models and device."),
    (
        "--gpu-usd-per-hour",
        float,
        0.0,
        "What an hour of the device costs; counts towards --max-usd.",
    ),
    (
        "--usd-per-call",
        float,
        None,
        "Price of one agent call, where no price list knows it.",
    ),
)


def _caps(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, kind, default, text in CAPS:
        option = click.option(
            name, type=kind, default=default, show_default=bool(default), help=text
        )
        command = option(command)
    return command


@main.command()
@PROGRAM
@BRIEF
@click.option(
    "--agent",
    "agents",
    multiple=True,
    metavar="SPEC",
    help="claude[:MODEL], optuna, command:CMD or patches:DIR; several form an ensemble."
    " Default: claude with a key, optuna without.",
)
@click.option(
    "--effort",
    type=click.Choice(budget.EFFORTS),
    default=None,
    help="How much the claude agent thinks, where its model can.",
)
@_caps
@click.option(
    "--slots", default="auto", show_default=True, help="auto, a number, or devices: cuda:0,cuda:1."
)
@click.option(
    "--executor", default="local", show_default=True, help="local, ray://HOST:PORT, or ray://auto."
)
@click.option(
    "--checkpoint",
    default=None,
    metavar="URI",
    help="Model checkpoint that every trial starts from.",
)
@STATE
@click.option("--fresh", is_flag=True, help="Begin anew instead of resuming.")
def run(**options: Any) -> None:
    """Run experiments until a limit is reached, then confirm and report. Resumes by default."""
    from autoresearch_action.commands.run import Options, refuse_blank, run_session

    refuse_blank(run_session(Options(**options), Path.cwd()))


@main.command()
@STATE
def report(state: Path) -> None:
    """Rewrite results.tsv, progress.png, report.html and PULL_REQUEST.md from the ledger."""
    from autoresearch_action.commands.report import rewrite_report

    rewrite_report(state)
    click.echo(f"Wrote results.tsv, progress.png, report.html and PULL_REQUEST.md in {state}.")


@main.command()
@STATE
@BRIEF
@click.option("--dry-run", is_flag=True, help="Say what would be done; make no write request.")
def publish(state: Path, brief: str | None, dry_run: bool) -> None:
    """Open or update the pull request of a run that proved something."""
    from autoresearch_action.commands.publish import publish_session

    publish_session(state, dry_run, brief)


@main.command()
@PROGRAM
@click.option(
    "--pairs",
    type=click.IntRange(2, 1000),
    default=4,
    show_default=True,
    metavar="K",
    help="Pairs of runs to measure.",
)
@click.option(
    "--max-minutes",
    type=float,
    default=budget.MINUTES,
    show_default=True,
    help="The night that the forecast is for.",
)
@STATE
def measure(program: Path, pairs: int, max_minutes: float, state: Path) -> None:
    """Measure the noise of this brief, and say how many runs a gain of 0.1, 0.5, 1 or 5 % needs."""
    from autoresearch_action.commands.measure import measure_noise

    click.echo(measure_noise(program, Path.cwd(), state, pairs, max_minutes))


@main.command()
@PROGRAM
def doctor(program: Path) -> None:
    """Say what a first run needs and lacks here, and what to do."""
    from autoresearch_action.commands.doctor import doctor as examine

    sys.exit(examine(Path.cwd(), program))


@main.command()
def init() -> None:
    """Write program.md and a workflow for the repository at hand."""
    from autoresearch_action.commands.init import init as write

    written = write(Path.cwd())
    for path in written:
        click.echo(f"Wrote {path}.")
    add = f"git add {' '.join(map(str, written))}"
    click.echo(f"Read and commit: {add} && git commit; then `autoresearch doctor`.")


if __name__ == "__main__":
    main()
