"""The literals of a Python file that a search can turn: found by syntax alone, replaced byte for
byte.

Covers module constants, class and dataclass fields, argparse and click defaults, keyword and
parameter defaults, floats inside functions; numbers, booleans, and strings whose alternatives the
file itself shows. Does not run or import the file. Which branch is taken it knows only of `A if
CUDA else B`; elsewhere a literal without effect is measured as one.
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from autoresearch_action.agents.edits import INCOMPARABLE
from autoresearch_action.syntax import parsed

Value = bool | int | float | str

# Seeds, budgets, scoring, printing, places and sizes that the data fixes are not the search's to
# turn.
_FIXED = re.compile(
    r"(^|_)(seed|budget|minutes|seconds|timeout|eval|val|valid|validation|test|holdout|log|logging|print|verbose|debug|every"
    r"|interval|profile|flops|version|port|path|dir|file|url|name|vocab|bos|eos|pad|rank|world|workers|threads|device"
    r"|dtype|split|slice|eps|epsilon|infinity|inf|nan|max_int|bytes|checkpoint|save|resume|wandb|project)(_|$)"
)
# What moves most models most: their size, their batch and their rates (Hutter, Hoos & Leyton-Brown
# 2014 on importance).
_WEIGHTY = re.compile(
    r"(^|_)(depth|layers?|width|dim|embd|hidden|heads?|batch|tokens|lr|rate)(_|$)"
)
# What a step costs
_SIZE = re.compile(r"(^|_)(depth|layers?|width|dim|embd|hidden|batch|tokens)(_|$)")
_ALLOWED = re.compile(r"device_batch|batch_per_device|path_drop|drop_path")
_RATE = re.compile(r"(^|_)(lr|rate|scale|mult|multiplier|gain|cap|softcap|std|norm|clip)(_|$)")
# Where a float that is off may go
ZERO_STEPS = (0.01, 0.03, 0.1, 0.2)
# Integers below it move by ones; powers of two from it on stay powers of two
SMALL = 16
# A number moves by at most this factor at a time
REACH = math.log(3.0)


@dataclass(frozen=True)
class Knob:
    """One literal. `start` and `end` are byte offsets of `text` in the source; `tier` 0 is the most
    likely knob.
    """

    # File and name: the same literal after other edits
    key: str
    name: str
    start: int
    end: int
    text: str
    value: Value
    tier: int
    # A categorical literal's values, its own among them
    choices: tuple[Value, ...] = ()
    # "2" where the literal is the exponent of 2**19
    base: str = ""

    @property
    def comparable(self) -> bool:
        """Whether training losses on both sides of a change can be compared."""
        return not INCOMPARABLE.search(self.name.lower())

    @property
    def weighty(self) -> bool:
        """Whether its name speaks of the model's size, the batch or a rate."""
        return bool(_WEIGHTY.search(_words(_last(self.name).partition("#")[0])))

    @property
    def size(self) -> bool:
        """Whether a smaller value makes a step cheaper: a module's own integer, named for the
        model's or the batch's size.
        """
        whole = isinstance(self.value, int) and not isinstance(self.value, bool)
        return (
            whole
            and self.tier == 0
            and bool(_SIZE.search(_words(_last(self.name).partition("#")[0])))
        )

    def half(self) -> int:
        """Half of an integer, at least one; of a power of two written as one, the one below it."""
        assert isinstance(self.value, int)
        return max(1, self.value - 1 if self.base else self.value // 2)

    def at(self, position: float) -> Value:
        """The value at `position` in [-1, 1] of the range around the present value (0); numbers
        only.
        """
        value = self.value
        assert isinstance(value, (int, float))
        if isinstance(value, int):
            if self.base:
                return value + round(2 * position)
            if value < SMALL:
                return max(1, value + round(position * max(2, value / 2)))
            if value & (value - 1) == 0:
                return max(1, int(value * 2.0 ** round(2 * position)))
            grain = min(value & -value, 64)
            return max(grain, round(value * math.exp(REACH * position) / grain) * grain)
        if self._bounded:
            odds = math.exp(REACH * position) * (1 - value) / value
            # The distance from 1 in two digits
            return round(1 - float(f"{odds / (1 + odds):.2g}"), 12)
        return float(f"{value * math.exp(REACH * position):.2g}")

    def position(self, value: Value) -> float | None:
        """The inverse of `at` (before rounding); None where `value` lies outside the range."""
        here = self.value
        if isinstance(value, str) or isinstance(here, str) or value <= 0:
            return None
        if isinstance(here, int):
            if self.base:
                found = (value - here) / 2
            elif here < SMALL:
                found = (value - here) / max(2, here / 2)
            elif here & (here - 1) == 0:
                found = math.log2(value / here) / 2
            else:
                found = math.log(value / here) / REACH
        elif self._bounded:
            found = (
                math.log((1 - value) / value * here / (1 - here)) / REACH if value < 1 else math.inf
            )
        else:
            found = math.log(value / here) / REACH
        return found if abs(found) <= 1 else None

    def told(self, value: Value) -> str:
        """The change to `value`, for people."""
        power = f"{self.base}**" if self.base else ""
        return f"{self.name} {power}{self.value} → {power}{value}"

    @property
    def _bounded(self) -> bool:
        """A share, a momentum or a beta: between 0 and 1, where the distance from 1 counts."""
        return (
            isinstance(self.value, float)
            and 0.5 <= self.value < 1
            and not _RATE.search(_words(self.name))
        )


def find(source: bytes, file: str, cuda: bool | None = None) -> list[Knob]:
    """The knobs of one file, in order of position. A file that is no UTF-8 Python has none.

    `cuda`: whether the trials have a GPU; then constants for the other case are left out. None:
    unknown.
    """
    tree = parsed(source)
    try:
        source.decode("utf-8")
    except ValueError:
        return []
    if tree is None:
        return []
    finder = _Finder(tree, cuda)
    starts = [3 if source.startswith(b"\xef\xbb\xbf") else 0]
    starts += [match.end() for match in re.finditer(rb"\r\n|\r|\n", source)]
    knobs, seen = [], Counter[str]()
    for node, name, tier in finder.once():
        assert node.end_lineno is not None and node.end_col_offset is not None
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        text = source[start:end].decode()
        value = node.value
        if not isinstance(value, (bool, int, float, str)) or _fixed(name):
            continue
        choices = finder.choices(name, value)
        if not _turnable(value, text, tier, choices):
            continue
        seen[name] += 1
        label = name if seen[name] == 1 else f"{name}#{seen[name]}"
        knobs.append(
            Knob(
                f"{file}:{label}",
                label,
                start,
                end,
                text,
                value,
                tier,
                choices,
                finder.bases.get(id(node), ""),
            )
        )
    return knobs


def swap(source: bytes, changes: Mapping[Knob, Value]) -> bytes:
    """`source` with each knob's bytes, and nothing else, replaced. Raises ValueError if that is no
    Python any more.
    """
    for knob in sorted(changes, key=lambda knob: knob.start, reverse=True):
        source = (
            source[: knob.start] + write(changes[knob], knob.text).encode() + source[knob.end :]
        )
    if parsed(source) is None:
        raise ValueError(
            f"no Python any more: {', '.join(knob.told(value) for knob, value in changes.items())}"
        )
    return source


def write(value: Value, like: str) -> str:
    """`value` as source text in the style of the literal `like`: quotes, exponent, digit groups."""
    if isinstance(value, str):
        quote = like.lstrip("rRuUbB")[:1] or '"'
        return f"{quote}{value}{quote}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, int):
        return f"{value:_}" if "_" in like and value >= 1000 else str(value)
    if "e" in like.lower():
        digits, exponent = f"{value:.6e}".split("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return repr(value)


def _words(name: str) -> str:
    """`GPTConfig.n_layer` → `gptconfig_n_layer`; `AdamW(weightDecay)` → `adam_w_weight_decay`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def _fixed(name: str) -> bool:
    leaf = _words(_last(name))
    return bool(_FIXED.search(leaf)) and not _ALLOWED.search(leaf)


def _turnable(value: Value, text: str, tier: int, choices: tuple[Value, ...]) -> bool:
    if isinstance(value, (bool, str)):
        return len(choices) > 1
    if isinstance(value, int):
        return (value > 0 or tier == 0) and value < 2**40 and text.replace("_", "").isdigit()
    if isinstance(value, float):
        return (value > 1e-9 and value < 1e9) or (value == 0.0 and tier <= 1)
    return False


class _Finder:
    """Walks a module and collects constants, each with the best name and tier it is found under."""

    def __init__(self, tree: ast.Module, cuda: bool | None = None) -> None:
        self._cuda = cuda
        self._found: dict[tuple[int, int], tuple[ast.Constant, str, int]] = {}
        # The base of a power, by the exponent's node
        self.bases: dict[int, str] = {}
        # Strings that a name is compared with
        self._shown: dict[str, list[str]] = defaultdict(list)
        self._stored = Counter(
            n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        )
        for node in ast.walk(tree):
            self._note(node)
        self._block(tree.body, "", inside=False)

    def once(self) -> list[tuple[ast.Constant, str, int]]:
        return [self._found[place] for place in sorted(self._found)]

    def choices(self, name: str, value: Value) -> tuple[Value, ...]:
        """The values of a categorical literal, its own first; () where it is a number or shows no
        other.
        """
        if isinstance(value, bool):
            return (value, not value)
        if not isinstance(value, str):
            return () if value else (0.0, *ZERO_STEPS) if isinstance(value, float) else (0, 1, 2, 4)
        leaf = _last(name).lstrip("-").replace("-", "_")
        shown = [value, *self._shown.get(leaf, [])]
        if (
            len(shown) == 1
            and "pattern" in leaf.lower()
            and 1 < len(value) < 9
            and len(set(value)) == 2
        ):
            # Layers such as SSSL: how many S to an L
            shown += [value[0] * count + value[-1] for count in range(5)]
        return (
            tuple(dict.fromkeys(shown))
            if all(re.fullmatch(r"[\w .+/-]{1,30}", text) for text in shown)
            else ()
        )

    def _note(self, node: ast.AST) -> None:
        """`name == "a"`, `name in ("a", "b")`, `name: Literal["a", "b"]`, choices=["a", "b"]; the
        base of a power.
        """
        if isinstance(node, ast.Compare) and isinstance(
            node.ops[0], (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
        ):
            self._show(_leaf(node.left), node.comparators[0])
        elif isinstance(node, ast.AnnAssign) and isinstance(node.annotation, ast.Subscript):
            if _leaf(node.annotation.value) == "Literal":
                self._show(_leaf(node.target), node.annotation.slice)
        elif isinstance(node, ast.Call) and (option := _option(node)):
            for keyword in node.keywords:
                if keyword.arg == "choices":
                    self._show(option.lstrip("-").replace("-", "_"), keyword.value)
        elif (
            isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.Pow)
            and isinstance(node.left, ast.Constant)
        ):
            self.bases[id(node.right)] = str(node.left.value)

    def _show(self, name: str, value: ast.expr) -> None:
        values = value.elts if isinstance(value, (ast.Tuple, ast.List, ast.Set)) else [value]
        if name:
            self._shown[name] += [
                v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)
            ]

    def _add(self, node: ast.expr, name: str, tier: int) -> None:
        if isinstance(node, ast.Constant):
            old = self._found.get((node.lineno, node.col_offset))
            if old is None or old[2] > tier:
                self._found[node.lineno, node.col_offset] = (node, name, tier)

    def _block(self, body: Iterable[ast.AST], scope: str, inside: bool) -> None:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                plain, keyed = (
                    [*node.args.posonlyargs, *node.args.args],
                    zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
                )
                for argument, default in [
                    *zip(plain[::-1], node.args.defaults[::-1], strict=False),
                    *keyed,
                ]:
                    if default is not None:
                        self._add(default, f"{node.name}({argument.arg})", 2)
                self._block([*node.decorator_list, *node.body], node.name, inside=True)
            elif isinstance(node, ast.ClassDef):
                self._block(node.body, node.name, inside)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                self._assignment(_leaf(target), node.value, scope, inside)
            elif isinstance(node, ast.expr):
                self._expression(node, "", scope, inside)
            else:
                self._block(ast.iter_child_nodes(node), scope, inside)

    def _assignment(self, name: str, value: ast.expr, scope: str, inside: bool) -> None:
        self._expression(value, name, scope, inside)
        if inside:
            if (
                name
                and isinstance(value, ast.Constant)
                and not isinstance(value.value, (bool, str))
                and value.value != 1
            ):
                self._add(value, f"{scope}.{name}", 3)
            return
        knob = name.isupper() or bool(scope)
        if not name or name.startswith("__") or (not knob and self._stored[name] > 1):
            # What is assigned more than once is the program's own state
            return
        for leaf, suffix in _leaves(value, self._cuda):
            if knob or leaf.value:
                self._add(
                    leaf,
                    (f"{scope}." if scope else "") + name + suffix,
                    0 if name.isupper() and not scope else 1,
                )

    def _expression(self, expression: ast.expr, name: str, scope: str, inside: bool) -> None:
        """Command-line and configuration defaults (tier 1), float keywords of other calls (2),
        other floats (3).
        """
        for node in _walk(expression):
            if isinstance(node, ast.Call):
                option, function = _option(node), _leaf(node.func)
                for keyword in node.keywords:
                    float_valued = isinstance(keyword.value, ast.Constant) and isinstance(
                        keyword.value.value, float
                    )
                    if option and keyword.arg == "default":
                        self._add(keyword.value, option, 1)
                    elif name.isupper() or function in ("dict", "SimpleNamespace"):
                        self._add(keyword.value, f"{name or function}.{keyword.arg}", 1)
                    elif float_valued and not option:
                        self._add(keyword.value, f"{function}({keyword.arg})", 2)
            elif (
                inside
                and isinstance(node, ast.Constant)
                and isinstance(node.value, float)
                and node.value not in (0.0, 1.0)
            ):
                self._add(node, f"{scope}.constant", 3)


def _leaves(value: ast.expr, cuda: bool | None) -> Iterator[tuple[ast.Constant, str]]:
    """The constants of an assigned expression, each with what to add to the name."""
    if isinstance(value, ast.Constant):
        yield value, ""
    elif isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) <= 8:
        for index, element in enumerate(value.elts):
            yield from ((leaf, f"[{index}]{suffix}") for leaf, suffix in _leaves(element, cuda))
    elif isinstance(value, ast.Dict):
        for key, element in zip(value.keys, value.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield from (
                    (leaf, f".{key.value}{suffix}") for leaf, suffix in _leaves(element, cuda)
                )
    else:
        parts: list[ast.expr] = []
        if isinstance(value, ast.UnaryOp):
            parts = [value.operand]
        elif isinstance(value, ast.BinOp):
            # Of 2**19 the exponent is the knob
            power = isinstance(value.op, ast.Pow) and isinstance(value.left, ast.Constant)
            parts = [value.right] if power else [value.left, value.right]
        elif isinstance(value, ast.IfExp):
            known = cuda is not None and re.fullmatch(
                r"(?i)\w*cuda\w*|torch\.cuda\.is_available\(\)", ast.unparse(value.test)
            )
            parts = [value.body if cuda else value.orelse] if known else [value.body, value.orelse]
        elif isinstance(value, ast.Call) and _leaf(value.func) in (
            "int",
            "float",
            "bool",
            "get",
            "getenv",
        ):
            parts = value.args
        for part in parts:
            yield from _leaves(part, cuda)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """ast.walk without the insides of f-strings, whose positions Python 3.11 gets wrong."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.JoinedStr):
            yield from _walk(child)


def _leaf(node: ast.expr) -> str:
    return (
        node.id
        if isinstance(node, ast.Name)
        else node.attr
        if isinstance(node, ast.Attribute)
        else ""
    )


def _last(name: str) -> str:
    """`GPTConfig.depth` → `depth`; `dropout(p)` → `p`."""
    return re.split(r"[.(]", name.rstrip(")"))[-1]


def _option(call: ast.Call) -> str:
    """`--lr` of add_argument("--lr", …) or option("--lr", …); "" for another call."""
    if _leaf(call.func) not in ("add_argument", "option"):
        return ""
    names = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return next((name for name in names if name.startswith("--")), names[0] if names else "")
