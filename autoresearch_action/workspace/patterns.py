"""What the patterns under `edit` select: gitignore(5), anchored at the working directory, the last
match deciding.

The one reading of them. It is git's own (held against `git check-ignore`) but for two things: a
pattern without a slash names files at the top alone, and "!" takes a file out again even where its
folder is selected. Question marks and brackets stand for one character where git counts bytes.
Which paths are never editable, whatever a pattern says, is patch.py's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_TOKEN = re.compile(
    r"(?P<folders>(?<![^/])\*\*+/)|(?P<below>(?<![^/])\*\*+\Z)|(?P<stars>\*+)|(?P<one>\?)"
    r"|\[(?P<set>[!^]?\]?+(?:\[:\w+:\]|\\.|[^\]\\])*+)\]|(?P<literal>\\.|[^\\\[])",
    re.DOTALL,
)
_ITEM = re.compile(r"\[:(\w+):\]|(\\.|.)(?:-(\\.|.))?", re.DOTALL)
_WILD = {"folders": "(?:.*/)?", "below": ".+", "stars": "[^/]*", "one": "[^/]"}
_CLASSES = {
    "alnum": "A-Za-z0-9",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\s",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}
_NOTHING = re.compile(r"(?!)")


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether `patterns` select the file `path`, relative to the working directory."""
    named = False
    for pattern in patterns:
        if _regex(pattern.removeprefix("!")).fullmatch(path):
            named = not pattern.startswith("!")
    return named


@lru_cache(maxsize=1024)
def _regex(pattern: str) -> re.Pattern[str]:
    body = re.sub(r"(?<!\\) +\Z", "", pattern).removeprefix("/")
    below = "/.*" if body.endswith("/") else "(?:/.*)?"
    body, out, at = body.removesuffix("/"), "", 0
    while at < len(body):
        found = _TOKEN.match(body, at)
        part = found and (_WILD.get(found.lastgroup or "") or _one(found))
        if not found or not part:
            return _NOTHING
        out, at = out + part, found.end()
    return re.compile(out + below, re.DOTALL) if out else _NOTHING


def _one(found: re.Match[str]) -> str:
    """The regex of a literal or of a bracket expression, which never stands for a slash; "" where
    git takes it for none.
    """
    if found["literal"]:
        return re.escape(found["literal"][-1])
    inside = found["set"]
    negated = inside[:1] in ("!", "^")
    parts = []
    for name, first, last in _ITEM.findall(inside[negated:]):
        if name and name not in _CLASSES:
            return ""
        parts.append(_CLASSES[name] if name else re.escape(first[-1]))
        if last and first[-1] <= last[-1]:
            parts.append(f"{re.escape(first[-1])}-{re.escape(last[-1])}")
    return f"(?!/)[{'^' * negated}{''.join(parts)}]" if parts else ""
