"""A source file in few characters: its definitions with the numbers of their lines, some of them
whole.

Python by its syntax tree; of other languages, the lines that look like definitions. What is wanted
whole is given by name; what those need of the same file follows while there is room.
"""

from __future__ import annotations

import ast
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from autoresearch_action.syntax import parsed

# Characters of one line of an outline
WIDTH = 140
_DEFINES = re.compile(
    r"\s{0,8}(?:export |default |pub(?:\([a-z]+\))? |public |private |protected |static |async |"
    r"abstract |final |inline |extern |unsafe )*"
    r"(?:function|class|def|fn|func|impl|struct|enum|interface|trait|type|module|namespace|const|"
    r"template|typedef|#define|sub|proc)\b.*|[A-Za-z_][\w:<>,*&\s]*\([^;{]*\)\s*\{\s*"
)
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Part:
    """One top-level statement, or one method. `lines`: numbers of its first and last, inclusive."""

    name: str
    lines: tuple[int, int]
    # As an outline tells it, one line
    told: str
    # Names that it uses
    uses: frozenset[str] = frozenset()
    # Of a class
    members: tuple[Part, ...] = ()


def parts(text: str) -> list[Part]:
    """The parts of a file, in order."""
    tree = parsed(text)
    lines = text.split("\n")
    if tree is None:
        found = [n for n, line in enumerate(lines, 1) if _DEFINES.match(line)]
        ends = [*(n - 1 for n in found[1:]), len(lines)]
        return [
            Part(_name(lines[n - 1]), (n, end), _line(lines[n - 1]))
            for n, end in zip(found, ends, strict=False)
        ]
    return [part for node in tree.body if (part := _part(node, lines))]


def _name(line: str) -> str:
    words = re.findall(r"[A-Za-z_]\w*(?=\s*[(<{:=]|\s*$)", line)
    return words[0] if words else ""


def _part(node: ast.stmt, lines: list[str]) -> Part | None:
    words = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    if words or isinstance(node, ast.Import | ast.ImportFrom):
        return None
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    span = (first, node.end_lineno or node.lineno)
    uses = frozenset(_used(node))
    if isinstance(node, _Definition):
        members = (
            tuple(part for child in node.body if (part := _part(child, lines)))
            if isinstance(node, ast.ClassDef)
            else ()
        )
        return Part(node.name, span, _signature(node), uses, members)
    return Part(_assigned(node), span, _line(lines[node.lineno - 1]), uses)


def _assigned(node: ast.stmt) -> str:
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return names[0] if names else ""


def _used(node: ast.AST) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Name):
            yield child.id
        elif isinstance(child, ast.Attribute):
            yield child.attr


def _signature(node: _Definition) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        head = f"class {node.name}{f'({bases})' if bases else ''}"
    else:
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        head = f"{kind} {node.name}({ast.unparse(node.args)}){returns}"
    return _line(head)


def _line(text: str) -> str:
    told = text.strip()
    return told if len(told) <= WIDTH else told[: WIDTH - 1] + "…"


def outline(text: str, room: int) -> str:
    """`12-40: def f(x)` a line, members indented, in at most `room` characters."""
    told = [line for part in parts(text) for line in _told(part)]
    kept, left = list[str](), room
    for line in told:
        left -= len(line) + 1
        if left < 0:
            return "\n".join([*kept, f"… {len(told) - len(kept)} further definitions"])
        kept.append(line)
    return "\n".join(kept)


def _told(part: Part, margin: str = "") -> Iterator[str]:
    first, last = part.lines
    where = f"{first}" if first == last else f"{first}-{last}"
    yield f"{where}: {margin}{part.told}"
    for member in part.members:
        if member.name and "(" in member.told:
            yield from _told(member, margin + "  ")


def excerpt(text: str, wanted: Collection[str], room: int) -> str:
    """The definitions named in `wanted`, and what those use of the same file, word for word, the
    rest as an outline; at most about `room` characters.
    """
    found = parts(text)
    whole = _chosen(found, wanted, text.split("\n"), room * 2 // 3)
    left = room - sum(map(len, whole.values()))
    told: list[str] = []
    for line, word_for_word in _mixed(found, whole):
        left -= 0 if word_for_word else len(line) + 1
        if word_for_word or left >= 0:
            told.append(line)
    return "\n".join(told)


Whole = Mapping[tuple[int, int], str]


def _mixed(found: Iterable[Part], whole: Whole, margin: str = "") -> Iterator[tuple[str, bool]]:
    """(line or text, whether it is the file's own)."""
    for part in found:
        if part.lines in whole:
            yield whole[part.lines], True
        elif any(member.lines in whole for member in part.members):
            yield next(_told(part, margin)), False
            yield from _mixed(part.members, whole, margin + "  ")
        else:
            yield from ((line, False) for line in _told(part, margin))


def _chosen(found: list[Part], wanted: Collection[str], lines: list[str], room: int) -> Whole:
    """Text by its lines: what is wanted first, then what that uses, breadth first."""
    named = {member.name: member for part in found for member in part.members if member.name}
    named |= {part.name: part for part in found if part.name}
    queue, whole = deque(name for name in wanted if name in named), dict[tuple[int, int], str]()
    while queue:
        part = named[queue.popleft()]
        first, last = part.lines
        body = "\n".join(lines[first - 1 : last])
        if part.lines in whole or len(body) > room:
            continue
        room -= len(body)
        whole[part.lines] = body
        queue.extend(sorted(use for use in part.uses if use in named))
    return whole
