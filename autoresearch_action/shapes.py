"""The shapes of names: ids, branches, metrics, objects of git. Whether they exist is not asked."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

# What a branch may not be called (git-check-ref-format)
_NO_BRANCH = re.compile(
    r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|\Z)|\A[-/.]|[/.]\Z|\A@\Z"
)


def _slug(value: str) -> str:
    """A file's or a branch's name, or a part of it."""
    named = re.fullmatch(r"[\w-][\w.-]{0,999}", value) and not _NO_BRANCH.search(f"x/{value}")
    if value and not named:
        raise ValueError("must be letters, digits, _ . and -")
    return value


def _branch(value: str) -> str:
    if len(value) > 400 or _NO_BRANCH.search(value):
        raise ValueError("must be a branch's name")
    return value


Slug = Annotated[str, AfterValidator(_slug)]
Branch = Annotated[str, AfterValidator(_branch)]
MetricName = Annotated[str, Field(pattern=r"^[A-Za-z_][\w./@-]{0,99}$")]
# A commit, a tree: git's hexadecimal names, in tests shorter words
ObjectName = Annotated[str, Field(pattern=r"^[\w.-]{0,64}$")]
Hexadecimal = Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
