"""`autoresearch publish`: the pull request of a run that proved something, or what it would be."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import click

from autoresearch_action import text
from autoresearch_action.workspace.git import GitError, line

# An origin on a server: https, ssh, or ssh's short form
_ORIGIN = re.compile(
    r"(?:(?:https?|ssh)://)?(?:[^@/\s]*@)?([\w.-]+)(?::\d+/|[:/])([\w.-]+/[\w.-]+?)(?:\.git)?/?",
    re.ASCII,
)


def publish_session(
    state: Path, dry_run: bool, brief: str | None, environment: Mapping[str, str] = os.environ
) -> None:
    """`autoresearch publish`."""
    from autoresearch_action.github.handover import taken
    from autoresearch_action.github.pull_request import publish
    from autoresearch_action.report import body

    if dry_run and not environment.get("GITHUB_TOKEN") and not environment.get("GH_TOKEN"):
        with taken(state) as handed:
            run_state = handed.run_state
            told = (body.title if run_state.improved else body.verdict_line)(run_state)
        more = "it also says what would change on GitHub"
        click.echo(f"Dry run: {text.line(told)}\nWith GITHUB_TOKEN set {more}.")
        return
    given = {"AUTORESEARCH_BRIEF": brief} if brief else {}
    click.echo(
        publish(state, {**checkout(environment), **environment, **given}, dry_run).describe()
    )


def checkout(environment: Mapping[str, str]) -> dict[str, str]:
    """The repository and the branch as the folder that we are in has them: the ledger does not get
    to say where something is published.
    """
    found = {}
    with suppress(GitError):
        told = _ORIGIN.fullmatch(line("remote", "get-url", "origin"))
        server = environment.get("GITHUB_SERVER_URL", "https://github.com")
        if told and told[1].lower() == (urlsplit(server).hostname or ""):
            found["GITHUB_REPOSITORY"] = told[2]
    with suppress(GitError):
        found["GITHUB_REF"] = line("symbolic-ref", "-q", "HEAD")
    return found
