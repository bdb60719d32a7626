"""Brief: program.md, read and checked. The front matter is the contract, the prose is for the
agent.

Covers parsing, types, ranges, defaults and the informal program.md of a plain autoresearch
checkout. Does not cover whether the commands work: `doctor` runs them.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import math
import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from autoresearch_action import metric_names
from autoresearch_action.errors import InputError
from autoresearch_action.records import Record, sign_of
from autoresearch_action.secret_names import is_secret
from autoresearch_action.syntax import parsed

MAX_PROGRAM_BYTES = 1_000_000
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


Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
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
    data: Folders = Field(default_factory=list)
    # Only `evaluate` sees these
    evaluate_data: Folders = Field(default_factory=list)
    # Stands in for the first of `data` where a candidate compiles, untimed
    decoy: Folder | None = None
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
        """sha256 over contract and prose."""
        return hashlib.sha256((self.model_dump_json() + "\0" + self.prose).encode()).hexdigest()

    @property
    def id(self) -> str:
        """Names this line of research: the working directory's place, the program's file, and the
        prose when dispatched.
        """
        stem = (
            re.sub(r"[^a-z0-9]+", "-", str(self.path.with_suffix("")).lower()).strip("-")
            or "program"
        )
        stem = "--".join(
            [*(re.sub(r"\W+", "-", part).strip("-") or "-" for part in self.place.parts), stem]
        )
        return (
            f"{stem}-{hashlib.sha256(self.prose.encode()).hexdigest()[:8]}"
            if self.dispatched
            else stem
        )


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


def read(program: Path, directory: Path, prose: str | None = None) -> Brief:
    """Read `program` (relative to `directory`). `prose` replaces what the file says below the front
    matter.

    Raises InputError with one sentence that names the key and the line.
    """
    file = directory / program
    try:
        # A pipe or a device: it may never end
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise InputError(f"{program} is no file.")
        with file.open("rb") as stream:
            raw = stream.read(MAX_PROGRAM_BYTES + 1)
            size = os.fstat(stream.fileno()).st_size
    except FileNotFoundError:
        raise InputError(f"{program} is not there: `autoresearch init` writes one.") from None
    except OSError as error:
        raise InputError(f"{program} cannot be read: {error.strerror}.") from None
    if size > MAX_PROGRAM_BYTES:
        raise InputError(f"{program} has {size:,} bytes; a brief may have {MAX_PROGRAM_BYTES:,}.")
    # Half a surrogate cannot be written down
    prose = prose and prose.encode("utf-8", "replace").decode()
    brief = parse(raw, program, directory, prose)
    _files_exist(brief, program, _front(raw))
    return brief


def parse(raw: bytes, program: Path, directory: Path, prose: str | None = None) -> Brief:
    """The brief that `raw`, the bytes of `program`, holds; what it names need not be in
    `directory`. Raises InputError.
    """
    if len(raw) > MAX_PROGRAM_BYTES:
        raise InputError(
            f"{program} has {len(raw):,} bytes; a brief may have {MAX_PROGRAM_BYTES:,}."
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{program}, byte {error.start}: not UTF-8 text.") from None
    if "\0" in text:
        raise InputError(f"{program} holds a NUL byte: it is no text file.")
    front, body = _split(text.replace("\r\n", "\n"), program)
    extra = {
        "path": program,
        "directory": directory.resolve(),
        "prose": (prose if prose is not None else body).strip(),
    }
    extra |= {"place": _place(directory.resolve()), "dispatched": prose is not None}
    return _informal(directory, extra) if front is None else _formal(front, program, extra)


def _place(directory: Path) -> Path:
    """`directory` relative to the top of its repository; "." outside of one."""
    top = next(
        (folder for folder in (directory, *directory.parents) if (folder / ".git").exists()),
        directory,
    )
    return directory.relative_to(top)


def _front(raw: bytes) -> str:
    return raw.decode("utf-8-sig").replace("\r\n", "\n").partition("\n")[2]


def _split(text: str, program: Path) -> tuple[str | None, str]:
    if not re.match(r"---[ \t]*\n", text):
        return None, text
    end = re.search(r"^---[ \t]*$", text[4:], re.MULTILINE)
    if not end:
        raise InputError(
            f"{program}, line 1: the front matter begins with --- and is never closed by a second"
            " ---."
        )
    return text[text.index("\n") + 1 : 4 + end.start()], text[4 + end.end() :]


def _formal(front: str, program: Path, extra: dict[str, Any]) -> Brief:
    values, lines = _yaml(front, program)
    for key in values:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else f"; the keys are {', '.join(KEYS)}."
            raise InputError(
                f"{program}, line {lines.get(key, 2)}: `{str(key)[:60]}` is not a key{hint}"
            )
    if values.get("run") is None and values.get("evaluate") is None:
        raise InputError(
            f"{program}, line 1: give `run` (one experiment) or `evaluate` (the scorer), or both."
        )
    values = _metric_in_a_file(values, f"{program}, line {lines.get('metric', 1)}")
    try:
        return Brief.model_validate({k: v for k, v in values.items() if v is not None} | extra)
    except ValidationError as error:
        raise InputError(_sentence(error, program, lines)) from None
    except RecursionError:
        raise InputError(f"{program}: the front matter is nested too deeply.") from None


def _metric_in_a_file(values: dict[str, Any], place: str) -> dict[str, Any]:
    """`metric: {name:, file:, path:}`, as the fields that it is."""
    where = values.get("metric")
    if not isinstance(where, dict):
        return values
    if not {"name", "file"} <= where.keys() <= {"name", "file", "path"}:
        raise InputError(f"{place}: `metric` must be a name, or {{name: …, file: …, path: …}}.")
    if PurePosixPath(file := str(where["file"])).is_absolute():
        raise InputError(f"{place}: `metric` names {file}: give a file in the working directory.")
    path = str(where.get("path") or "")
    return values | {"metric": where["name"], "metric_file": file, "metric_path": path}


def _yaml(front: str, program: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping and the line (in the file, from 1) of each key."""
    try:
        loader = Loader(front)
        if any(
            isinstance(token, (yaml.AnchorToken, yaml.AliasToken))
            for token in yaml.scan(front, Loader=Loader)
        ):
            raise InputError(
                f"{program}: YAML anchors and aliases (& and *) are not allowed in a brief;"
                " quote the value."
            )
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        if not isinstance(node, yaml.MappingNode):
            raise InputError(
                f"{program}, line {node.start_mark.line + 2}: the front matter must be `key: value`"
                " lines."
            )
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 2
            if not isinstance(key, yaml.ScalarNode):
                raise InputError(f"{program}, line {line}: a key must be a word.")
            if key.value in lines:
                raise InputError(
                    f"{program}, line {line}: `{key.value[:60]}` stands twice"
                    f" (first on line {lines[key.value]})."
                )
            lines[key.value] = line
        values = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        # Where it begins
        mark = error.context_mark if isinstance(error, yaml.scanner.ScannerError) else None
        mark = mark or error.problem_mark
        line = mark.line + 2 if mark else 2
        written = front.split("\n")[line - 2 : line - 1]
        begun = any(re.search(r"(:|-|\[|,)\s*[*&!%@`]", text) for text in written)
        quoted = " (quote what begins with * & ! % @ or a backtick)" if begun else ""
        raise InputError(
            f"{program}, line {line}: not valid YAML: {error.problem or error.context}{quoted}."
        ) from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise InputError(
            f"{program}: the front matter is not valid YAML: {' '.join(str(error).split())[:200]}."
        ) from None
    except RecursionError:
        raise InputError(f"{program}: the front matter is nested too deeply.") from None
    return {str(key): value for key, value in values.items()}, lines


def _sentence(error: ValidationError, program: Path, lines: dict[str, int]) -> str:
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"] if not str(part).startswith("function-")]
    key = location[0] if location else ""
    message = first["msg"].removeprefix("Value error, ")
    message = message.replace("Input should", "must").replace("List should", "must")
    if not message.startswith(("is ", "must ", "holds ", "needs ")):
        message = f"{message[0].lower()}{message[1:]}, got {str(first.get('input'))[:60]!r}"
    inner = f" ({location[1]})" if len(location) > 1 else ""
    return " ".join(f"{program}, line {lines.get(key, 1)}: `{key}`{inner} {message}.".split())


def _informal(directory: Path, extra: dict[str, Any]) -> Brief:
    """What a plain autoresearch checkout expects."""
    run = "uv run train.py" if (directory / "uv.lock").exists() else "python train.py"
    cache = Path("~/.cache/autoresearch").expanduser()
    return Brief(
        run=run,
        time_budget=literal_time_budget(directory / "prepare.py") or DEFAULT_TIME_BUDGET,
        data=[cache] if cache.is_dir() else [],
        informal=True,
        **extra,
    )


def literal_time_budget(file: Path) -> float | None:
    """The literal TIME_BUDGET (seconds) of a prepare.py; None where there is none."""
    try:
        module = parsed(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    for statement in module.body if module else ():
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            value = statement.value.value
            named = any(
                isinstance(target, ast.Name) and target.id == "TIME_BUDGET"
                for target in statement.targets
            )
            if named and isinstance(value, (int, float)) and 0 < value <= LONGEST:
                return float(value)
    return None


def _files_exist(brief: Brief, program: Path, front: str) -> None:
    def line(key: str) -> int:
        return next(
            (n for n, text in enumerate(front.split("\n"), 2) if text.startswith(f"{key}:")), 1
        )

    for pattern in brief.edit:
        plain = not pattern.startswith("!") and not re.search(r"[*?\[\]]", pattern)
        if plain and not (brief.directory / pattern.strip("/")).exists():
            raise InputError(
                f"{program}, line {line('edit')}: `edit` names {pattern},"
                f" which is not in {brief.directory.name}/."
            )
    for key in ("run", "evaluate", "check", "setup"):
        words = (getattr(brief, key) or "").split()
        script = (
            words[1]
            if len(words) > 1 and re.fullmatch(r"(uv|python[\d.]*|bash|sh)", words[0])
            else ""
        )
        script = words[2] if script == "run" and len(words) > 2 else script
        if re.fullmatch(r"[\w./-]+\.(py|sh)", script) and not (brief.directory / script).exists():
            raise InputError(
                f"{program}, line {line(key)}: `{key}` runs {script},"
                f" which is not in {brief.directory.name}/."
            )
