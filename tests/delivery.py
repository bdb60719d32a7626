"""A finished run that proved two changes, and a loopback GitHub that holds its base: what the publishing tests start from."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tiny
from fake_github import FakeGitHub

from autoresearch_action.github.pull_request import Published, publish

PROGRAM = tiny.PROGRAM.replace("python ", "/usr/bin/python3 ")
HERE = Path(__file__).resolve().parent.parent


@dataclass
class Delivery:
    """`home` is the user's clone, a copy of `made`; `state` the run's folder, `fake` GitHub."""

    made: Path
    home: Path
    state: Path
    fake: FakeGitHub
    environ: dict[str, str] = field(default_factory=dict)

    def publish(self, dry_run: bool = False, **more: str) -> Published:
        return publish(self.state, self.environ | more, dry_run)

    @property
    def outputs(self) -> dict[str, str]:
        """The outputs written last, by name."""
        found: dict[str, str] = {}
        lines = iter(Path(self.environ["GITHUB_OUTPUT"]).read_text().splitlines())
        for line in lines:
            name, _, mark = line.partition("<<")
            found[name] = "\n".join(iter(lambda mark=mark: next(lines), mark))
        return found


def research(home: Path, *words: str, ideas: Path | None = None) -> None:
    command = [sys.executable, "-m", "autoresearch_action", "run", "--max-minutes", "5", *words]
    command += ["--agent", f"patches:{ideas}"] if ideas else []
    environment = {"PYTHONPATH": str(HERE), "PATH": "/usr/bin:/bin", "HOME": str(home.parent)}
    subprocess.run(command, cwd=home, env=environment, check=True, capture_output=True)


def make(folder: Path, *, proven: bool = True) -> Path:
    """home/ with a finished run below it: two proven changes, or (not `proven`) one that is worse."""
    home = tiny.repository(folder / "home", program=PROGRAM)
    if proven:
        tiny.patch(
            home,
            folder / "ideas" / "1.diff",
            ("LR = 0.1", "LR = 0.2"),
            subject="Raise the rate, fixes #1 @mona",
        )
        tiny.patch(home, folder / "ideas" / "2.diff", ("WIDTH = 4", "WIDTH = 6"), subject="Wider")
    else:
        tiny.patch(home, folder / "ideas" / "1.diff", ("LR = 0.1", "LR = 0.9"), subject="Too high")
    research(home, ideas=folder / "ideas")
    return home


@functools.cache
def _again(made: Path, width: int) -> Path:
    home = made.with_name(f"{made.name}-{width}")
    shutil.copytree(made, home, symlinks=True)
    ideas = made.parent / f"ideas-{width}"
    tiny.patch(home, ideas / "1.diff", ("WIDTH = 4", f"WIDTH = {width}"), subject=f"Width {width}")
    research(home, "--fresh", ideas=ideas)
    return home


def newer(run: Delivery, width: int) -> None:
    """Another run on the same base proves something else. It is made once and copied."""
    home = _again(run.made, width)
    shutil.rmtree(run.state)
    shutil.copytree(home / ".autoresearch", run.state, symlinks=True)
    tiny.git(run.home, "fetch", "-q", "--update-head-ok", str(home), "+refs/*:refs/*")


@contextmanager
def delivered(made: Path, folder: Path) -> Iterator[Delivery]:
    """A copy of a made run, with a GitHub of its own."""
    home = folder / "home"
    shutil.copytree(made, home, symlinks=True)
    bare = folder / "origin.git"
    tiny.git(folder, "clone", "-q", "--bare", str(home), str(bare))
    tiny.git(bare, "update-ref", "-d", "refs/heads/autoresearch/program")
    with FakeGitHub(bare) as fake:
        environ = {
            "GITHUB_TOKEN": fake.token,
            "GITHUB_REPOSITORY": fake.repository,
            "GITHUB_API_URL": fake.url,
        }
        environ |= {
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_OUTPUT": str(folder / "outputs"),
        }
        yield Delivery(made, home, home / ".autoresearch", fake, environ)
        fake.check()
