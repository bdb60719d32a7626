"""What a failed command's log says, in a line: tests that failed, else the errors, else its end.

Reads the lines by which common test runners and interpreters name what went wrong.
"""

from __future__ import annotations

import re

from autoresearch_action.text import clip, visible
from autoresearch_action.trials.metrics import COLOUR

_TEST = re.compile(
    r"^(?:FAILED|ERROR) \S+|^(?:FAIL|ERROR): |^\s*--- FAIL: |^test .* \.\.\. FAILED|^not ok |"
    r"^\s*[✕✗×] |^\S+ FAILED\b"
)
_SAYS = re.compile(r"^E\s{2,}\S|^\w*(?:Error|Exception|Failure|Interrupt)\b|^panicked at ")


def failing(tail: str, limit: int = 400) -> str:
    """At most `limit` characters, none of which is invisible."""
    plain = visible(COLOUR.sub("", tail))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    tests = [line for line in lines if _TEST.search(line)]
    errors = [line for line in lines if _SAYS.search(line)]
    if tests and all(" - " not in line for line in tests):
        # The runner's summary names the test alone
        tests = tests[:2] + errors[-2:]
    return clip("; ".join(tests[:3] or errors[-2:] or lines[-1:]) or "it printed nothing", limit)
