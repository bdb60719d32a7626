"""Edits of a trial's own copy that are not the candidate's: literal seeds replaced, literals set
for a transfer.

By syntax alone, byte for byte; nothing is run or imported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from autoresearch_action.syntax import parsed

SEED_CALLS = {
    "manual_seed", "manual_seed_all", "seed", "default_rng", "RandomState", "set_seed",
    "seed_everything", "PRNGKey", "Random", "key",
}  # fmt: skip
SEED_NAME = re.compile(r"(^|_)seed$", re.IGNORECASE)
# jax.random.key(0), not dict.key(0)
_KEY_OWNERS = {"random", "jrandom", "jr"}


def reseed(source: bytes, seed: int) -> tuple[bytes, list[int]]:
    """`source` with every literal seed replaced by `seed`, and the lines (from 1) where one was."""
    tree = parsed(source)
    if tree is None:
        return source, []
    nodes = [
        node
        for node in _seeds(tree)
        if isinstance(node.value, int) and not isinstance(node.value, bool)
    ]
    return _replace(source, {node: str(seed) for node in nodes}), sorted(
        node.lineno for node in nodes
    )


def _seeds(tree: ast.Module) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
            )
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            owner_name = getattr(owner, "attr", getattr(owner, "id", ""))
            if name in SEED_CALLS and (name != "key" or owner_name in _KEY_OWNERS):
                yield from (arg for arg in node.args[:1] if isinstance(arg, ast.Constant))
            yield from (
                k.value
                for k in node.keywords
                if k.arg and SEED_NAME.search(k.arg) and isinstance(k.value, ast.Constant)
            )
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if isinstance(node.value, ast.Constant) and any(
                isinstance(t, ast.Name) and SEED_NAME.search(t.id) for t in targets
            ):
                yield node.value


def set_literals(files: Iterable[Path], values: Mapping[str, object]) -> list[str]:
    """Set module-level literals in `files` (in place). Returns the names that none of them has."""
    missing = dict(values)
    for file in files:
        source = file.read_bytes()
        tree = parsed(source)
        changes: dict[ast.expr, str] = {}
        for statement in tree.body if tree else ():
            targets = (
                statement.targets
                if isinstance(statement, ast.Assign)
                else [getattr(statement, "target", None)]
            )
            value = getattr(statement, "value", None)
            for target in targets:
                if isinstance(target, ast.Name) and target.id in values and value is not None:
                    changes[value] = repr(values[target.id])
                    missing.pop(target.id, None)
        if changes:
            file.chmod(0o644)
            file.write_bytes(_replace(source, changes))
    return list(missing)


def _replace(source: bytes, changes: Mapping[ast.expr, str]) -> bytes:
    starts = [0]
    for row in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(row))
    spans = []
    for node, text in changes.items():
        assert node.end_lineno is not None and node.end_col_offset is not None
        spans.append(
            (
                starts[node.lineno - 1] + node.col_offset,
                starts[node.end_lineno - 1] + node.end_col_offset,
                text.encode(),
            )
        )
    for start, end, new in sorted(spans, reverse=True):
        source = source[:start] + new + source[end:]
    return source
