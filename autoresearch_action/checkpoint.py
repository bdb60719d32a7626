"""The model checkpoint that a run starts from: fetched once, hashed, handed to trials read-only.

Local paths as they are; anything with a scheme through fsspec (s3://, gs://, https://, hf://), whose drivers the
user installs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from autoresearch_action.errors import EnvironmentFault, InputError


def fetch(uri: str, state: Path) -> tuple[Path, str]:
    """(local path, sha256) of the checkpoint. Raises InputError (no such file), EnvironmentFault (cannot be had)."""
    if "://" not in uri:
        path = Path(uri).expanduser().resolve()
        if not path.exists():
            raise InputError(f"--checkpoint {uri}: there is no such file.")
        return path, digest(path)
    target = state / "checkpoint" / (hashlib.sha256(uri.encode()).hexdigest()[:16] + Path(uri).suffix)
    if not target.exists():
        try:
            import fsspec
        except ImportError:
            raise EnvironmentFault(f"--checkpoint {uri}: remote checkpoints need `pip install fsspec` beside autoresearch.") from None
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".part")
        try:
            with fsspec.open(uri, "rb") as source, partial.open("wb") as file:
                while chunk := source.read(1 << 22):
                    file.write(chunk)
        except Exception as error:  # every driver raises its own kinds
            partial.unlink(missing_ok=True)
            text = " ".join(str(error).split())[:200]
            raise EnvironmentFault(f"--checkpoint {uri} cannot be fetched: {type(error).__name__}: {text}.") from None
        partial.rename(target)
    return target, digest(target)


def digest(path: Path) -> str:
    """sha256 of a file, or of a folder's files by name."""
    total = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        if file != path:
            total.update(str(file.relative_to(path)).encode() + b"\0")
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                total.update(chunk)
    return total.hexdigest()
