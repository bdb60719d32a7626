"""Text that a model, a program or a ledger wrote, made harmless for the place where it is shown.

One function a context: Markdown (inline, cells, quotations, fenced blocks, images), Mermaid labels,
HTML comments, commit messages with their trailers, workflow commands and outputs, single lines.
Templates put out nothing that is not inert (`finalized`); HTML text and attributes are escaped by
the template engine. Secrets are scrubbed earlier (isolation/secrets.py).
"""

from __future__ import annotations

import math
import re
import secrets
import unicodedata
from collections.abc import Mapping
from typing import Any

# Zero width: ends a mention or a reference without being seen
JOINER = "\u2060"
_MARKS = re.compile(r"([\\`*_\[\]|$~])")
# What would begin a heading, a list or a rule
_BLOCK = re.compile(r"^(\d*)([#+=.)-])")
# Mentions, references and what GitHub makes a link of without being asked: broken behind the first
# sign, as a host's name may begin with the joiner
_REFERENCES = re.compile(r"[@#](?=\S)|\bGH-(?=\w)|:(?=//)|www(?=\.)", re.IGNORECASE)
# In a commit message these keep a push from starting the checks
_SKIPS = re.compile(r"\[(?=\s*(?:skip|no|ci|actions)\b)|\bskip-checks(?=:)", re.IGNORECASE)
# What some take for a trailer wherever it begins a line: a signature, an author
_SIGNED = re.compile(r"^[A-Za-z][\w-]*-by(?=\s*:)", re.IGNORECASE)
# Letters and marks that are not seen, though Unicode's categories take them for such: fillers, and
# the selectors of a variant, of which many in a row can carry words
_BLANKS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# What a spreadsheet takes for a formula, or for a cell of several lines
_FORMULA = re.compile(r"[=+\-@\"]")


class Inert(str):
    """Markdown that does no more than it shows: what a template lets through as it is."""


def visible(text: str) -> str:
    """`text` without control, invisible and direction-changing characters; newlines and tabs
    stay.
    """
    kept = (
        c
        for c in _BLANKS.sub("", text)
        if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn")
    )
    return "".join(kept)


def line(text: str) -> str:
    """One line of visible characters: for a terminal, a picture, a table's cell in a file."""
    return " ".join(visible(text).split())


def cell(text: str) -> str:
    """A cell of a table that a spreadsheet may open: a line, and no formula."""
    told = line(text)
    return f"'{told}" if _FORMULA.match(told) else told


def inline(text: str, most: int = 300) -> Inert:
    """One line of Markdown that shows `text` literally: no mentions, references, links, images,
    HTML or table cells.
    """
    text = clip(line(text), most)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _BLOCK.sub(r"\1\\\2", _MARKS.sub(r"\\\1", text))
    return Inert(_unreferred(text))


def finalized(value: Any) -> Any:
    """What a Markdown template may put out: text that is not inert yet is shown literally."""
    if isinstance(value, Inert | int | float):
        return value
    value = str(value)
    begin, end = value[: len(value) - len(value.lstrip())], value[len(value.rstrip()) :]
    return f"{begin and ' '}{inline(value, 10_000)}{end and ' '}"


def image(words: str, address: str) -> Inert:
    """A picture in Markdown; "" where there is none."""
    safe = re.sub(r"[^!#$%&'*+,./:;=?@\w~-]", "", address, flags=re.ASCII)
    return Inert(f"![{inline(words)}]({safe})" if safe else "")


def quote(text: str, most: int = 2_000) -> Inert:
    """Several lines as a Markdown quotation, each of them literal."""
    lines = [inline(part, most) for part in clip(visible(text), most).splitlines()]
    return Inert("\n".join(f"> {part}".rstrip() for part in lines if part) or "> ")


def fence(text: str, language: str = "", most: int = 100_000) -> Inert:
    """`text` as a fenced block that nothing in it can close."""
    text = clip(visible(text).strip("\n"), most)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    mark = "`" * max(3, longest + 1)
    return Inert(f"{mark}{language}\n{text}\n{mark}")


def label(text: str, most: int = 100) -> str:
    """A name in a chart (Mermaid, between quotes) or a picture: letters and plain signs alone."""
    return clip(re.sub(r"[^\w ./@+-]", "", line(text)), most)


def comment(json_: str) -> Inert:
    """JSON within an HTML comment that nothing in it ends."""
    return Inert(json_.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&"}))


def plain(text: str) -> str:
    """A line of plain text that mentions nobody and refers to nothing, for titles."""
    return _unreferred(line(text))


def message(title: str, words: str, trailers: Mapping[str, str]) -> str:
    """A commit's message. The words are one paragraph and no trailers; they hold no check back."""
    parts = [clip(plain(title), 72) or "Change", clip(plain(words), 1_000)]
    tail = "\n".join(f"{name}: {line(value)}" for name, value in trailers.items())
    return "\n\n".join([*(_broken(_SIGNED, _broken(_SKIPS, part)) for part in parts if part), tail])


def command(words: str) -> str:
    """The message of a workflow command: an annotation."""
    return visible(words).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def output(name: str, value: str) -> str:
    """An entry of GITHUB_OUTPUT that no value can end."""
    mark = f"end-{secrets.token_hex(8)}"
    return f"{name}<<{mark}\n{value}\n{mark}\n"


def _unreferred(text: str) -> str:
    return _broken(_REFERENCES, text)


def _broken(expression: re.Pattern[str], text: str) -> str:
    return expression.sub(lambda found: found[0] + JOINER, text)


def clip(text: str, most: int) -> str:
    """At most `most` characters, an ellipsis where some were left out."""
    return text if len(text) <= most else text[: max(0, most - 1)].rstrip() + "…"


def signed(value: float, digits: int = 4) -> str:
    """A number with its sign, a true minus."""
    return f"{value:+.{digits}g}".replace("-", "−")


def number(value: float | None, digits: int = 6) -> str:
    """A number for people; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}g}".replace("-", "−")


def rounded(value: float, half: float, plus: bool = False) -> str:
    """A number with no more digits than the first two of `half`, half of an interval's width; 0:
    as it is. `plus`: with its sign.
    """
    if half <= 0 or not math.isfinite(half) or not math.isfinite(value):
        return signed(value) if plus else number(value)
    places = min(12, max(0, 1 - math.floor(math.log10(half))))
    return f"{value:{'+' if plus else ''}.{places}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """3.4 s, 12 min, 5.1 h."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
