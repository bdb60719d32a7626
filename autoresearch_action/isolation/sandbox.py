"""The sandbox: what a trial can see and reach. Full with bubblewrap, reduced with Landlock, or
none.

full      namespaces of its own (processes, network, users, mounts), a file system of the system's
folders and the
          user's interpreter (read-only), its tree, its data and nothing else; an unprivileged user
          without capabilities. The tree stands at the user's own repository's path, so that
          environments which remember where they are keep working.
reduced   Landlock for files and TCP, no new privileges; where user namespaces work, own ones for
processes, network and
          IPC by util-linux's unshare, else other processes of the same user stay visible.
none      a cleaned environment and a process group.

Limits on time, memory and output are process.py's, in all three.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch_action.errors import EnvironmentFault
from autoresearch_action.isolation import confine
from autoresearch_action.isolation.device import card
from autoresearch_action.isolation.interpreters import prefixes
from autoresearch_action.isolation.process import Limits, Log, Process
from autoresearch_action.trials.compiled import INSIDE
from autoresearch_action.workspace.trees import remove

NOBODY = 65534
SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt/rocm",
    "/nix/store",
    "/gnu/store",
)
ETC = (
    "alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone", "nsswitch.conf", "protocols",
    "services", "ssl", "pki", "ca-certificates", "OpenCL", "vulkan", "debian_version", "os-release", "lsb-release",
    "passwd", "group", "mime.types", "fonts", "gai.conf", "python3", "python3.11", "python3.12", "python3.13", "magic", "R", "java",
)  # fmt: skip
ETC_NETWORK = ("resolv.conf", "hosts", "host.conf")
DEVICES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps")
HELD_OUT = str(Path(__file__).with_name("held_out.py"))
# Bytes that a private folder in memory may hold, at most
TMPFS = 8 << 30


@dataclass(frozen=True)
class Job:
    """One command to start. `mount_at` is where the tree stands inside; paths of `readonly` are
    relative to it.
    """

    command: str
    tree: Path
    mount_at: Path
    # Working directory relative to the tree
    directory: Path
    env: Mapping[str, str] = field(default_factory=dict)
    readonly: Sequence[str] = ()
    # Read-only, at their own paths
    data: Sequence[Path] = ()
    # What stands there in place of a folder of `data`
    decoys: Mapping[Path, Path] = field(default_factory=dict)
    # What compilers write to, at compiled.INSIDE
    cache: Path | None = None
    # Files and folders that stay out of sight wherever they would be seen
    hidden: Sequence[Path] = ()
    network: bool = False
    # "": none; else the card's number
    gpu: str = ""
    cores: Sequence[int] = ()


class Sandbox:
    """The strongest level that this machine has. Raises EnvironmentFault where `require` cannot be
    met.
    """

    def __init__(self, wanted: str = "auto") -> None:
        self.level, self.why = "none", "sandbox: none"
        self._inner = False
        # Namespaces of its own without bubblewrap
        self.spaces = False
        self._home = Path(os.path.expanduser("~"))
        if wanted == "none":
            return
        self.why = self._try_bubblewrap()
        if not self.why:
            self.level = "full"
            return
        if wanted == "require":
            raise EnvironmentFault(
                f"`sandbox: require`, but {self.why}: install bubblewrap, or allow user namespaces."
            )
        if confine.landlock_abi() > 0:
            self.level = "reduced"
        self.spaces = unshares()

    def describe(self) -> str:
        if self.level == "full":
            return (
                "Sandbox: full (bubblewrap: own namespaces, no network unless the brief allows it)."
            )
        spaces = ", own namespaces for processes and network" if self.spaces else ""
        told = {
            "reduced": f"reduced isolation (Landlock{spaces})",
            "none": f"no isolation{spaces}",
        }[self.level]
        return f"Sandbox: {told}, because {self.why}."

    def _try_bubblewrap(self) -> str:
        """Why bubblewrap cannot be used; "" when it works."""
        if not shutil.which("bwrap"):
            return "bubblewrap is not installed"
        base = [
            "bwrap",
            *_SPACES,
            *_system(),
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--tmpfs",
            "/tmp",
        ]
        if os.geteuid() == 0:
            self._inner = not _fails([*base, *_DROP, *_INNER], ["true"])
            return "" if self._inner else _fails(base, [*_DROP, "true"])
        return _fails([*base, *_NEST], ["true"])

    def start(self, job: Job, limits: Limits, log: Log) -> Process:
        """Start the command. Its standard output and error are one stream; standard input is empty."""
        env = {
            **job.env,
            "HOME": str(self._home),
            "TMPDIR": "/tmp",
            "PWD": str(self.inside(job) / job.directory),
        }
        # Its uid may be in no passwd, and torch.compile asks who it is
        env |= {"USER": "trial", "LOGNAME": "trial"}
        mark = "" if self.level == "full" else f"AUTORESEARCH_TRIAL={secrets.token_hex(8)}"
        calls = _calls()
        argv = (
            self._bubblewrap(job, limits, env, calls)
            if self.level == "full"
            else self._plain(job, limits)
        )
        if mark:
            private = job.tree.with_name(f"{job.tree.name}.home")
            # Nothing crosses from one phase or trial to the next
            remove(private)
            private.mkdir()
            env |= {
                "HOME": str(private),
                "TMPDIR": str(private),
                "AUTORESEARCH_TRIAL": mark.partition("=")[2],
            }
        confine.adopt_orphans()
        with _on(job.cores):
            popen = subprocess.Popen(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                cwd=job.tree / job.directory if self.level != "full" else "/", pass_fds=(calls,) if self.level == "full" else (),
            )  # fmt: skip
        os.close(calls)
        return Process(popen, limits, log, disk=job.tree, mark=mark)

    def inside(self, job: Job) -> Path:
        """Where the tree stands as the command sees it."""
        return job.mount_at if self.level == "full" else job.tree

    def own(self, tree: Path, directory: Path) -> None:
        """Let the sandbox's user write into the working directory of a fresh tree."""
        if self.level == "full" and os.geteuid() == 0:
            os.chown(tree / directory, NOBODY, NOBODY)

    def own_all(self, folder: Path) -> None:
        """Let the sandbox's user write everywhere in a folder."""
        if self.level == "full" and os.geteuid() == 0:
            for place, _, files in os.walk(folder):
                for path in (place, *(os.path.join(place, name) for name in files)):
                    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)

    def _plain(self, job: Job, limits: Limits) -> list[str]:
        launcher = [sys.executable, "-I", "-S", str(Path(confine.__file__))]
        rules = {
            "read": [
                *SYSTEM,
                "/etc",
                "/proc",
                "/sys",
                "/dev",
                *map(str, (*job.data, *self._interpreters(job))),
            ],
            "write": [
                str(job.tree),
                str(job.tree.with_name(f"{job.tree.name}.home")),
                *_WRITABLE_DEVICES,
            ],
            "landlock": self.level == "reduced",
            "network": job.network,
            "limits": {"fsize": limits.file_bytes, "nofile": limits.open_files, "core": 0},
        }
        spaces = [*_UNSHARE, *(() if job.network else ("--net",))] if self.spaces else []
        return [*spaces, *launcher, json.dumps(rules), "/bin/sh", "-c", job.command]

    def _interpreters(self, job: Job) -> list[Path]:
        return _prefixes(
            job.env.get("PATH", ""),
            job.env.get("VIRTUAL_ENV", ""),
            job.mount_at,
            job.mount_at / job.directory,
        )

    def _bubblewrap(
        self, job: Job, limits: Limits, env: Mapping[str, str], calls: int
    ) -> list[str]:
        at, home = job.mount_at, self._home
        argv = [
            "bwrap",
            *[word for word in _SPACES if not (job.network and word == "--unshare-net")],
            *_system(job.network),
        ]
        argv += ["--proc", "/proc", "--dev", "/dev", *_devices(job.gpu), *_sys(bool(job.gpu))]
        for folder in ("/tmp", "/var/tmp", "/dev/shm", str(home)):
            argv += [
                *_parents(Path(folder)),
                "--perms",
                "1777",
                "--size",
                str(min(TMPFS, limits.memory)),
                "--tmpfs",
                folder,
            ]
        interpreters = self._interpreters(job)
        for path in interpreters:
            if at not in path.parents:
                argv += [*_parents(path), "--ro-bind-try", str(path), str(path)]
        argv += [*_parents(at), "--bind", str(job.tree), str(at)]
        # But links: a mount would go to where they lead
        for name in job.readonly:
            argv += (
                []
                if (job.tree / name).is_symlink()
                else ["--ro-bind-try", str(job.tree / name), str(at / name)]
            )
        for path in interpreters:
            if at in path.parents:
                argv += ["--ro-bind-try", str(path), str(path)]
        for path in job.data:
            argv += [*_parents(path), "--ro-bind-try", str(job.decoys.get(path, path)), str(path)]
        if job.cache:
            argv += ["--bind", str(job.cache), str(INSIDE)]
        system = [Path(path) for path in SYSTEM if not os.path.islink(path)]
        shown = [(path, path.resolve()) for path in (*system, *interpreters, *job.data)]
        for path in job.hidden:
            real = path.resolve()
            for place, behind in shown:
                if behind in real.parents:
                    argv += _covered(place / real.relative_to(behind))
        argv += ["--chdir", str(at / job.directory)]
        limit = [
            "prlimit",
            f"--fsize={limits.file_bytes}",
            f"--nofile={_open_files(limits)}",
            f"--nproc={4 * limits.processes}",
            "--core=0",
        ]
        command = [*limit, "/bin/sh", "-c", job.command]
        if os.geteuid() != 0:
            return [*argv, *_NEST, *_filtered(calls), *command]
        if self._inner:
            return [*argv, *_DROP, *_INNER, *_filtered(calls), *command]
        return [*argv, *_filtered(calls), *_DROP, *command]


_SPACES = ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "trial",
           "--die-with-parent", "--new-session")  # fmt: skip
_NEST = ("--unshare-user", "--disable-userns", "--cap-drop", "ALL")
# Started by root: mounts are made as root, then the user is changed for real, so that nothing root
# owns is in reach; a second, empty user namespace inside forbids further ones.
_DROP = (
    "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP",
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs",
)  # fmt: skip
_INNER = (
    "bwrap",
    "--unshare-user",
    "--disable-userns",
    "--dev-bind",
    "/",
    "/",
    "--cap-drop",
    "ALL",
    "--die-with-parent",
)
_UNSHARE = (
    "unshare",
    "--user",
    "--map-current-user",
    "--pid",
    "--fork",
    "--kill-child=KILL",
    "--mount-proc",
    "--ipc",
    "--uts",
)
_WRITABLE_DEVICES = (
    "/dev/null",
    "/dev/shm",
    "/dev/zero",
    "/dev/full",
    "/dev/urandom",
    "/dev/random",
)


def _system(network: bool = False) -> list[str]:
    argv: list[str] = []
    for path in SYSTEM:
        if os.path.islink(path):
            argv += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            argv += ["--ro-bind", path, path]
    # Bubblewrap's own would be root's alone
    argv += ["--perms", "0755", "--dir", "/etc"]
    for name in (*ETC, *(ETC_NETWORK if network else ())):
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return argv


def _covered(path: Path) -> list[str]:
    """Put a sentence in place of a module or package, and nothing in place of any other folder."""
    if path.is_file():
        return ["--ro-bind", HELD_OUT, str(path)]
    module = path / "__init__.py"
    return (
        ["--tmpfs", str(path), *(["--ro-bind", HELD_OUT, str(module)] if module.exists() else [])]
        if path.is_dir()
        else []
    )


def _parents(path: Path) -> list[str]:
    """Make the folders above a mount point, so that the sandbox's user may pass through them."""
    above = [
        str(folder)
        for folder in reversed(path.parents)
        if str(folder) != "/" and not str(folder).startswith(("/usr", "/dev"))
    ]
    return [word for folder in above for word in ("--perms", "0755", "--dir", folder)]


def _sys(gpu: bool) -> list[str]:
    paths = (
        "/sys/devices/system/cpu",
        "/sys/devices/system/node",
        *(("/sys/bus", "/sys/class", "/sys/devices", "/sys/module") if gpu else ()),
    )
    return [word for path in paths for word in ("--ro-bind-try", path, path)]


def _devices(gpu: str) -> list[str]:
    if not gpu:
        return []
    names = [*DEVICES, *((card(gpu)[1],) if os.path.exists("/dev/nvidiactl") else ("kfd", "dri"))]
    return [word for name in names for word in ("--dev-bind-try", f"/dev/{name}", f"/dev/{name}")]


@contextmanager
def _on(cores: Sequence[int]) -> Iterator[None]:
    """What this thread starts meanwhile stays on these cores."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores or before)
        yield
    finally:
        os.sched_setaffinity(0, before)


def _calls() -> int:
    """An open file that holds the filter of system calls, for bubblewrap to read."""
    file = os.memfd_create("calls")
    os.write(file, confine.call_filter(os.uname().machine))
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _filtered(calls: int) -> tuple[str, ...]:
    return ("--seccomp", str(calls)) if os.fstat(calls).st_size else ()


def _open_files(limits: Limits) -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return limits.open_files if hard == resource.RLIM_INFINITY else min(limits.open_files, hard)


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
    return (
        f"bubblewrap does not work here ({said[-1] if said else 'no reason given'})"
        if done.returncode
        else ""
    )


def unshares() -> bool:
    """Whether an ordinary command gets namespaces of its own here."""
    try:
        return (
            subprocess.run([*_UNSHARE, "--net", "true"], capture_output=True, timeout=20).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


@functools.lru_cache(maxsize=64)
def _prefixes(path: str, virtual: str, root: Path, directory: Path) -> list[Path]:
    return prefixes(path, virtual, root, directory)
