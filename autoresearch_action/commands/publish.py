"""`autoresearch publish`: the pull request of a run that proved something, or what it would be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click

from autoresearch_action.commands.report import read_state


def publish_session(
    state: Path, dry_run: bool, environment: Mapping[str, str] = os.environ
) -> None:
    """`autoresearch publish`."""
    from autoresearch_action.github.pull_request import publish
    from autoresearch_action.report import body

    if dry_run and not environment.get("GITHUB_TOKEN") and not environment.get("GH_TOKEN"):
        run_state = read_state(state)
        told = (
            body.title(run_state)
            if run_state.improved
            else body.verdict_line(run_state)
            if run_state.run
            else "nothing yet"
        )
        more = "it also says what would change on GitHub"
        click.echo(f"Dry run: {told}\nWith GITHUB_TOKEN and GITHUB_REPOSITORY set {more}.")
        return
    click.echo(publish(state, environment, dry_run).describe())
