"""Isolation by bubblewrap: namespaces of its own, an unprivileged user without capabilities, and a
file system that holds what the job names and nothing else.

Shown are the system's folders and the user's interpreter (read-only), the job's tree and its data.
The tree stands at the user's own repository's path, so that environments which remember where they
are keep working. Started by root, mounts are made as root and the user is changed for real.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from autoresearch_action.isolation import CACHE, Job, confine
from autoresearch_action.isolation.device import card
from autoresearch_action.isolation.interpreters import SYSTEM, interpreters
from autoresearch_action.isolation.process import Limits, Start

NOBODY = 65534
# Bytes that a private folder in memory may hold, at most
TMPFS = 8 << 30
ETC = (
    "alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone",
    "nsswitch.conf", "protocols", "services", "ssl", "pki", "ca-certificates", "OpenCL",
    "vulkan", "debian_version", "os-release", "lsb-release", "passwd", "group", "mime.types",
    "fonts", "gai.conf", "python3", "python3.11", "python3.12", "python3.13", "magic", "R",
    "java",
)  # fmt: skip
ETC_NETWORK = ("resolv.conf", "hosts", "host.conf")
DEVICES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps")
SYS = ("/sys/devices/system/cpu", "/sys/devices/system/node")
SYS_GPU = ("/sys/bus", "/sys/class", "/sys/devices", "/sys/module")
HOSTS = str(Path(__file__).with_name("hosts"))
HELD_OUT = str(Path(__file__).with_name("held_out.py"))
PROC_SYS = "/proc/sys"
# Settings of the kernel, and the value at which users have no namespaces
FORBIDS = {
    "kernel/apparmor_restrict_unprivileged_userns": "1",
    "kernel/unprivileged_userns_clone": "0",
    "user/max_user_namespaces": "0",
}
_SPACES = (
    "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
    "--hostname", "trial", "--die-with-parent", "--new-session",
)  # fmt: skip
_NEST = ("--unshare-user", "--disable-userns", "--cap-drop", "ALL")
# Started by root: mounts are made as root, then the user is changed for real, so that nothing root
# owns is in reach; a second, empty user namespace inside forbids further ones.
_DROP = (
    "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP", "setpriv",
    f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all",
    "--inh-caps=-all", "--no-new-privs",
)  # fmt: skip
_INNER = (
    "bwrap", "--unshare-user", "--disable-userns", "--dev-bind", "/", "/", "--cap-drop", "ALL",
    "--die-with-parent",
)  # fmt: skip


class Bubblewrap:
    """The full sandbox. Asked for its `fault` before anything is started."""

    strength, relocates = "full", True

    def __init__(self) -> None:
        # Whether root's can have the second user namespace
        self._inner = False
        self._home = Path(os.path.expanduser("~"))

    def describe(self) -> str:
        return "Sandbox: full (bubblewrap: own namespaces, no network unless the brief allows it)."

    def fault(self) -> str:
        """Why it cannot be used here; "" when it works."""
        if not shutil.which("bwrap"):
            return "bubblewrap is not installed"
        mounts = ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
        base = ["bwrap", *_SPACES, *_system(), *mounts]
        if os.geteuid() != 0:
            return _fails([*base, *_NEST], ["true"])
        self._inner = not _fails([*base, *_DROP, *_INNER], ["true"])
        return "" if self._inner else _fails(base, [*_DROP, "true"])

    def prepare(self, folder: Path, whole: bool = False) -> None:
        if os.geteuid() != 0:
            return
        os.chown(folder, NOBODY, NOBODY)
        for place, folders, files in os.walk(folder) if whole else ():
            for name in (*folders, *files):
                os.chown(os.path.join(place, name), NOBODY, NOBODY, follow_symlinks=False)

    def command(self, job: Job, limits: Limits) -> Start:
        calls = _calls()
        env = {
            **job.env,
            "HOME": str(self._home),
            "TMPDIR": "/tmp",
            "PWD": str(job.mount_at / job.directory),
        }
        return Start(self.argv(job, limits, calls), env, Path("/"), files=(calls,))

    def argv(self, job: Job, limits: Limits, calls: int) -> list[str]:
        """`calls`: an open file with the filter of system calls."""
        spaces = [word for word in _SPACES if not (job.network and word == "--unshare-net")]
        return [
            "bwrap",
            *spaces,
            *_system(job.network),
            *("--proc", "/proc", "--dev", "/dev"),
            *_devices(job.gpu),
            *_binds("--ro-bind-try", *SYS, *(SYS_GPU if job.gpu else ())),
            *_private(self._home, min(TMPFS, limits.memory)),
            *_mounts(job),
            *("--chdir", str(job.mount_at / job.directory)),
            *self._unprivileged(_filtered(calls)),
            *_limited(limits),
            *("/bin/sh", "-c", job.command),
        ]

    def _unprivileged(self, filtered: tuple[str, ...]) -> tuple[str, ...]:
        """The end of bubblewrap's own words, and the programs between it and the command."""
        if os.geteuid() != 0:
            return (*_NEST, *filtered)
        return (*_DROP, *_INNER, *filtered) if self._inner else (*filtered, *_DROP)


def _mounts(job: Job) -> Iterator[str]:
    """The tree, what is read-only in it, the interpreters, the data, and what covers them."""
    at, found = job.mount_at, interpreters(job)
    beside = [path for path in found if at not in path.parents]
    for path in beside:
        yield from (*_parents(path), *_binds("--ro-bind-try", path))
    yield from (*_parents(at), "--bind", str(job.tree), str(at))
    if job.alias:
        yield from (*_parents(job.alias), "--symlink", str(at), str(job.alias))
    for name, path in job.readonly.items():
        # But links: a mount would go to where they lead
        if not (job.tree / name).is_symlink():
            yield from ("--ro-bind-try", str(path), str(at / name))
    yield from _binds("--ro-bind-try", *(path for path in found if path not in beside))
    for path in job.data:
        yield from _parents(path)
        yield from ("--ro-bind-try", str(job.decoys.get(path, path)), str(path))
    if job.cache:
        yield from ("--bind", str(job.cache), str(CACHE))
    system = [Path(path) for path in SYSTEM if not os.path.islink(path)]
    shown = [(path, path.resolve()) for path in (*system, *found, *job.data)]
    for real in (path.resolve() for path in job.hidden):
        for place, behind in shown:
            if behind in real.parents:
                yield from _covered(place / real.relative_to(behind))


def _system(network: bool = False) -> Iterator[str]:
    for path in SYSTEM:
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        elif os.path.isdir(path):
            yield from ("--ro-bind", path, path)
    # Bubblewrap's own would be root's alone
    yield from ("--perms", "0755", "--dir", "/etc")
    names = (*ETC, *(ETC_NETWORK if network else ()))
    yield from _binds("--ro-bind-try", *(f"/etc/{name}" for name in names))
    if not network:
        yield from ("--ro-bind", HOSTS, "/etc/hosts")


def _devices(gpu: str) -> Iterator[str]:
    if gpu:
        own = (card(gpu)[1],) if os.path.exists("/dev/nvidiactl") else ("kfd", "dri")
        yield from _binds("--dev-bind-try", *(f"/dev/{name}" for name in (*DEVICES, *own)))


def _private(home: Path, size: int) -> Iterator[str]:
    """Folders in memory, of `size` bytes each."""
    for folder in ("/tmp", "/var/tmp", "/dev/shm", str(home)):
        yield from _parents(Path(folder))
        yield from ("--perms", "1777", "--size", str(size), "--tmpfs", folder)


def _binds(kind: str, *paths: Path | str) -> Iterator[str]:
    """Each at its own place."""
    for path in paths:
        yield from (kind, str(path), str(path))


def _covered(path: Path) -> Iterator[str]:
    """Put a sentence in place of a module or package, and nothing in place of any other folder."""
    module = path / "__init__.py"
    if path.is_file():
        yield from ("--ro-bind", HELD_OUT, str(path))
    elif path.is_dir():
        yield from ("--tmpfs", str(path))
        yield from ("--ro-bind", HELD_OUT, str(module)) if module.exists() else ()


def _parents(path: Path) -> Iterator[str]:
    """Make the folders above a mount point, so that the sandbox's user may pass through them."""
    for folder in map(str, reversed(path.parents)):
        if folder != "/" and not folder.startswith(("/usr", "/dev")):
            yield from ("--perms", "0755", "--dir", folder)


def _limited(limits: Limits) -> tuple[str, ...]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = limits.open_files
    files = files if hard == resource.RLIM_INFINITY else min(files, hard)
    return (
        "prlimit",
        f"--fsize={limits.file_bytes}",
        f"--nofile={files}",
        f"--nproc={4 * limits.processes}",
        "--core=0",
    )


def _calls() -> int:
    """An open file that holds the filter of system calls, for bubblewrap to read."""
    file = os.memfd_create("calls")
    os.write(file, confine.call_filter(os.uname().machine))
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _filtered(calls: int) -> tuple[str, ...]:
    return ("--seccomp", str(calls)) if os.fstat(calls).st_size else ()


def _fails(sandbox: list[str], command: list[str]) -> str:
    """Why this start of bubblewrap comes to nothing; "" when it works."""
    calls = _calls()
    path = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
    try:
        argv = [*sandbox, *_filtered(calls), *command]
        done = subprocess.run(argv, capture_output=True, env=path, timeout=20, pass_fds=(calls,))
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not start ({error})"
    finally:
        os.close(calls)
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    told = said[-1] if said else "no reason given"
    return f"bubblewrap does not work here ({told}{_forbidden()})" if done.returncode else ""


def _forbidden() -> str:
    """What forbids namespaces to users on this machine, as far as it says so."""
    for name, forbids in FORBIDS.items():
        try:
            if Path(PROC_SYS, name).read_text().strip() == forbids:
                return f"; {name.rpartition('/')[2]} is {forbids}"
        except OSError:
            continue
    return ""
