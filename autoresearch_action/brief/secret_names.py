"""Which variables of an environment are secrets: by a name that speaks of one, and a value that can
be one. TOKENIZERS_PARALLELISM, MAX_TOKENS and the path of a key file are none.
"""

from __future__ import annotations

import os
import re

_NAME = re.compile(
    r"(^|_)TOKEN_|TOKEN$|(^|_)(KEY|PAT|PASS)$|(^|_)SECRETS?(_|$)|SECRET$|PASSW|PASSPHRASE|CREDENTIAL"
    r"|API_?KEY|(PRIVATE|ACCESS|SIGNING|ENCRYPTION)_?KEY",
    re.IGNORECASE,
)
# Short numbers and switches
_PLAIN = re.compile(r"[-+\d.,eE ]{1,7}|true|false|yes|no|on|off|none|null|auto", re.IGNORECASE)


def is_secret(name: str, value: str | None) -> bool:
    """Whether a variable is one. `value` None: it is not set, or was put away: its name decides."""
    if not _NAME.search(name):
        return False
    return not value or not (_PLAIN.fullmatch(value) or _file(value))


def _file(value: str) -> bool:
    """A path that is there: one that is not may be base64."""
    return "/" in value and "\0" not in value and os.path.exists(os.path.expanduser(value))
