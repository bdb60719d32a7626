"""Probes from inside a trial for what is not its own: none succeeds in the full sandbox, whoever starts it.

The same probes under the fallback are listed with what they reach: Landlock hides files, not processes.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import bench
import pytest
import tiny

from autoresearch_action.isolation import Job, confine
from autoresearch_action.isolation.bubblewrap import Bubblewrap, _calls
from autoresearch_action.isolation.device import Slot
from autoresearch_action.isolation.fallback import unshares
from autoresearch_action.isolation.log import Log
from autoresearch_action.isolation.process import Limits
from autoresearch_action.isolation.secrets import Secrets

SECRET = "planted-0123456789abcdef"
PROBES = r"""
import ctypes, glob, json, os, socket, subprocess, sys
SECRET = "planted-0123456789" + "abcdef"
PORT, HOST_PID, PLACE, KEYFILE, UNIX, ABSTRACT = ARGS
found = {}

def probe(function):
    try:
        found[function.__name__] = bool(function())
    except BaseException:
        found[function.__name__] = False

def read(*patterns):
    for pattern in patterns:
        for path in glob.glob(pattern):
            try:
                if SECRET.encode() in open(path, "rb").read(1 << 20):
                    return True
            except OSError:
                pass
    return False

def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(2)
        s.connect(address)
        return True

@probe
def own_environment(): return SECRET in str(os.environ)
@probe
def parents_environ(): return read(f"/proc/{os.getppid()}/environ", "/proc/1/environ")
@probe
def any_environ(): return read("/proc/*/environ", "/proc/*/task/*/environ")
@probe
def any_command_line(): return any(b"host.py" in open(p, "rb").read() for p in glob.glob("/proc/*/cmdline") if os.access(p, os.R_OK))
@probe
def host_process(): return os.path.exists(f"/proc/{HOST_PID}/stat") and b"host.py" in open(f"/proc/{HOST_PID}/cmdline", "rb").read()
@probe
def signal_host(): os.kill(HOST_PID, 0); return b"host.py" in open(f"/proc/{HOST_PID}/cmdline", "rb").read()
@probe
def host_memory(): return bool(open(f"/proc/{HOST_PID}/mem", "rb")) and b"host.py" in open(f"/proc/{HOST_PID}/cmdline", "rb").read()
@probe
def attach(): return ctypes.CDLL(None).ptrace(16, HOST_PID, 0, 0) == 0
@probe
def hosts_root(): return read(f"/proc/{HOST_PID}/root{KEYFILE}", f"/proc/{HOST_PID}/cwd/*")
@probe
def key_file(): return read(KEYFILE)
@probe
def other_trials(): return read(f"{PLACE}/.autoresearch/**", f"{PLACE}/.autoresearch/trials/*/*", f"{PLACE}/.autoresearch/slots/*/*")
@probe
def ledger(): return os.path.exists(f"{PLACE}/.autoresearch/ledger.jsonl")
@probe
def git_folder(): return os.path.exists(f"{PLACE}/.git") or os.path.exists(f"{PLACE}/.autoresearch/repo.git")
@probe
def runner_files(): return any(os.path.exists(f"{os.path.dirname(KEYFILE)}/{name}") for name in ("env", "output", "path"))
@probe
def write_runner_files(): open(f"{os.path.dirname(KEYFILE)}/env", "a").write("X=1"); return True
@probe
def home_secrets(): return any(os.path.exists(os.path.expanduser(p)) for p in ("~/.ssh", "~/.netrc", "~/.aws", "~/.docker", "~/.gitconfig", "~/.config/gh", "~/.bash_history"))
@probe
def host_tmp(): return os.path.exists(os.path.dirname(KEYFILE))
@probe
def shadow(): return open("/etc/shadow").read() != ""
@probe
def docker_socket(): return any(os.path.exists(p) for p in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"))
@probe
def loopback(): return connect(socket.AF_INET, ("127.0.0.1", PORT))
@probe
def outside(): return len(glob.glob("/sys/class/net/*")) > 1 or connect(socket.AF_INET, ("192.0.2.1", 80))
@probe
def unix_socket(): return connect(socket.AF_UNIX, UNIX)
@probe
def abstract_socket(): return connect(socket.AF_UNIX, ABSTRACT)
@probe
def user_namespace(): return subprocess.run(["unshare", "-Ur", "true"], capture_output=True).returncode == 0
@probe
def mount(): return ctypes.CDLL(None).mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None) == 0
@probe
def capabilities(): return any(int(l.split()[1], 16) for l in open("/proc/self/status") if l.startswith(("CapEff", "CapPrm", "CapAmb")))
@probe
def privileges(): return os.setuid(0) is None and os.geteuid() == 0
@probe
def system_files(): open("/usr/bin/planted", "w").close(); return True
@probe
def kernel_settings(): open("/proc/sys/kernel/core_pattern", "w").write("|/tmp/x"); return True
@probe
def disks(): return any(os.path.exists(p) for p in ("/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/mem", "/dev/kmsg"))
@probe
def frozen_files(): open("score.py", "a").write("#"); return True
@probe
def terminal(): return ctypes.CDLL(None).ioctl(0, 0x5412, b"x") == 0
@probe
def left_behind():
    name = "left-by-" + KEYFILE.split("/")[-2]  # of this test: others run beside it
    places = [f"{folder}/{name}" for folder in ("/tmp", "/var/tmp", "/dev/shm", os.path.expanduser("~"), os.environ["TMPDIR"])]
    there = any(map(os.path.exists, places))
    for path in places:
        try: open(path, "w").close()
        except OSError: pass
    return there
@probe
def keyring():
    libc = ctypes.CDLL(None)
    add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
    rings = (-3, -4, -5)  # the session's, the user's, the user's session's
    held = any(libc.syscall(keyctl, 10, ring, b"user", b"autoresearch-planted", 0) > 0 for ring in rings)
    return held or any(libc.syscall(add_key, b"user", b"autoresearch-left", b"x", 1, ring) > 0 for ring in rings)
@probe
def other_cores():
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count()))
    return os.sched_getaffinity(0) != mine
@probe
def kernel_surface():
    bpf, perf, faults, ring = {"x86_64": (321, 298, 323, 425), "aarch64": (280, 241, 282, 425)}[os.uname().machine]
    libc, room = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(256)
    calls = (bpf, 5, room, 128), (perf, room, 0, -1, -1, 0), (faults, 0), (ring, 8, room), (0x40000000 + bpf, 5, room, 128)
    return any(libc.syscall(*call) >= 0 or ctypes.get_errno() not in (1, 38) for call in calls)
print("PROBES " + json.dumps(found))
open("model.txt", "w").write("0.5")
"""


@pytest.fixture
def host() -> Iterator[dict[str, object]]:
    """A host with everything worth stealing: a process with a secret, files, sockets, a server on loopback."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    (place / "key").write_text(SECRET)
    for name in ("env", "output", "path"):
        (place / name).write_text("")
    for path in (place, *place.iterdir()):
        path.chmod(0o777)
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(server,), daemon=True).start()
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(place / "socket"))
    unix.listen()
    (place / "socket").chmod(0o777)
    abstract = socket.socket(socket.AF_UNIX)
    name = f"\0autoresearch-{os.getpid()}"
    abstract.bind(name)
    abstract.listen()
    (place / "host.py").write_text("import time; time.sleep(600)")
    numbers = confine.CALLS[os.uname().machine][2]
    for ring in (
        (-3, -4)
        if ctypes.CDLL(None).syscall(numbers[2], confine.JOIN_SESSION_KEYRING, None) > 0
        else ()
    ):
        ctypes.CDLL(None).syscall(
            numbers[0], b"user", b"autoresearch-planted", SECRET.encode(), len(SECRET), ring
        )
    process = subprocess.Popen([sys.executable, str(place / "host.py")], env={"THE_KEY": SECRET})
    yield {
        "port": server.getsockname()[1],
        "pid": process.pid,
        "key": str(place / "key"),
        "unix": str(place / "socket"),
        "abstract": name,
    }
    process.kill()
    process.wait()
    for each in (server, unix, abstract):
        each.close()
    for left in Path("/dev/shm").glob(f"left-by-{place.name}"):  # where the fallback reaches
        left.unlink()
    shutil.rmtree(place)


def _accept(server: socket.socket) -> None:
    while True:
        try:
            server.accept()[0].close()
        except OSError:
            return


def probes(host: dict[str, object], place: Path) -> str:
    values = (host["port"], host["pid"], str(place), host["key"], host["unix"], host["abstract"])
    return PROBES.replace("ARGS", repr(values))


def found(log: str) -> dict[str, bool]:
    line = next(line for line in log.splitlines() if line.startswith("PROBES "))
    told: dict[str, bool] = json.loads(line.removeprefix("PROBES "))
    return told


def plant(state: Path) -> None:
    """A ledger and another trial's files, with the secret in them."""
    for name in ("ledger.jsonl", "trials/0007/model.txt", "slots/other/model.txt"):
        path = state / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SECRET)


def probed(directory: Path, host: dict[str, object], level: str, spaces: bool = False) -> set[str]:
    """What the probes reach as this user in a real trial, the second of two."""
    at = bench.python(directory)
    at.isolation = bench.isolation("unshared" if spaces else level)
    at.slot = Slot("cpu:0", cores=at.slot.cores[:1])
    plant(at.state)
    for _ in range(2):
        measured = bench.candidate(at, probes(host, directory))
        assert measured.outcome == "ok", measured.reason + measured.tail
        log = at.state / measured.log
        told = found(log.read_text())
        log.unlink()
    assert len(told) >= 20
    return {name for name, reached in told.items() if reached}


def test_no_probe_succeeds(
    tmp_path: Path, host: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", SECRET)
    assert probed(tmp_path / "r", host, "full") == set()


@pytest.fixture
def account(
    host: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., set[str]]]:
    """`probed` for tests that root runs: as an ordinary user, with a process of the same user to look at."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    tree = tiny.repository(place / "tree")
    plant(place / ".autoresearch")
    (place / "tree.home").mkdir()
    (tree / ".git").rename(place / ".git")
    for path in (confine.__file__, Path(str(host["key"])).with_name("host.py")):
        shutil.copy(path, place)
    user = [
        "taskset",
        "-c",
        str(min(os.sched_getaffinity(0))),
        "setpriv",
        "--reuid=1234",
        "--regid=1234",
        "--clear-groups",
    ]
    process = subprocess.Popen(
        [*user, "/usr/bin/python3", str(place / "host.py")], env={"THE_KEY": SECRET}, cwd="/"
    )
    (tree / "train.py").write_text(probes(host | {"pid": process.pid}, place))
    place.chmod(0o755)
    for path in (tree, place / "tree.home", *tree.iterdir()):
        os.chown(path, 1234, 1234)
    bench.isolation("full")
    for owner, name, value in (
        (os, "geteuid", lambda: 1234),
        (sys, "executable", "/usr/bin/python3"),
        (confine, "__file__", place / "confine.py"),
    ):
        monkeypatch.setattr(owner, name, value)

    def run(level: str, spaces: bool = False) -> set[str]:
        job = Job(
            "/usr/bin/python3 train.py",
            tree,
            Path("/srv/r"),
            Path(),
            {"PATH": "/usr/bin:/bin"},
            readonly={name: tree / name for name in ("score.py", "program.md")},
        )
        env = {
            "PATH": "/usr/bin:/bin",
            "HOME": "/root" if level == "full" else str(place / "tree.home"),
            "TMPDIR": "/tmp",
        }
        for _ in range(2):
            calls = _calls()
            argv = (
                Bubblewrap().argv(job, Limits(), calls)
                if level == "full"
                else bench.isolation("unshared" if spaces else level).argv(job, Limits())
            )
            done = subprocess.run(
                [*user, *argv],
                capture_output=True,
                text=True,
                env=env,
                cwd=tree,
                pass_fds=(calls,),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
            )
        return {name for name, reached in found(done.stdout + done.stderr).items() if reached}

    yield run
    process.kill()
    process.wait()
    shutil.rmtree(place)


@pytest.mark.skipif(
    os.geteuid() != 0, reason="started by an ordinary user, the test above is this one"
)
def test_no_probe_succeeds_for_an_ordinary_user(account: Callable[[str], set[str]]) -> None:
    """The command that an ordinary user's sandbox would start, started as one."""
    assert account("full") == set()


SPACES = [
    False,
    *([True] if unshares() else []),
]  # with bubblewrap alone, a user namespace is not to be had everywhere


def reached(root: bool, spaces: bool) -> set[str]:
    """What the reduced level lets through, by name: it hides what files hold, not that they are there, nor processes, unless
    `spaces` of its own hide these."""
    abi = confine.landlock_abi()
    names = {
        "host_process",
        "any_command_line",
        "host_tmp",
        "runner_files",
        "unix_socket",
        "git_folder",
        "ledger",
        "frozen_files",
        "left_behind",
    }
    names |= (
        {"shadow", "privileges"} if root else set()
    )  # root stays root, without capabilities and behind Landlock
    names |= {"signal_host", "abstract_socket"} if abi < 6 else set()
    names |= {"loopback"} if abi < 4 else set()
    names |= (
        {"disks"}
        if any(
            map(os.path.exists, ("/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/mem", "/dev/kmsg"))
        )
        else set()
    )
    names |= (
        {"docker_socket"}
        if any(
            map(
                os.path.exists,
                ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"),
            )
        )
        else set()
    )
    names |= {"outside"} if len(os.listdir("/sys/class/net")) > 1 else set()
    return names - (HIDDEN if spaces else set())


HIDDEN = {"host_process", "any_command_line", "signal_host", "abstract_socket", "loopback"}


@pytest.mark.parametrize("spaces", SPACES)
def test_what_the_fallback_reaches_is_known(
    tmp_path: Path, host: dict[str, object], spaces: bool
) -> None:
    assert probed(tmp_path / "r", host, "reduced", spaces) == reached(os.geteuid() == 0, spaces)


@pytest.mark.skipif(
    os.geteuid() != 0, reason="started by an ordinary user, the test above is this one"
)
@pytest.mark.parametrize("spaces", SPACES)
def test_what_the_fallback_reaches_for_an_ordinary_user_is_known(
    account: Callable[..., set[str]], spaces: bool
) -> None:
    assert account("reduced", spaces) == reached(False, spaces)


def test_a_process_of_the_harness_is_closed_to_others() -> None:
    """The key leaves the environment and /proc before anything else starts."""
    code = (
        "import os, sys; sys.path.insert(0, '.')\n"
        "from autoresearch_action.isolation.secrets import Secrets\n"
        "s = Secrets.take(os.environ)\n"
        "print(s.model_key, 'planted' in open('/proc/self/environ').read(), 'ANTHROPIC_API_KEY' in os.environ, repr(s), s.scrub('x ' + s.model_key))\n"
        "import subprocess; print('planted' in subprocess.run(['env'], capture_output=True, text=True).stdout, os.environ['PATH'] != '')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"ANTHROPIC_API_KEY": SECRET},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first == f"{SECRET} False False Secrets() x ***"
    assert second == "False True"


def test_no_secret_stays_in_a_log(tmp_path: Path) -> None:
    """However it is cut into pieces: what a trial cannot know, the setup of its data or an agent may have left to it."""
    many = f"-----BEGIN-----\n{SECRET[::-1]}\n{SECRET[3:] * 2}\n-----END-----"
    secrets = Secrets({"THE_KEY": SECRET, "A_KEY": many})
    log = Log(tmp_path / "log", secrets.scrub)
    for piece in (
        b"a ",
        SECRET.encode()[:2],
        SECRET.encode()[2:9],
        SECRET.encode()[9:],
        b" b\r",
        SECRET.encode(),
        b"\n\xff\n",
        many.encode(),
        b"\n" + SECRET.encode(),
    ):
        log.write(piece)
    log.close()
    told = log.path.read_bytes()
    assert (
        b"a *** b\r***\n\xff\n" in told
        and told.endswith(b"***\n")
        and SECRET.encode()[3:] not in told
        and SECRET.encode()[::-1] not in told
    )
    at = bench.make(tiny.repository(tmp_path / "r"), scrub=secrets.scrub)
    measured = bench.candidate(at, f"import sys; print({SECRET!r}); sys.exit({SECRET!r})")
    assert (
        "exit code 1: ***" in measured.reason
        and SECRET not in measured.model_dump_json() + (at.state / measured.log).read_text()
    )


def test_the_log_is_bounded(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    for number in range(40):
        log.write(f"line {number} ".encode() + b"x" * 50_000 + b"\n")
    log.close()
    text = log.path.read_text()
    assert (
        len(text) < 700_000
        and "line 0 " in text
        and "line 39 " in text
        and "bytes left out" in text
    )
