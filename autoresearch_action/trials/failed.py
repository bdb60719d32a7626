"""What a failed command's log says, in a line: tests that failed, else the errors, else its end.

Reads the lines by which common test runners and interpreters name what went wrong.
"""

from __future__ import annotations

import re

_TEST = re.compile(
    r"^(?:FAILED|ERROR) \S+|^(?:FAIL|ERROR): |^\s*--- FAIL: |^test .* \.\.\. FAILED|^not ok |"
    r"^\s*[✕✗×] |^\S+ FAILED\b"
)
_SAYS = re.compile(r"^E\s{2,}\S|^\w*(?:Error|Exception|Failure|Interrupt)\b|^panicked at ")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def failing(tail: str, limit: int = 400) -> str:
    """At most `limit` characters, without control characters."""
    lines = [line.strip() for line in _CONTROL.sub("", tail).splitlines() if line.strip()]
    tests = [line for line in lines if _TEST.search(line)]
    errors = [line for line in lines if _SAYS.search(line)]
    if tests and all(" - " not in line for line in tests):
        # The runner's summary names the test alone
        tests = tests[:2] + errors[-2:]
    told = "; ".join(tests[:3] or errors[-2:] or lines[-1:]) or "it printed nothing"
    return told if len(told) <= limit else f"{told[: limit - 1].rstrip()}…"
