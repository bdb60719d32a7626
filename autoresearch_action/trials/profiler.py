"""Run a Python program under cProfile and print `PROFILE share file:line name` of its functions.

Handed to the trial's own interpreter as text, so nothing but the standard library. Time in code
outside the working directory (libraries, builtins) counts for the functions inside that called it,
in proportion to what each caller took. Other threads and processes are not seen.
"""

import cProfile
import os
import pstats
import runpy
import sys
from typing import Any

# Functions that are printed, and rounds in which time is passed on to callers
SHOWN, ROUNDS = 40, 60

Function = tuple[str, int, str]


def shares(stats: dict[Function, Any], folder: str) -> dict[Function, float]:
    """Seconds by function of a file below `folder`."""
    inside = {
        one
        for one in stats
        if os.path.abspath(one[0]).startswith(folder + os.sep) and os.path.isfile(one[0])
    }
    own = {one: facts[2] for one, facts in stats.items()}
    found = {one: own.pop(one) for one in inside}
    for _ in range(ROUNDS):
        passed: dict[Function, float] = {}
        for one, seconds in own.items():
            callers = {c: facts[3] + 1e-12 for c, facts in stats[one][4].items() if c in stats}
            total = sum(callers.values())
            for caller, weight in callers.items():
                part = seconds * weight / total
                target = found if caller in inside else passed
                target[caller] = target.get(caller, 0.0) + part
        own = passed
    return found


def main() -> None:
    module = sys.argv[1] == "-m"
    sys.argv = sys.argv[2:] if module else sys.argv[1:]
    profile, folder = cProfile.Profile(), os.getcwd()
    sys.path.insert(0, folder if module else os.path.dirname(os.path.abspath(sys.argv[0])))
    profile.enable()
    try:
        if module:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        profile.disable()
        found = shares(pstats.Stats(profile).stats, folder)  # type: ignore[attr-defined]
        total = sum(found.values()) or 1.0
        first = sorted(found, key=lambda one: -found[one])[:SHOWN]
        for file, line, name in first:
            place = os.path.relpath(file, folder)
            print(
                f"PROFILE {found[file, line, name] / total:.4f} {place}:{line} {name}", flush=True
            )


if __name__ == "__main__":
    main()
