"""python-liquid from its source package: the library to change and a copy to compare with.

What it needs and this repository does not lies beside the target's repository, in `packages`.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from benchmark.fetching import source, wheel

VERSION = "2.3.6"
SHA256 = "b76c235e0006e2fe069b6fc630a70f797a321a8bc25c02aca6d71e4dacb335f8"
NEEDED = (
    ("babel", "2.19.0", "6d49734aed1d595b2c065d012174df8c83964692f26fc461702281634dd7555b"),
    (
        "importlib-resources",
        "7.1.0",
        "1bd7b48b4088eddb2cd16382150bb515af0bd2c70128194392725f82ad2c96a1",
    ),
    ("pytz", "2026.6", "7fed3fee8fd6bd4a2b7b75a8d56021d0624127bf69bd5691f115db929ac570b3"),
)


def fetch(home: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        package = source("python-liquid", VERSION, SHA256, Path(folder))
        for copy in (home / "liquid", home / "original" / "liquid"):
            shutil.copytree(package / "liquid", copy)
    for name, version, sha256 in NEEDED:
        wheel(name, version, sha256, home.parent / "packages")
