"""`setup`: run once, before anything is measured, with the network and its own secrets; what it
makes is shared.

It is the user's own committed code, so it runs outside the sandbox, in a clean checkout with a
cleaned environment. New files go to STATE/setup, read-only, and are shown in every trial; the path
at which they were made goes on leading to them. Data folders are hashed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from autoresearch_action.brief import Brief
from autoresearch_action.errors import InputError, Interrupted
from autoresearch_action.isolation.log import Log
from autoresearch_action.isolation.process import Limits, Process, Start
from autoresearch_action.isolation.secrets import Secrets
from autoresearch_action.trials.variables import passed
from autoresearch_action.workspace.folders import remove
from autoresearch_action.workspace.trees import Workspace

# Seconds
LIMIT = 6 * 3600.0
# In the state's folder of trials
SETUP_LOG = "setup.log"
# By the last one a runner's own cleanup finds what is left
NETWORK = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL",
    "HOME", "USER", "XDG_CACHE_HOME", "RUNNER_TRACKING_ID",
)  # fmt: skip


def run_setup(
    workspace: Workspace,
    secrets: Secrets,
    say: Callable[[str], None] = lambda _: None,
    interrupted: Callable[[], str] = str,
) -> str:
    """Run the brief's `setup` and return the hash over what it made and over the data folders.

    Raises InputError when it fails, with the end of its log, and Interrupted, its whole tree ended.
    """
    brief, folder = workspace.brief, workspace.setup_folder
    _data_where_trials_look(brief)
    remove(folder)
    if brief.setup:
        for path in (*brief.data, *brief.evaluate_data):
            path.mkdir(parents=True, exist_ok=True)
        tree = workspace.setup_tree
        remove(tree)
        workspace.checkout(tree, workspace.base)
        given = secrets.for_setup(brief.setup_env)
        log = Log(workspace.state / "trials" / SETUP_LOG, Secrets(secrets.values | given).scrub)
        log.path.unlink(missing_ok=True)
        # Trials cannot write bytecode, and without it every start compiles its imports
        env = {
            **passed(brief),
            **{name: os.environ[name] for name in NETWORK if name in os.environ},
            **given,
            "PYTHONDONTWRITEBYTECODE": "1",
            "UV_COMPILE_BYTECODE": "1",
        }
        how = Start(
            ["/bin/sh", "-c", brief.setup], env, tree / workspace.prefix, mark="AUTORESEARCH_SETUP"
        )
        say(f"Setting up: {brief.setup}")
        ended = Process.start(how, Limits(seconds=LIMIT), log, until=interrupted).wait()
        log.close()
        if ended.code or ended.reason:
            if reason := interrupted():
                raise Interrupted(f"{reason} during `setup`")
            told = log.tail.decode("utf-8", "replace").strip()[-1500:]
            raise InputError(
                f"`setup` failed ({ended.reason or f'exit {ended.code}'}): {brief.setup}\n{told}"
            )
        _collect(workspace, tree)
    return digest(workspace)


def _data_where_trials_look(brief: Brief) -> None:
    """What prepare.py prepares and what `data` shows to trials must be one place."""
    usual, given = Path("~/.cache/autoresearch").expanduser(), os.environ.get("AUTORESEARCH_DATA")
    if (
        given
        and Path(given).expanduser() != usual
        and (named := [path for path in brief.data if usual in path.parents])
    ):
        raise InputError(
            f"AUTORESEARCH_DATA is {given}, but `data` names {named[0]}: unset the one, or change"
            " the other."
        )


def _collect(workspace: Workspace, tree: Path) -> None:
    """Everything in the checkout that git does not know becomes the setup folder."""
    index = tree.with_name(f"{tree.name}.index")
    # Bytecode beside what a candidate may change is no setup's to make
    ours = {f"{folder}/__pycache__" for folder in workspace.folders(workspace.base)}
    for name in workspace.untracked(tree, index):
        if str(Path(name).parent) in {*ours, "__pycache__"}:
            continue
        target = workspace.setup_folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(tree / name, target)
        if not target.is_symlink():
            target.chmod(target.stat().st_mode & 0o555 | 0o444)
    remove(tree)
    # Programs remember where they were made; where trials see their tree there, it is that
    tree.symlink_to(workspace.setup_folder)
    index.unlink(missing_ok=True)


def digest(workspace: Workspace) -> str:
    """sha256 over setup's outputs and the data folders: by content where it is small or a
    manifest.json vouches for the folder, else by name and size. "" where there is neither.
    """
    total, seen = hashlib.sha256(), False
    for top in (workspace.setup_folder, *workspace.brief.data, *workspace.brief.evaluate_data):
        if not top.is_dir():
            continue
        manifest = top / "manifest.json"
        files = (
            [manifest] if manifest.is_file() else sorted(p for p in top.rglob("*") if p.is_file())
        )
        for file in files:
            seen = True
            size = file.stat().st_size
            total.update(f"{file.relative_to(top)}\0{size}\0".encode())
            if size < 1 << 26:
                total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest() if seen else ""
