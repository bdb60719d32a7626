"""What started the job: the dispatched brief and checkpoint, read from the event file. Nothing is
interpolated anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from autoresearch_action.errors import InputError
from autoresearch_action.records import Record


class Dispatch(Record):
    """None: not given."""

    brief: str | None = None
    checkpoint: str | None = None
    # Counts how often the queue has sent it
    attempt: Annotated[int, Field(ge=1)] = 1


def read(environ: Mapping[str, str]) -> Dispatch:
    """The dispatch of this job; an empty one outside of a job. Raises InputError."""
    path, name = environ.get("GITHUB_EVENT_PATH"), environ.get("GITHUB_EVENT_NAME", "")
    if not path or not Path(path).is_file():
        return Dispatch()
    try:
        event = json.loads(Path(path).read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"The event file holds no JSON: {error}.") from None
    given = (
        _mapping(event, "inputs")
        if name == "workflow_dispatch"
        else _mapping(event, "client_payload")
        if name == "repository_dispatch"
        else {}
    )
    attempt = given.get("attempt", 1)
    return Dispatch(
        brief=_text(given, "brief"),
        checkpoint=_text(given, "checkpoint"),
        attempt=max(1, attempt) if isinstance(attempt, int) else 1,
    )


def prose(given: str | None, environ: Mapping[str, str]) -> str | None:
    """What stands in for the brief's own prose: as given, else as dispatched; None where neither
    is. Raises InputError.
    """
    return _whole(given or "") or read(environ).brief


def _mapping(event: Any, key: str) -> Mapping[str, Any]:
    value = event.get(key) if isinstance(event, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _text(given: Mapping[str, Any], key: str) -> str | None:
    value = given.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise InputError(f"The event's `{key}` is {type(value).__name__}: it must be text.")
    return _whole(value)


def _whole(value: str) -> str | None:
    # Half a surrogate cannot be written down
    return value.encode("utf-8", "replace").decode().strip() or None
