"""mistune from its source package: the renderer, a copy to compare with, its own tests."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from benchmark.fetching import source

VERSION = "3.4.0"
SHA256 = "2eaf7952af928ca8d33b779762effc1da517b62c6ad85ec8ca957e3b07b9782a"


def fetch(home: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        package = source("mistune", VERSION, SHA256, Path(folder))
        for copy in (home / "mistune", home / "original" / "mistune"):
            shutil.copytree(package / "src" / "mistune", copy)
        shutil.copytree(package / "tests", home / "tests")
        # One of the tests reads it
        shutil.copy(package / "pyproject.toml", home)
