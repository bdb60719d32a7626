"""`setup`: run once, before anything is measured, with the network and its own secrets; what it makes is shared.

It is the user's own committed code, so it runs outside the sandbox, in a clean checkout with a cleaned environment.
New files go to STATE/setup, read-only, and from there into every checkout; data folders are hashed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from autoresearch_action.errors import InputError
from autoresearch_action.trials.process import Limits, Log, Process
from autoresearch_action.trials.trial import PASSED
from autoresearch_action.trials.workspace import Workspace, remove

LIMIT = 6 * 3600.0  # seconds
NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
           "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "HOME", "USER", "XDG_CACHE_HOME")  # fmt: skip


def run_setup(workspace: Workspace, secrets: Mapping[str, str], say: Callable[[str], None] = lambda _: None) -> str:
    """Run the brief's `setup` and return the hash over what it made and over the data folders.

    Raises InputError when it fails, with the end of its log.
    """
    brief, folder = workspace.brief, workspace.setup_folder
    remove(folder)
    if brief.setup:
        for path in (*brief.data, *brief.evaluate_data):
            path.mkdir(parents=True, exist_ok=True)
        tree = workspace.state / "slots" / "setup"
        remove(tree)
        workspace.checkout(tree, workspace.base)
        log = Log(workspace.state / "trials" / "setup.log")
        log.path.unlink(missing_ok=True)
        env = {name: os.environ[name] for name in (*PASSED, *NETWORK, *brief.env) if name in os.environ} | dict(secrets)
        popen = subprocess.Popen(
            ["/bin/sh", "-c", brief.setup], cwd=tree / workspace.prefix, env=env | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        say(f"Setting up: {brief.setup}")
        ended = Process(popen, Limits(seconds=LIMIT), log).wait()
        log.close()
        if ended.code or ended.reason:
            told = ended.tail.decode("utf-8", "replace").strip()[-1500:]
            raise InputError(f"`setup` failed ({ended.reason or f'exit {ended.code}'}): {brief.setup}\n{told}")
        _collect(workspace, tree)
    return digest(workspace)


def _collect(workspace: Workspace, tree: Path) -> None:
    """Everything in the checkout that git does not know becomes the setup folder."""
    index = tree.with_name(f"{tree.name}.index")
    listed = workspace.untracked(tree, index)
    for name in listed:
        target = workspace.setup_folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(tree / name, target)
        if not target.is_symlink():
            target.chmod(target.stat().st_mode & 0o555 | 0o444)
    remove(tree)
    index.unlink(missing_ok=True)


def digest(workspace: Workspace) -> str:
    """sha256 over setup's outputs and the data folders: by content where it is small or a manifest.json vouches for
    the folder, else by name and size. "" where there is neither.
    """
    total, seen = hashlib.sha256(), False
    for top in (workspace.setup_folder, *workspace.brief.data, *workspace.brief.evaluate_data):
        if not top.is_dir():
            continue
        manifest = top / "manifest.json"
        files = [manifest] if manifest.is_file() else sorted(p for p in top.rglob("*") if p.is_file())
        for file in files:
            seen = True
            size = file.stat().st_size
            total.update(f"{file.relative_to(top)}\0{size}\0".encode())
            if size < 1 << 26:
                total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest() if seen else ""
