"""What a model says of its edits, asked for by a schema: in one reply with them, or in the call of
`submit` that ends its turns.

The order is that of thinking: the analysis first, the edits last.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pydantic import ConfigDict, ValidationError

from autoresearch_action.agents import Context, Draft
from autoresearch_action.agents.edits import Edit, EditRefused
from autoresearch_action.agents.numbers import one_line
from autoresearch_action.records import Record, Usage

KINDS = ("parameter", "algorithm", "structure", "removal", "speed", "data", "other")
# Of what the model says; the analysis and the notes are for its own next call
DESCRIPTION, HYPOTHESIS, ANALYSIS, NOTES, LESSON = 200, 1_000, 4_000, 2_000, 300
_DESCRIPTION = re.compile(r'"description"\s*:\s*"((?:[^"\\]|\\.)*)"')


class Lesson(Record):
    """What was learnt of an experiment."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    number: int
    text: str


class Said(Record):
    """What the model says of its edits."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    analysis: str = ""
    description: str
    hypothesis: str = ""
    kind: str = ""
    # Metric's unit, > 0 better
    expected_gain: float | None = None
    expected_low: float | None = None
    expected_high: float | None = None
    # In words: of a server that takes no schema
    expected: str = ""
    comparable: bool | None = None
    lessons: list[Lesson] = []
    notes: str = ""


class Reply(Said):
    """One reply with everything in it."""

    edits: list[Edit]


def _fields(metric: str, trains: bool) -> dict[str, Any]:
    number = {"type": "number"}
    fields: dict[str, Any] = {
        "analysis": _text(
            "think first, freely: what the measurements say about where the result comes from,"
            " what limits it, which ideas you see and why you take this one"
        ),
        "description": _text("one line: what is changed"),
        "hypothesis": _text("why it should help, two sentences at most"),
        "kind": {"type": "string", "enum": [*KINDS]},
        "expected_gain": number
        | {"description": f"that you expect, in {metric}'s unit, > 0 better"},
        "expected_low": number | {"description": "which it will exceed in 9 of 10 cases"},
        "expected_high": number | {"description": "which it will not exceed in 9 of 10 cases"},
    }
    if trains:
        fields["comparable"] = {
            "type": "boolean",
            "description": "false where the training loss cannot be held against the present"
            " code's (another loss, context length, tokenizer or schedule)",
        }
    return fields | {
        "lessons": {
            "type": "array",
            "description": "what you learn from verdicts that have no lesson yet, a line each",
            "items": _object({"number": {"type": "integer"}, "text": {"type": "string"}}),
        },
        "notes": _text("for your own next call: plans, what to try after this, what to watch"),
    }


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [*properties],
        "properties": properties,
    }


def schema(metric: str, trains: bool) -> dict[str, Any]:
    """Of one reply with the edits in it."""
    edit = _object({name: {"type": "string"} for name in ("file", "search", "replace")})
    fields = _fields(metric, trains)
    return _object(fields | {"edits": {"type": "array", "items": edit}})


def submit_tool(metric: str, trains: bool) -> dict[str, Any]:
    """The tool that ends the turns; the analysis has been said by then."""
    fields = {name: f for name, f in _fields(metric, trains).items() if name != "analysis"}
    return {
        "name": "submit",
        "description": "Hand in what you have edited as the experiment. Ends your turns.",
        "input_schema": _object(fields),
    }


def read(text: str) -> Reply:
    """The JSON of a reply; a fence or words around it, as from a server without structured output,
    are passed over. Raises EditRefused.
    """
    try:
        return Reply.model_validate_json(text[text.index("{") : text.rindex("}") + 1])
    except ValidationError as error:
        raise EditRefused(
            f"The reply is not the JSON that was asked for: {_wrong(error)}."
        ) from None
    except ValueError:
        raise EditRefused(
            "The reply is not the JSON that was asked for: give one JSON object."
        ) from None


def submitted(given: object) -> Said:
    """What `submit` was called with. Raises EditRefused."""
    try:
        return Said.model_validate(given)
    except ValidationError as error:
        raise EditRefused(f"`submit` was called wrongly: {_wrong(error)}.") from None


def _wrong(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the JSON'}: {first['msg']}"


def intended(text: str) -> str:
    """The description in the beginning of a reply, as soon as it is whole; "" before."""
    found = _DESCRIPTION.search(text)
    return one_line(found[1], DESCRIPTION) if found else ""


def expectation(said: Said) -> str:
    """In words."""
    if said.expected_gain is None:
        return said.expected
    span = [v for v in (said.expected_low, said.expected_high) if v is not None]
    told = f" ({' to '.join(f'{value:+.3g}' for value in span)})" if span else ""
    return f"{said.expected_gain:+.3g}{told}"


def draft(said: Said, clean: Callable[[str, int], str], analysis: str, usage: Usage) -> Draft:
    """As the research takes it. `clean`: a line of at most so many characters, without the key."""
    own = {
        "analysis": clean(analysis or said.analysis, ANALYSIS),
        "notes": clean(said.notes, NOTES),
        "kind": said.kind if said.kind in KINDS else "",
    }
    return Draft(
        description=clean(said.description, DESCRIPTION) or "an edit without a description",
        hypothesis=clean(said.hypothesis, HYPOTHESIS),
        expected=clean(expectation(said), 300),
        predicted=said.expected_gain,
        comparable=said.comparable,
        usage=usage,
        details={name: text for name, text in own.items() if text},
        lessons={one.number: clean(one.text, LESSON) for one in said.lessons[:20]},
    )


def notes(context: Context, agent: str) -> str:
    """What the agent noted in its last call, and which verdicts wait for a lesson of it."""
    made = [
        e for e in [*context.history, *context.pending] if e.proposal and e.proposal.agent == agent
    ]
    parts = []
    if last := [
        e.proposal.details["notes"] for e in made if e.proposal and "notes" in e.proposal.details
    ]:
        parts.append(f"Your notes from your last call: {last[-1]}")
    open_ones = [
        f"#{e.number}" for e in made if e.verdict and e.runs and e.number not in context.lessons
    ]
    if open_ones:
        parts.append(f"Verdicts on your ideas without a lesson yet: {', '.join(open_ones[-12:])}.")
    return "\n".join(parts)
