"""A process that starts no other: for what is measured from outside, a process at a time. Frozen.

A filter of system calls (seccomp), which the program that the process becomes cannot take off
again. Linux on x86-64 and aarch64.
"""

import ctypes
import os
import platform
import struct
import sys

# Of linux/prctl.h, linux/seccomp.h and linux/sched.h
DUMPABLE, SECCOMP, NO_NEW_PRIVILEGES, FILTER = 4, 22, 38, 2
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
THREAD = 0x10000
# Of linux/bpf_common.h: load a word, compare, and give the verdict
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# Where seccomp_data has the call, the architecture and the first argument
CALL, ARCHITECTURE, ARGUMENT = 0, 4, 16
# A second set of numbers for the same calls on x86-64 begins here
OTHERS = 0x40000000
# Architecture; fork and vfork; clone; clone3
KNOWN = {"x86_64": (0xC000003E, (57, 58), 56, 435), "aarch64": (0xC00000B7, (), 220, 435)}
LIBC = ctypes.CDLL(None, use_errno=True)


def unreadable():
    """From here on nobody but root reads or writes this process's memory."""
    LIBC.prctl(DUMPABLE, 0, 0, 0, 0)


def alone(threads):
    """For `preexec_fn`: what the process becomes starts no other; threads where they are allowed.

    clone3 is said not to be there, since its flags cannot be seen: then clone is used.
    """
    if platform.machine() not in KNOWN:
        sys.exit(f"No filter of system calls is known for {platform.machine()}.")
    architecture, forks, clone, clone3 = KNOWN[platform.machine()]
    rules = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL)]
    rules += [(LOAD, 0, 0, CALL), (AT_LEAST, 0, 1, OTHERS), (RETURN, 0, 0, KILL)]
    for fork in forks:
        rules += [(EQUAL, 0, 1, fork), (RETURN, 0, 0, EPERM)]
    rules += [(EQUAL, 0, 1, clone3), (RETURN, 0, 0, ENOSYS)]
    if threads:
        rules += [(EQUAL, 0, 3, clone), (LOAD, 0, 0, ARGUMENT), (ANY_BIT, 1, 0, THREAD)]
    else:
        rules += [(EQUAL, 0, 1, clone)]
    rules += [(RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *rule) for rule in rules))
    program = struct.pack("@HP", len(rules), ctypes.addressof(code))
    LIBC.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if LIBC.prctl(SECCOMP, FILTER, ctypes.create_string_buffer(program), 0, 0):
        os._exit(99)
