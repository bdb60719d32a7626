"""Packages from the package index, at a version and a hash, for targets whose code is not ours.

Asks pip, which knows the index, and unpacks what it brought; nothing is installed. Not covered:
what a package itself needs to be built, which pip gets where it reads a source's metadata.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import click


def download(folder: Path, name: str, version: str, sha256: str, source: bool = False) -> Path:
    """The package's file in `folder`: its source, or a wheel. Raises ClickException where it cannot
    be had, or is another one.
    """
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{name}=={version} --hash=sha256:{sha256}\n")
    kind = ["--no-binary", ":all:"] if source else ["--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
    command += ["--no-deps", "--require-hashes", *kind, "-r", str(wanted), "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    wanted.unlink()
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise click.ClickException(f"pip did not bring {name} {version}: {''.join(last)}")
    (file,) = folder.iterdir()
    return file


def source(name: str, version: str, sha256: str, place: Path) -> Path:
    """Unpack a source package below `place`. Gives its folder."""
    with tempfile.TemporaryDirectory() as folder:
        file = download(Path(folder), name, version, sha256, source=True)
        with tarfile.open(file) as archive:
            archive.extractall(place, filter="data")
    (found,) = place.iterdir()
    return found


def wheel(name: str, version: str, sha256: str, place: Path) -> None:
    """Unpack a wheel into `place`, a folder for sys.path."""
    with tempfile.TemporaryDirectory() as folder:
        file = download(Path(folder), name, version, sha256)
        with zipfile.ZipFile(file) as archive:
            archive.extractall(place)
