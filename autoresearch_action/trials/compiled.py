"""What a candidate's code compiles to: made once per tree in an untimed pass, and never read by
another tree.

So that a cold candidate is not punished for compiling, nor a long compilation rewarded: before the
first trial of a tree its `run` runs once under a limit of its own, with the brief's `decoy` in
place of the data: random, so that there is nothing to learn. What the pass leaves in the compilers'
caches is copied for every trial of this very tree; what a trial writes into its copy goes with the
trial. Compilers leave text and code, which pack well, and little of it; weights do not, so that the
packed size bounds what could be carried over instead. Running the pass is trial.py's.
"""

from __future__ import annotations

import os
import shutil
import stat
import zlib
from pathlib import Path

from autoresearch_action.workspace.folders import remove

ENVIRONMENT = {
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
    "JAX_COMPILATION_CACHE_DIR": "jax",
    "NUMBA_CACHE_DIR": "numba",
}
# Seconds of training in the pass: all shapes are met at once
BUDGET = 1.0
# Seconds of the base's pass
LIMIT = 900.0
# Trees of a slot: the base, the incumbent and the latest candidates among them
KEPT = 6
MOST_BYTES, MOST_PACKED, MOST_FILES = 256 << 20, 16 << 20, 20_000


class Compiled:
    """The caches of one slot, in `folder`, of which one trial at a time gets a `copy`. Slots never
    wait for one another.
    """

    def __init__(self, folder: Path, copy: Path) -> None:
        self._folder, self.copy = folder, copy

    def known(self, tree: str) -> bool:
        return (self._folder / tree).is_dir()

    def empty(self) -> Path:
        """An empty folder for a pass to write into."""
        remove(self.copy)
        self.copy.mkdir(parents=True)
        return self.copy

    def keep(self, tree: str, usable: bool) -> None:
        """What the pass has left is this tree's from now on: nothing, where the pass failed or left
        too much.
        """
        if not (usable and _bounded(self.copy)):
            self.empty()
        self._folder.mkdir(exist_ok=True)
        os.rename(self.copy, self._folder / tree)
        latest = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in latest[KEPT:]:
            remove(old)

    def copied(self, tree: str) -> Path:
        """A copy for one trial of `tree`."""
        source = self._folder / tree
        # In use: not the one that makes room
        os.utime(source)
        remove(self.copy)
        shutil.copytree(source, self.copy)
        return self.copy


def _bounded(folder: Path) -> bool:
    """Whether it holds plain files only, that can be read, and no more than compilers leave."""
    try:
        return _plain(folder)
    except (OSError, RecursionError):
        return False


def _plain(folder: Path) -> bool:
    size = packed = count = 0
    for place, folders, files in os.walk(folder):
        for path in (Path(place) / name for name in (*folders, *files)):
            facts = path.lstat()
            size, count = size + facts.st_size, count + 1
            if (
                size > MOST_BYTES
                or count > MOST_FILES
                or not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode))
            ):
                return False
            packed += len(zlib.compress(path.read_bytes(), 1)) if stat.S_ISREG(facts.st_mode) else 0
            if packed > MOST_PACKED:
                return False
    return True
