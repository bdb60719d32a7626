"""Write docs/reference.md from action.yml, the workflows, the command line and the brief's fields.

`python docs/reference.py` says whether the page is as these are now (exit 1 where it is not);
`--write` writes it. Covers names, defaults and one line each; what they are good for is said in
the other pages. Only the lines on the brief's keys are written here, since its fields carry none.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = Path(__file__).with_suffix(".md")
sys.path.insert(0, str(ROOT))

from autoresearch_action.brief import KEYS, Brief  # noqa: E402
from autoresearch_action.cli import main as commands  # noqa: E402

HEAD = """# Reference

Written by `python docs/reference.py --write` from the code, and checked by `make lint`.
"""
EXIT_CODES = """### Exit codes

0 done (improved or not), 2 the input is wrong, 3 the surroundings are (no token, no GPU, no
permission), 1 a bug, 130 ended at once by a second Ctrl-C.
"""
BRIEF = {
    "edit": "What an agent may change: gitignore patterns from the working directory",
    "run": "One experiment, in a clean checkout of the candidate",
    "evaluate": "The frozen scorer, in a sandbox of its own; without it the score is self-reported",
    "check": "Must exit 0, or the edit is discarded",
    "setup": "Once, with the network, before anything is measured; trials see what it makes",
    "metric": "Name of the number that is judged, or `{name, file, path}` in a file",
    "goal": "`minimize` or `maximize`",
    "measures": "`time` or `quality`: what the metric is; by default its name decides",
    "time-budget": "Seconds of training: where given, equal for all and measured from outside",
    "timeout": "Most seconds that `run` may take",
    "limits": "Guardrails on other printed numbers: `+10%`, `-5%`, `<= 45000`, `>= 0.9`",
    "exact": "The metric is a count, not a measurement: one run decides",
    "transfer": "The same at a larger scale: `run` (a command), `set` (literals), `require`",
    "price": "Least gain that a change is kept for, in the metric's unit; by default 0.3 σ",
    "target": "Stop when the metric reaches this",
    "data": "Folders that a trial may read",
    "profile": "Prints a profile, once for each incumbent; by default cProfile around a Python run",
    "context": "More files that an agent is shown first: gitignore patterns as in `edit`",
    "evaluate-data": "Folders that only the scorer may read, with what is to be hidden elsewhere",
    "decoy": "Stands in for the first of `data` in the untimed pass in which a candidate compiles",
    "hand-over": "Patterns of what else `run` hands to the scorer, beside plain data",
    "env": "Variables of the runner that trials see; never secrets",
    "network": "Whether trials have the network",
    "sandbox": "`auto` (the strongest there is), `require` (full or nothing) or `none`",
    "setup-env": "Secrets that `setup` alone sees",
    "brief-visibility": "`full`, or `hash`: keep the prose out of the pull request",
}


def cell(value: object) -> str:
    """A default as code; a dash where there is none."""
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, float):
        value = f"{value:g}"
    if isinstance(value, list):
        value = ", ".join(value)
    return "–" if value in (None, "", [], {}) else f"`{value}`"


def table(head: str, rows: Iterator[tuple[str, ...]]) -> list[str]:
    columns = head.split(" | ")
    lines = [f"| {head} |", f"|{' --- |' * len(columns)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def described(facts: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, fact in facts.items():
        needed = "required" if fact.get("required") else cell(fact.get("default"))
        yield f"`{name}`", needed, fact["description"]


def named(facts: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, fact in facts.items():
        yield f"`{name}`", fact["description"]


def action(title: str, path: str) -> list[str]:
    """Inputs and outputs of an action, or of a workflow that others call."""
    told = yaml.safe_load((ROOT / path).read_text())
    # YAML 1.1 reads a workflow's `on` as true
    told = told[True]["workflow_call"] if True in told else told
    lines = [f"## {title}", "", f"[{path}](../{path})", ""]
    lines += table("input | default | what it is", described(told["inputs"]))
    if told.get("secrets"):
        lines += table("secret | what it is", named(told["secrets"]))
    if told.get("outputs"):
        lines += table("output | what it is", named(told["outputs"]))
    return lines


def options(command: click.Command) -> Iterator[tuple[str, ...]]:
    for option in command.params:
        assert isinstance(option, click.Option)
        default = None if option.is_flag or option.multiple else option.to_info_dict()["default"]
        yield f"`{option.opts[0]}`", cell(default), (option.help or "").rstrip(".")


def command_line() -> list[str]:
    lines = ["## The command line", ""]
    for name, command in commands.commands.items():
        lines += [f"### autoresearch {name}", "", str(command.help).replace("\n", " "), ""]
        if command.params:
            lines += table("option | default | what it is", options(command))
    return [*lines, EXIT_CODES]


def keys() -> Iterator[tuple[str, ...]]:
    """Raises SystemExit where the keys here are not those of the brief."""
    if odd := set(BRIEF) ^ set(KEYS):
        sys.exit(f"docs/reference.py describes other keys than brief.py has: {', '.join(odd)}.")
    fields = {field.alias or name: field for name, field in Brief.model_fields.items()}
    for key in KEYS:
        yield f"`{key}`", cell(fields[key].get_default(call_default_factory=True)), BRIEF[key]


def page() -> str:
    lines = [
        HEAD,
        *action("The action", "action.yml"),
        *action("The publishing action", ".github/actions/publish/action.yml"),
        *action("The queue action", ".github/actions/queue/action.yml"),
        *action("The reusable workflow", ".github/workflows/autoresearch.yml"),
        *action("The fleet workflow", ".github/workflows/autoresearch-fleet.yml"),
        *command_line(),
        "## Keys of a brief",
        "",
        *table("key | default | what it is", keys()),
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    wanted = page()
    if parser.parse_args().write:
        PAGE.write_text(wanted)
        return 0
    present = PAGE.read_text() if PAGE.exists() else ""
    sys.stdout.writelines(
        difflib.unified_diff(present.splitlines(True), wanted.splitlines(True), "is", "should be")
    )
    return int(present != wanted)


if __name__ == "__main__":
    sys.exit(main())
