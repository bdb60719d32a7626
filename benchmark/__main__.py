"""Run one of the targets: `python -m benchmark run NAME [--agent SPEC]... [--minutes 30]
[--place DIR] [-- …]`.

Copies benchmark/targets/NAME into a fresh git repository (without `hidden/`, which lies beside it,
for the scorer alone), fetches what the target's fetch.py names, and starts `autoresearch run`
there, which ends in the preview. Without an agent and without a key it tries the patches that the
tests keep of a target whose code is ours, so that it ends in a claim anywhere. The other benchmarks
are scripts of their own.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from autoresearch_action.isolation.secrets import MODEL_KEYS

TARGETS = Path(__file__).resolve().parent / "targets"
NAMES = sorted(path.parent.name for path in TARGETS.glob("*/program.md"))
# Stands in a program.md for the folder above the repository
PLACE = "PLACE"
RECORDED = TARGETS.parent.parent / "tests" / "targets"
IDENTITY = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@example.com"]


def prepare(name: str, place: Path) -> Path:
    """A repository with the target, committed, below `place`, which must not exist."""
    home = place / name
    left_out = shutil.ignore_patterns("hidden", "fetch.py", "__pycache__", ".*cache")
    shutil.copytree(TARGETS / name, home, ignore=left_out)
    if (TARGETS / name / "hidden").is_dir():
        shutil.copytree(TARGETS / name / "hidden", place / "hidden")
        # The same text lies in the open, at home
        (place / "hidden" / "hidden.txt").write_text(f"{TARGETS / name / 'hidden'}\n")
    if (TARGETS / name / "fetch.py").is_file():
        importlib.import_module(f"benchmark.targets.{name}.fetch").fetch(home)
    program = home / "program.md"
    program.write_text(program.read_text().replace(PLACE, str(place)))
    (home / ".gitignore").write_text(".autoresearch/\n__pycache__/\n")
    for words in (["init", "-q", "-b", "main"], ["add", "-Af"], ["commit", "-q", "-m", "Start"]):
        subprocess.run(["git", *IDENTITY, *words], cwd=home, check=True)
    return home


def _anchored(spec: str) -> str:
    """An agent's folder is named from where the command is given, not from the copy."""
    kind, colon, rest = spec.partition(":")
    return f"{kind}:{Path(rest).resolve()}" if colon and kind in ("patches", "recorded") else spec


@click.group()
def main() -> None:
    """What the search can do on code of many kinds."""


@main.command()
@click.argument("name", type=click.Choice(NAMES))
@click.option("--agent", "agents", multiple=True, help="As of `autoresearch run`, or the patches.")
@click.option("--minutes", default=30.0, show_default=True, help="Most minutes.")
@click.option("--place", type=click.Path(path_type=Path), help="A folder to make (default: new).")
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
def run(
    name: str, agents: tuple[str, ...], minutes: float, place: Path | None, more: tuple[str, ...]
) -> None:
    """Run the target NAME in a repository of its own, to the preview.

    What stands behind `--` goes to `autoresearch run` as it is.
    """
    place = (place or Path(tempfile.mkdtemp(prefix="autoresearch-"), "target")).resolve()
    if place.exists():
        raise click.UsageError(f"{place} is there already.")
    words = ["--max-minutes", f"{minutes:g}"]
    if not agents and not any(os.environ.get(key) for key in MODEL_KEYS):
        if not (RECORDED / name).is_dir():
            raise click.UsageError(f"{name} has no patch of its own: give --agent, or a key.")
        agents = (f"patches:{RECORDED / name / 'honest'}",)
    words += [word for agent in agents for word in ("--agent", _anchored(agent))]
    home = prepare(name, place)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "autoresearch_action", "run", *words, *more]
    done = subprocess.run(command, cwd=home, env=os.environ | {"PATH": path})
    click.echo(f"It is all in {home / '.autoresearch'}.")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
