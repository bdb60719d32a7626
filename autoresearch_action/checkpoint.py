"""The model checkpoint that a run starts from: fetched once, hashed, handed to trials read-only.

Local paths as they are; anything with a scheme through fsspec (https://, s3://, gs://, hf://), in a process of its own that
sees the runner's credentials: this environment's fsspec first, then that of the user's own Python, which has the drivers.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from autoresearch_action.errors import EnvironmentFault, InputError

NO_DRIVER = 10  # exit code
_SECRET = re.compile(r"(\w://)(?:[^\s/?#'\"]*@)?([^\s?#'\"]*)[^\s'\"]*")
FETCH = f"""
import sys
try:
    import fsspec
    source = fsspec.open(sys.argv[1], "rb")
    with source as data, open(sys.argv[2], "wb") as file:
        while chunk := data.read(1 << 22):
            file.write(chunk)
except (ImportError, ValueError) as error:
    print(error, file=sys.stderr)
    sys.exit({NO_DRIVER})
except Exception as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""


def fetch(uri: str, state: Path, credentials: Mapping[str, str]) -> tuple[Path, str]:
    """(local path, sha256) of the checkpoint. Raises InputError (no such file), EnvironmentFault (cannot be had)."""
    if not uri.isprintable():
        raise InputError(f"--checkpoint {uri!a}: this is neither a path nor an address.")
    if "://" not in uri:
        path = Path(os.path.expanduser(uri)).resolve()
        if not path.exists():
            raise InputError(f"--checkpoint {uri}: there is no such file.")
        return path, digest(path)
    target = state / "checkpoint" / (hashlib.sha256(uri.encode()).hexdigest()[:16] + PurePosixPath(shown(uri)).suffix[:16])
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".part")
        said = _fetch(uri, partial, credentials)
        if said:
            partial.unlink(missing_ok=True)
            raise EnvironmentFault(f"--checkpoint {shown(uri)} cannot be fetched: {shown(' '.join(said.split()))[:300]}.")
        partial.rename(target)
    return target, digest(target)


def shown(uri: str) -> str:
    """`uri`, or any text, without what may be a secret in an address (user and password, signed query)."""
    return _SECRET.sub(r"\1\2", uri)


def _fetch(uri: str, target: Path, credentials: Mapping[str, str]) -> str:
    """Why it could not be had; "" when it is there."""
    said = ""
    for python in dict.fromkeys(filter(None, (sys.executable, shutil.which("python"), shutil.which("python3")))):
        command = [python, "-I", "-c", FETCH, uri, str(target)]
        done = subprocess.run(command, env=os.environ | dict(credentials), capture_output=True, text=True, errors="replace")
        if not done.returncode:
            return ""
        said = said or done.stderr.strip() or f"exit code {done.returncode}"
        if done.returncode != NO_DRIVER:
            return said
    return f"{said} (install fsspec and the driver of this scheme in the Python that trains)"


def digest(path: Path) -> str:
    """sha256 of a file, or of a folder's files by name."""
    total = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        if file != path:
            total.update(os.fsencode(file.relative_to(path)) + b"\0")
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                total.update(chunk)
    return total.hexdigest()
