"""Python source as a syntax tree, by one thread at a time.

CPython's parser counts the depth of a tree in one place for all threads: where two of them parse at
once, ideas here and a trial's copy there, one can end in `SystemError: AST constructor recursion
depth mismatch`.
"""

from __future__ import annotations

import ast
import threading

_parser = threading.Lock()


def parsed(source: str | bytes) -> ast.Module | None:
    """The tree; None where `source` is not Python, or too deep for the parser."""
    with _parser:
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
