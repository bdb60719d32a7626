"""A tiny repository to optimise: a real git repository with a train.py that runs in milliseconds.

The loss is a known function of two literals plus seeded Gaussian noise, so that a test knows what is an
improvement and what is luck.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

TRAIN = '''"""A quadratic bowl with noise: the best is LR = 0.3, WIDTH = 8."""
import os
import random
import time

LR = 0.1  # step size

# Three lines between the literals: edits of both can be merged.

WIDTH = 4

NOISE = {noise}
PAUSE = 0.0  # seconds

time.sleep(PAUSE)
dice = random.Random(int(os.environ.get("AUTORESEARCH_SEED", "1")) * 7919 + {salt})
loss = 1.0 + (LR - 0.3) ** 2 * 10 + (WIDTH - 8) ** 2 * 0.01
for step in range(10):
    print(f"step {{step:05d}} ({{step * 10:.1f}}%) | loss: {{loss * (2 - step / 10) + NOISE * dice.gauss(0, 1):.4f}}", flush=True)
loss += NOISE * dice.gauss(0, 1)
with open("model.txt", "w") as file:
    file.write(str(loss))
print("---")
print(f"val_bpb: {{loss:.6f}}")
print("peak_vram_mb: 100.0")
'''
SCORE = """import os
loss = float(open("model.txt").read())
held_out = os.environ["AUTORESEARCH_SPLIT"] == "holdout"
print(f"val_bpb: {loss + (0.001 if held_out else 0.0):.6f}")
"""
PROGRAM = """---
edit: [train.py]
run: python train.py
evaluate: python score.py
metric: val_bpb
goal: minimize
timeout: 20
---
Lower the loss.
"""


def git(directory: Path, *words: str) -> str:
    identity = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "A"), ("EMAIL", "a@example.com"))
    }
    environment = (
        os.environ | identity | {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    )
    return subprocess.run(
        ["git", *words], cwd=directory, check=True, capture_output=True, text=True, env=environment
    ).stdout.rstrip("\n")


def commit(directory: Path, message: str = "A change") -> str:
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", message)
    return git(directory, "rev-parse", "HEAD")


def repository(
    directory: Path, noise: float = 0.01, salt: int = 0, program: str = PROGRAM, **files: str
) -> Path:
    """A repository with train.py, score.py and program.md committed on main; `files` by name with __ for dots."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "train.py").write_text(TRAIN.format(noise=noise, salt=salt))
    (directory / "score.py").write_text(SCORE)
    (directory / "program.md").write_text(program)
    (directory / ".gitignore").write_text(".autoresearch/\n")
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    git(directory, "init", "-q", "-b", "main")
    commit(directory, "Start")
    return directory


def patch(
    directory: Path, target: Path, *edits: tuple[str, str], subject: str = "A change"
) -> Path:
    """Write a git-format diff of train.py with each (old, new) replaced, leaving the work tree as it was."""
    file = directory / "train.py"
    before = file.read_text()
    after = before
    for old, new in edits:
        assert old in after
        after = after.replace(old, new, 1)
    file.write_text(after)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"Subject: {subject}\n\n" + git(directory, "diff") + "\n")
    file.write_text(before)
    return target
