"""Confinement without bubblewrap: Landlock, limits, no new privileges; and the launcher that
applies them.

Run as a script (`confine.py RULES COMMAND …`) it confines itself and becomes the command; where
there is no PID namespace to end strays with, a parent of the command stays and does that. It
imports nothing of the package, so that the launcher starts in milliseconds. Landlock: landlock(7);
processes of the same user stay visible.

The filter of system calls is bubblewrap's sandboxes' as well. It refuses keyrings (the kernel keeps
them by user, whatever the namespaces) and calls that training has no use for and holes in the
kernel were found behind. To leave the slot's cores is passed over as though it had been done:
`taskset`, OpenMP and DataLoader workers go on where they are.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import struct
import sys

(
    PR_SET_PDEATHSIG,
    PR_SET_DUMPABLE,
    PR_SET_SECCOMP,
    PR_CAPBSET_DROP,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_NO_NEW_PRIVS,
) = 1, 4, 22, 24, 36, 38
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
# ioctl on a network interface, and its flags
SET_FLAGS, UP, RUNNING = 0x8914, 1, 64
# Execute, read a file, read a folder
READ = 0b1101
# What a rule for a single file may hold: execute, write, read, truncate
FILE_RIGHTS = 0b111 | 1 << 14
ALL_BY_ABI = {
    1: (1 << 13) - 1,
    2: (1 << 14) - 1,
    3: (1 << 15) - 1,
    4: (1 << 15) - 1,
    5: (1 << 16) - 1,
}
# Bind and connect over TCP, from ABI 4
NETWORK_RIGHTS = 0b11
PATH_BENEATH = JOIN_SESSION_KEYRING = 1
# By machine: its number for audit; sched_setaffinity; add_key, request_key, keyctl, bpf,
# perf_event_open, userfaultfd, io_uring_setup, kexec_load, kexec_file_load.
CALLS = {
    "x86_64": (0xC000003E, 203, (248, 249, 250, 321, 298, 323, 425, 246, 320)),
    "aarch64": (0xC00000B7, 122, (217, 218, 219, 280, 241, 282, 425, 104, 294)),
}
# Of the kernel's packet filter language
LOAD, EQUAL, AT_LEAST, ANSWER = 0x20, 0x15, 0x35, 0x06
# … with EPERM
ALLOW, PASS_OVER, REFUSE = 0x7FFF0000, 0x00050000, 0x00050001
O_PATH = getattr(os, "O_PATH", 0x200000)

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Raises OSError."""
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def adopt_orphans() -> None:
    """Become the parent of strays below this process, so that they can be found and ended."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def hide() -> None:
    """Close this process's environ, memory and ptrace to other processes of the same user."""
    prctl(PR_SET_DUMPABLE, 0)


def loopback() -> None:
    """Switch on the loopback of a network namespace of one's own. Raises OSError."""
    handle = _libc.socket(2, 2, 0)
    if _libc.ioctl(handle, SET_FLAGS, struct.pack("16sh14x", b"lo", UP | RUNNING)):
        raise OSError(ctypes.get_errno(), "loopback")
    os.close(handle)


def keep_to_oneself() -> None:
    """Let no capability that this process has, unshare left it some, pass to what it becomes."""
    header, facts = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    if _libc.capget(header, facts):
        raise OSError(ctypes.get_errno(), "capget")
    effective, permitted, _, effective2, permitted2, _ = struct.unpack("6I", facts.raw)
    mine = struct.pack("6I", effective, permitted, 0, effective2, permitted2, 0)
    if _libc.capset(header, mine):
        raise OSError(ctypes.get_errno(), "capset")


def landlock_abi() -> int:
    """The kernel's Landlock version, 0 where it has none."""
    version = _libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    return max(0, int(version))


def call_filter(machine: str) -> bytes:
    """The filter as `bwrap --seccomp` takes it; b"" for a machine whose system calls are not known
    here.
    """
    if machine not in CALLS:
        return b""
    audit, affinity, refused = CALLS[machine]
    # Calls of another machine's kind
    code = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, audit), (ANSWER, 0, 0, REFUSE)]
    # … or by their second numbers
    code += [(LOAD, 0, 0, 0), (AT_LEAST, 0, 1, 1 << 30), (ANSWER, 0, 0, REFUSE)]
    for number, answer in ((affinity, PASS_OVER), *((number, REFUSE) for number in refused)):
        code += [(EQUAL, 0, 1, number), (ANSWER, 0, 0, answer)]
    return b"".join(struct.pack("=HBBI", *step) for step in (*code, (ANSWER, 0, 0, ALLOW)))


def filter_calls(code: bytes) -> None:
    """Put this process under the filter. Raises OSError."""
    held = ctypes.create_string_buffer(code)
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))
    if code and _libc.prctl(PR_SET_SECCOMP, 2, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def landlock(read: list[str], write: list[str], network: bool) -> None:
    """From here on only these folders can be read, or read and written; no TCP without `network`.
    Raises OSError.
    """
    abi = landlock_abi()
    rights = ALL_BY_ABI.get(abi, ALL_BY_ABI[5])
    rules = _Ruleset(rights, 0 if network or abi < 4 else NETWORK_RIGHTS, 3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = _libc.syscall(CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock")
    for allowed, paths in ((READ, read), (rights, write)):
        for path in paths:
            try:
                handle = os.open(path, O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            mine = allowed & rights if os.path.isdir(path) else allowed & rights & FILE_RIGHTS
            rule = _Beneath(mine, handle)
            if _libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0):
                raise OSError(ctypes.get_errno(), path)
            os.close(handle)
    if _libc.syscall(RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), "landlock")
    os.close(ruleset)


def keep(child: int) -> int:
    """Wait for a child, then end whatever is left below this process, orphans that it took in
    among them, their environment cleaned or not. Returns the child's exit code, as a shell does.
    """
    code = done = 0
    while done != child:
        done, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
    with open(f"/proc/self/task/{os.getpid()}/children") as below:
        while True:
            below.seek(0)
            for pid in map(int, below.read().split()):
                os.kill(pid, 9)
            try:
                os.wait()
            except ChildProcessError:
                return code if code >= 0 else 128 - code


def main(rules: dict[str, object], command: list[str]) -> None:
    if rules["keeps"]:
        adopt_orphans()
        prctl(PR_SET_PDEATHSIG, 9)
        if child := os.fork():
            os._exit(keep(child))
    limits = rules["limits"]
    assert isinstance(limits, dict)
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name.upper()}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    if rules["loopback"]:
        loopback()
    keep_to_oneself()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_PDEATHSIG, 9)
    if machine := CALLS.get(os.uname().machine):
        # An empty one of its own
        _libc.syscall(machine[2][2], JOIN_SESSION_KEYRING, None)
    if rules["landlock"]:
        for capability in range(64):
            # So that root has none after exec; the kernel has fewer than 64
            _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        landlock(rules["read"], rules["write"], bool(rules["network"]))  # type: ignore[arg-type]
        filter_calls(call_filter(os.uname().machine))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
