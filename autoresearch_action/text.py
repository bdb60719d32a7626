"""Text that a model or a program wrote, made harmless before it stands in a pull request, a summary
or a page.

Covers Markdown only; HTML is escaped by the template engine. Secrets are scrubbed earlier
(isolation/secrets.py).
"""

from __future__ import annotations

import re
import unicodedata

# Zero width: ends a mention or a reference without being seen
JOINER = "\u2060"
_MARKS = re.compile(r"([\\`*_\[\]|$~])")
# What would begin a heading, a list or a rule
_BLOCK = re.compile(r"^(\d*)([#+=.)-])")
_REFERENCES = re.compile(r"([@#]|\bGH-|://|\bwww)(?=[\w.])|(?<=\w)(@)(?=\w)", re.IGNORECASE)


def visible(text: str) -> str:
    """`text` without control, invisible and direction-changing characters; newlines and tabs stay."""
    kept = (
        c
        for c in text
        if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn")
    )
    return "".join(kept)


def inline(text: str, most: int = 300) -> str:
    """One line of Markdown that shows `text` literally: no mentions, references, links, images,
    HTML or table cells.
    """
    text = clip(" ".join(visible(text).split()), most)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _BLOCK.sub(r"\1\\\2", _MARKS.sub(r"\\\1", text))
    return _REFERENCES.sub(lambda found: found[0] + JOINER, text)


def plain(text: str) -> str:
    """Plain text that mentions nobody and refers to nothing, for commit messages."""
    return _REFERENCES.sub(lambda found: found[0] + JOINER, visible(text)).strip()


def quote(text: str, most: int = 2_000) -> str:
    """Several lines as a Markdown quotation, each of them literal."""
    lines = [inline(line, most) for line in clip(visible(text), most).splitlines()]
    return "\n".join(f"> {line}".rstrip() for line in lines if line) or "> "


def fence(text: str, language: str = "", most: int = 100_000) -> str:
    """`text` as a fenced block that nothing in it can close."""
    text = clip(visible(text).strip("\n"), most)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    mark = "`" * max(3, longest + 1)
    return f"{mark}{language}\n{text}\n{mark}"


def clip(text: str, most: int) -> str:
    """At most `most` characters, an ellipsis where some were left out."""
    return text if len(text) <= most else text[: max(0, most - 1)].rstrip() + "…"


def signed(value: float, digits: int = 4) -> str:
    """A number with its sign, a true minus."""
    return f"{value:+.{digits}g}".replace("-", "−")


def number(value: float | None, digits: int = 6) -> str:
    """A number for people; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}g}".replace("-", "−")


def duration(seconds: float) -> str:
    """3.4 s, 12 min, 5.1 h."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
