"""The model checkpoint that a run starts from: fetched once a run, hashed, handed to trials
read-only.

Local paths as they are; anything with a scheme through fsspec (https://, s3://, gs://, hf://), in a
process of its own that sees the runner's credentials: this environment's fsspec first, then that of
the user's own Python, which has the drivers.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from autoresearch_action.errors import EnvironmentFault, InputError, Interrupted
from autoresearch_action.isolation.log import Log
from autoresearch_action.isolation.process import Limits, Process, Start

# Exit code
NO_DRIVER = 10
_SECRET = re.compile(r"(\w://)([^\s/?#'\"]*@)?([^\s?#'\"]*)([^\s'\"]*)")
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


def fetch(
    uri: str,
    state: Path,
    credentials: Mapping[str, str],
    keep: bool = False,
    interrupted: Callable[[], str] = str,
) -> tuple[Path, str]:
    """(local path, sha256) of the checkpoint; `keep`: as it was fetched before, where that is still
    here.

    Raises InputError (no such file), EnvironmentFault (cannot be had), Interrupted.
    """
    if not uri.isprintable():
        raise InputError(f"--checkpoint {uri!a}: this is neither a path nor an address.")
    if "://" not in uri:
        path = Path(os.path.expanduser(uri)).resolve()
        if not path.exists():
            raise InputError(f"--checkpoint {uri}: there is no such file.")
        return path, digest(path, interrupted)
    target = (
        state
        / "checkpoint"
        / (hashlib.sha256(uri.encode()).hexdigest()[:16] + PurePosixPath(shown(uri)).suffix[:16])
    )
    if not (keep and target.exists()):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".part")
        said = _fetch(uri, partial, credentials, interrupted)
        if said:
            partial.unlink(missing_ok=True)
            # A driver may tell them without the scheme by which `shown` finds them
            for _, user, _, query in _SECRET.findall(uri):
                said = said.replace(user, "").replace(query, "")
            raise EnvironmentFault(
                f"--checkpoint {shown(uri)} cannot be fetched:"
                f" {shown(' '.join(said.split()))[:300]}."
            )
        partial.rename(target)
    return target, digest(target, interrupted)


def shown(uri: str) -> str:
    """`uri`, or any text, without what may be a secret in an address (user and password, signed
    query).
    """
    return _SECRET.sub(r"\1\3", uri)


def _fetch(
    uri: str, target: Path, credentials: Mapping[str, str], interrupted: Callable[[], str]
) -> str:
    """Why it could not be had; "" when it is there."""
    said = ""
    for python in dict.fromkeys(
        filter(None, (sys.executable, shutil.which("python"), shutil.which("python3")))
    ):
        command = [python, "-I", "-c", FETCH, uri, str(target)]
        code, told = _run(command, os.environ | dict(credentials), interrupted)
        if not code:
            return ""
        said = said or told.strip() or f"exit code {code}"
        if code != NO_DRIVER:
            return said
    return f"{said} (install fsspec and the driver of this scheme in the Python that trains)"


def _run(
    command: list[str], env: Mapping[str, str], interrupted: Callable[[], str]
) -> tuple[int, str]:
    """(exit code, what it said)."""
    how, limits = Start(command, env, Path.cwd()), Limits(seconds=math.inf)
    # It may say what is secret
    nowhere = Log(Path(os.devnull))
    ended = Process.start(how, limits, nowhere, until=interrupted).wait()
    _go_on(interrupted)
    return ended.code, ended.tail.decode("utf-8", "replace")


def _go_on(interrupted: Callable[[], str]) -> None:
    if reason := interrupted():
        raise Interrupted(f"{reason} while the checkpoint was fetched")


def digest(path: Path, interrupted: Callable[[], str] = str) -> str:
    """sha256 of a file, or of a folder's files by name."""
    total = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        if file != path:
            total.update(os.fsencode(file.relative_to(path)) + b"\0")
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                _go_on(interrupted)
                total.update(chunk)
    return total.hexdigest()
