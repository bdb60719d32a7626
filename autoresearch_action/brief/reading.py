"""Reading program.md: front matter and prose, errors as one sentence with the line.

Covers the informal program.md of a plain autoresearch checkout too. What a key may hold is
contract.py's.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from pydantic import (
    ValidationError,
)

from autoresearch_action.brief.contract import DEFAULT_TIME_BUDGET, KEYS, LONGEST, Brief
from autoresearch_action.errors import InputError
from autoresearch_action.syntax import parsed

MERGE = "tag:yaml.org,2002:merge"
MAX_PROGRAM_BYTES = 1_000_000
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
            # A merge (<<) would bring in keys that are looked at nowhere
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
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
    """What a plain autoresearch checkout expects: what a person would run by hand beforehand is its
    setup, because trials have no network.
    """
    cache, setup = Path("~/.cache/autoresearch").expanduser(), list[str]()
    python = "python"
    if (directory / "uv.lock").exists():
        python = ".venv/bin/python"
        setup.append("uv sync --frozen")
    if not cache.is_dir() and (directory / "prepare.py").exists():
        setup.append(f"{python} prepare.py")
    return Brief(
        setup=" && ".join(setup) or None,
        run=f"{python} train.py",
        time_budget=literal_time_budget(directory / "prepare.py") or DEFAULT_TIME_BUDGET,
        data=[cache] if cache.is_dir() or setup else [],
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
