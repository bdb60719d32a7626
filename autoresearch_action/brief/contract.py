"""The contract of a run: the keys of the front matter, their types, ranges and defaults.

Does not read files (reading.py), and does not try the commands: `doctor` does.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from autoresearch_action.brief import metric_names
from autoresearch_action.brief.secret_names import is_secret
from autoresearch_action.records import Record, sign_of

# Seconds; a self-hosted job cannot run longer
LONGEST = 5 * 24 * 3600.0
DEFAULT_TIME_BUDGET = 300.0
_LIMIT = re.compile(
    r"^\s*(?:(?P<op><=|>=)\s*(?P<bound>[-+]?[\d.]+(?:e[-+]?\d+)?)|(?P<rel>[-+]\s*[\d.]+)\s*%)\s*$",
    re.IGNORECASE,
)


class Limit(Record):
    """A guardrail on another metric. Relative: at most `relative` × the base's value away (+0.10:
    10 % more).
    """

    text: str
    upper: float | None = None
    lower: float | None = None
    relative: float | None = None

    def bounds(self, base: float | None) -> tuple[float, float]:
        """(lowest, highest) value allowed, given the base's. A zero base allows no worsening; no
        base, anything.
        """
        if self.relative is None:
            return (
                -math.inf if self.lower is None else self.lower,
                math.inf if self.upper is None else self.upper,
            )
        if base is None:
            return (-math.inf, math.inf)
        edge = base + abs(base) * self.relative
        return (-math.inf, edge) if self.relative >= 0 else (edge, math.inf)


def _limit(value: Any) -> Any:
    if isinstance(value, Limit):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300:
        return Limit(text=str(value), upper=float(value))
    found = _LIMIT.match(value) if isinstance(value, str) else None
    if not found:
        raise ValueError('is not a limit: write a number, "+10%", "-5%", "<= 45000" or ">= 0.9"')
    try:
        if found["rel"]:
            return Limit(text=value.strip(), relative=float(found["rel"].replace(" ", "")) / 100)
        bound = float(found["bound"])
    except ValueError:
        raise ValueError(
            'is not a limit: write a number, "+10%", "-5%", "<= 45000" or ">= 0.9"'
        ) from None
    return Limit(text=value.strip(), **{"upper" if found["op"] == "<=" else "lower": bound})


def _command(value: str) -> str:
    if not value.strip() or "\0" in value:
        raise ValueError("must be a command, not an empty string")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w./@-]{0,99}", value):
        raise ValueError("must be a metric's name: letters, digits, _ . / - and no spaces")
    return value


def _pattern(value: str) -> str:
    if not value.strip() or "\0" in value or "\n" in value:
        raise ValueError("holds an empty pattern")
    if ".." in PurePosixPath(value).parts:
        raise ValueError(f"holds {value!r}, which leaves the working directory")
    return value


def _public_variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", value):
        raise ValueError(f"holds {value!r}, which is no name of a variable")
    if is_secret(value, os.environ.get(value)):
        raise ValueError(
            f"holds {value}, which looks like a secret: trials never see secrets;"
            " setup-env gives one to setup"
        )
    return value


def _variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", value):
        raise ValueError(f"holds {value!r}, which is no name of a variable")
    return value


def _list(value: Any) -> Any:
    """A string where a list is meant is a list of one."""
    return [value] if isinstance(value, str) else value


def _folder(value: Any) -> Any:
    if not isinstance(value, (str, Path)) or not str(value).strip() or "\0" in str(value):
        raise ValueError("must name folders")
    # Pathlib's raises for an unknown ~user
    path = Path(os.path.expanduser(value))
    if not path.is_absolute():
        raise ValueError(f"holds {str(value)!r}: give an absolute path or one that begins with ~")
    if len(path.parts) < 3:
        raise ValueError(f"holds {str(value)!r}, which is too wide to hand to a trial")
    return path


Command = Annotated[str, AfterValidator(_command)]
Seconds = Annotated[float, Field(gt=0, le=LONGEST, allow_inf_nan=False)]
Folder = Annotated[Path, BeforeValidator(_folder)]
OneOrMore = BeforeValidator(_list)
Folders = Annotated[list[Folder], OneOrMore]


class Transfer(Record):
    """Does the win hold at a larger scale? `run` takes the run command's place, `set` edits
    module-level literals.
    """

    run: Command | None = None
    set: dict[str, bool | int | float | str] = Field(default_factory=dict)
    require: bool = False

    @model_validator(mode="after")
    def _says_something(self) -> Transfer:
        if self.run is None and not self.set:
            raise ValueError("needs `run`, `set` or both")
        return self


class Brief(Record):
    """The contract of one research run. Keys of the front matter are the kebab-case of these
    fields.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
        strict=True,
    )

    edit: Annotated[
        list[Annotated[str, AfterValidator(_pattern)]], Field(min_length=1), OneOrMore
    ] = ["train.py"]
    run: Command | None = None
    evaluate: Command | None = None
    check: Command | None = None
    setup: Command | None = None
    metric: Annotated[str, AfterValidator(_name)] = "val_bpb"
    # Where the metric stands in a file that the scorer writes: `metric: {name:, file:, path:}`
    metric_file: Annotated[str, AfterValidator(_pattern)] | None = None
    metric_path: str = ""
    goal: Literal["minimize", "maximize"] = "minimize"
    # None: as the metric's name proposes
    measures: Literal["quality", "time"] | None = None
    time_budget: Seconds = DEFAULT_TIME_BUDGET
    timeout: Seconds | None = None
    limits: dict[
        Annotated[str, AfterValidator(_name)], Annotated[Limit, BeforeValidator(_limit)]
    ] = Field(default_factory=dict)
    exact: bool = False
    transfer: Transfer | None = None
    target: Annotated[float, Field(allow_inf_nan=False)] | None = None
    # Least gain that a change is worth to a reviewer, in the metric's unit; None: by the noise
    price: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    data: Folders = Field(default_factory=list)
    # Prints a profile; None: cProfile for Python. And more files that an agent is shown first
    profile: Command | None = None
    context: Annotated[list[Annotated[str, AfterValidator(_pattern)]], OneOrMore] = Field(
        default_factory=list
    )
    # Only `evaluate` sees these
    evaluate_data: Folders = Field(default_factory=list)
    # Stands in for the first of `data` where a candidate compiles, untimed
    decoy: Folder | None = None
    # Of what `run` leaves, beside plain data
    hand_over: Annotated[list[Annotated[str, AfterValidator(_pattern)]], OneOrMore] = Field(
        default_factory=list
    )
    env: Annotated[list[Annotated[str, AfterValidator(_public_variable)]], OneOrMore] = Field(
        default_factory=list
    )
    network: bool = False
    sandbox: Literal["auto", "require", "none"] = "auto"
    setup_env: Annotated[list[Annotated[str, AfterValidator(_variable)]], OneOrMore] = Field(
        default_factory=list
    )
    visibility: Literal["full", "hash"] = Field(default="full", alias="brief-visibility")

    # Not keys of the front matter:
    path: Path = Field(default=Path("program.md"), exclude=True)
    # Absolute working directory
    directory: Path = Field(default=Path("."), exclude=True)
    # Of the working directory in its repository
    place: Path = Field(default=Path("."), exclude=True)
    prose: str = Field(default="", exclude=True)
    informal: bool = Field(default=False, exclude=True)
    # The prose came with the event, not from the file
    dispatched: bool = Field(default=False, exclude=True)

    @field_validator("decoy")
    @classmethod
    def _stands_in(cls, value: Path | None, told: ValidationInfo) -> Path | None:
        if value and not (told.data.get("run") and told.data.get("data")):
            raise ValueError("needs `run`, and a folder in `data` that it stands in for")
        return value

    @field_validator("hand_over")
    @classmethod
    def _goes_from_one_to_another(cls, value: list[str], told: ValidationInfo) -> list[str]:
        if value and not (told.data.get("run") and told.data.get("evaluate")):
            raise ValueError("needs `run`, which leaves files, and `evaluate`, which gets them")
        return value

    @property
    def sign(self) -> int:
        """improvement = sign × (head − base)."""
        return sign_of(self.goal)

    @property
    def fixed_time(self) -> bool:
        """Whether training time is fixed: every candidate is held to the same clock."""
        return (self.informal or "time_budget" in self.model_fields_set) and not self.measures_time

    @property
    def measures_time(self) -> bool:
        """Whether the metric is a duration or a rate: then two trials never share a machine's
        cores.
        """
        return metric_names.taken_for(self.metric, self.measures)[0] == "time"

    @property
    def contract(self) -> dict[str, Any]:
        """The front matter that differs from the defaults, and what all are equal in."""
        told = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return told | ({"time-budget": self.time_budget} if self.fixed_time else {})

    @property
    def hash(self) -> str:
        """sha256 over prose and contract, but for what only agents see: no evidence rests on it."""
        told = self.model_dump_json(exclude={"context", "profile"}) + "\0" + self.prose
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def id(self) -> str:
        """Names this line of research: the working directory's place, the program's file, and the
        prose when dispatched.
        """
        name = re.sub(r"[^a-z0-9]+", "-", str(self.path.with_suffix("")).lower()).strip("-")
        folders = [re.sub(r"\W+", "-", part).strip("-") or "-" for part in self.place.parts]
        stem = "--".join([*folders, name or "program"])
        prose = hashlib.sha256(self.prose.encode()).hexdigest()[:8]
        return f"{stem}-{prose}" if self.dispatched else stem


_INTERNAL = {
    "metric_file",
    "metric_path",
    "path",
    "directory",
    "place",
    "prose",
    "informal",
    "dispatched",
}
KEYS = [field.alias or name for name, field in Brief.model_fields.items() if name not in _INTERNAL]
