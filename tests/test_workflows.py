"""The Action as a workflow runner runs it: act in host mode, this repository's own workflows, a loopback GitHub and model.

Emulated: checkout (by act) and the artifact store (a folder). `$/` references are written as a checkout and `./`: act has no other.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from fake_github import FakeGitHub
from model_server import ModelServer, reply

from autoresearch_action.cli import main

HERE = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PROGRAM = tiny.PROGRAM.replace("python ", "/usr/bin/python3 ")
CHECKOUT = "3d3c42e5aac5ba805825da76410c181273ba90b1"
ARTIFACTS = {
    "upload-artifact": """
        mkdir -p "$STORE/$NAME"
        printf %s "$PATHS" | while read -r p || [ -n "$p" ]; do [ ! -e "$p" ] || cp -r "$p" "$STORE/$NAME/"; done""",
    "download-artifact": """
        mkdir -p "$PATHS"
        if [ -n "$NAME" ]; then cp -r "$STORE/$NAME/." "$PATHS"; else cp -r "$STORE/." "$PATHS"; fi""",
}


class Runner:
    """A repository with our action in it, act, GitHub and a model."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.store, self.tools = (
            folder / "artifacts",
            folder / "acthome" / ".cache" / "act" / "tool_cache",
        )
        self.home.mkdir(parents=True)
        for name in ("action.yml", ".github", "autoresearch_action", "requirements.txt"):
            copy = shutil.copytree if (HERE / name).is_dir() else shutil.copy
            copy(
                HERE / name,
                self.home / name,
                **(
                    {"ignore": shutil.ignore_patterns("__pycache__")}
                    if copy is shutil.copytree
                    else {}
                ),
            )  # type: ignore[operator]
        for file in (
            *self.home.glob(".github/workflows/*.yml"),
            *self.home.glob(".github/actions/*/action.yml"),
        ):
            text = (
                file.read_text()
                .replace("uses: $/.\n", "uses: ./\n")
                .replace("uses: $/", "uses: ./")
            )
            file.write_text(
                re.sub(
                    r"( steps:\n)(?!      - uses: actions/checkout)(      )",
                    rf"\1      - uses: actions/checkout@{CHECKOUT}\n\2",
                    text,
                )
            )
        tiny.repository(self.home, program=PROGRAM)
        tiny.git(folder, "clone", "-q", "--bare", str(self.home), str(folder / "origin.git"))
        tiny.git(self.home, "remote", "add", "origin", "https://github.com/octo/repo")
        self._stand_ins()
        self._installed()

    def _stand_ins(self) -> None:
        """Artifact actions that copy to a folder, under the commits that the workflows pin."""
        texts = "".join(
            file.read_text()
            for file in [self.home / "action.yml", *self.home.glob(".github/workflows/*.yml")]
        )
        self.local = []
        for name, script in ARTIFACTS.items():
            place = self.folder / name
            place.mkdir()
            inputs = {
                key: {"default": ""}
                for key in (
                    "name",
                    "path",
                    "pattern",
                    "overwrite",
                    "if-no-files-found",
                    "include-hidden-files",
                )
            }
            step = {
                "shell": "bash",
                "run": script,
                "env": {
                    "STORE": str(self.store),
                    "NAME": "${{ inputs.name }}",
                    "PATHS": "${{ inputs.path }}",
                },
            }
            told = {
                "name": name,
                "description": name,
                "inputs": inputs,
                "runs": {"using": "composite", "steps": [step]},
            }
            (place / "action.yml").write_text(yaml.safe_dump(told))
            tiny.git(place, "init", "-q")
            tiny.commit(place)
            for sha in set(re.findall(rf"actions/{name}@([0-9a-f]{{40}})", texts)):
                self.local += ["--local-repository", f"actions/{name}@{sha}={place}"]

    def _installed(self) -> None:
        """The private environment that install.sh would make, standing in for a minute of downloads: this very interpreter."""
        script = (HERE / ".github" / "install.sh").read_text()
        key = re.search(r"-c '(import hashlib.*?)'", script)
        assert key
        lock = str(self.home / "requirements.txt")
        name = subprocess.run(
            [sys.executable, "-c", key[1], lock], check=True, capture_output=True, text=True
        ).stdout.strip()
        place = self.tools / "autoresearch" / name / "bin"
        place.mkdir(parents=True)
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        for file in (place / "python", self.bin / "python3.13"):
            file.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
            file.chmod(0o755)
        (place.parent / "ready").touch()

    def run(
        self,
        workflow: str,
        event: str,
        fake: FakeGitHub,
        *words: str,
        payload: dict[str, Any] | None = None,
        number: int = 7,
        code: int = 0,
        **more: str,
    ) -> str:
        environ = {
            "GITHUB_API_URL": fake.url,
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_REPOSITORY": "octo/repo",
        }
        environ |= {"GITHUB_RUN_ID": str(number), "GITHUB_RUN_ATTEMPT": "1"} | more
        fake.runs[str(number)] = "in_progress"
        command = [
            str(BIN / "act"),
            event,
            "-W",
            f".github/workflows/{workflow}",
            "--no-cache-server",
            "--action-offline-mode",
            *self.local,
            *words,
        ]
        command += [
            word
            for label in ("self-hosted", "gpu", "ubuntu-latest")
            for word in ("-P", f"{label}=-self-hosted")
        ]
        command += [
            word for name, value in environ.items() for word in ("--env", f"{name}={value}")
        ]
        command += ["-s", f"GITHUB_TOKEN={fake.token}"]
        if payload is not None:
            (self.folder / "event.json").write_text(json.dumps(payload))
            command += ["-e", str(self.folder / "event.json")]
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GITHUB_", "ANTHROPIC_", "AUTORESEARCH_"))
        }
        environment = kept | {
            "HOME": str(self.folder / "acthome"),
            "PATH": f"{self.bin}:/usr/bin:/bin:{kept['PATH']}",
        }
        done = subprocess.run(
            command, cwd=self.home, env=environment, capture_output=True, text=True, timeout=280
        )
        told = [
            line
            for line in done.stdout.splitlines()
            if "  | " in line or "::error" in line or "Failure" in line
        ]
        assert done.returncode == code, "\n".join(told)[-6000:] + done.stderr[-2000:]
        return done.stdout


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


@pytest.fixture
def fake(runner: Runner) -> Iterator[FakeGitHub]:
    with FakeGitHub(runner.folder / "origin.git") as server:
        yield server
        server.check()


def better(request: dict[str, Any]) -> Any:
    """A model that knows the way: each call moves LR towards its best."""
    present = re.findall(r"LR = (0\.\d+)  # step", json.dumps(request))[-1]
    return reply(
        [("train.py", f"LR = {present}", f"LR = {min(0.3, float(present) + 0.07):.3g}")],
        description="Raise the rate",
    )


SMALL = ("--input", "max-experiments=2", "--input", "max-minutes=5")


def test_a_night_ends_in_a_pull_request(runner: Runner, fake: FakeGitHub) -> None:
    """schedule: research with a model, the hand-over as an artifact, publishing, the memory."""
    with ModelServer(better) as server:
        said = runner.run(
            "autoresearch.yml", "schedule", fake, "-s", "ANTHROPIC_API_KEY=sk-ant-planted-0123456789",
            ANTHROPIC_BASE_URL=server.url, AUTORESEARCH_TEST="1",
        )  # fmt: skip
    (pull,) = fake.pulls.values()
    assert (
        pull["head"] == "autoresearch/program"
        and pull["labels"] == ["autoresearch"]
        and "re-measured on this head" in pull["body"]
    )
    assert (
        "raw/autoresearch-memory/program/" in pull["body"] and "Approve its checks" in pull["body"]
    )
    assert fake.git("rev-list", "--count", f"main..{pull['head_sha']}").strip() >= "1"
    memory = fake.git("ls-tree", "-r", "--name-only", "autoresearch-memory")
    assert ".jsonl" in memory and "progress.png" in memory and "report.html" in memory
    assert "sk-ant-planted" not in said and fake.token not in said
    for file in runner.store.rglob("*"):
        assert not file.is_file() or b"sk-ant-planted" not in file.read_bytes()


def test_a_brief_by_hand(runner: Runner, fake: FakeGitHub) -> None:
    """workflow_dispatch: the text stands in the event; no shell ever sees it."""
    brief = (
        "Try \"; touch /tmp/autoresearch-injected; echo $(id) `id` ' ${{ secrets.GITHUB_TOKEN }} @everyone "
        + "long " * 5_000
    )
    seen: list[str] = []

    def model(request: dict[str, Any]) -> Any:
        seen.append(json.dumps(request))
        return better(request)

    with ModelServer(model) as server:
        runner.run("autoresearch.yml", "workflow_dispatch", fake, "-s", "ANTHROPIC_API_KEY=sk-ant-planted-0123456789",
                   payload={"inputs": {"brief": brief}}, ANTHROPIC_BASE_URL=server.url)  # fmt: skip
    assert (
        "touch /tmp/autoresearch-injected" in seen[0]
        and not Path("/tmp/autoresearch-injected").exists()
    )
    (pull,) = fake.pulls.values()
    assert (
        re.fullmatch(r"autoresearch/program-[0-9a-f]{8}", pull["head"])
        and "@everyone" not in pull["body"].split("## The brief")[0]
    )


def test_a_checkpoint_is_queued_researched_and_settled(runner: Runner, fake: FakeGitHub) -> None:
    """repository_dispatch: the trial reads the checkpoint, whose hash is recorded; the ticket is taken out at the end."""
    checkpoint = runner.folder / "model.bin"
    checkpoint.write_bytes(b"weights")
    source = (runner.home / "train.py").read_text()
    reads = 'assert open(os.environ["AUTORESEARCH_CHECKPOINT"], "rb").read() == b"weights"\n'
    (runner.home / "train.py").write_text(source.replace("dice = ", reads + "dice = "))
    tiny.commit(runner.home)
    tiny.git(runner.home, "push", "-q", str(fake.bare), "main")
    with ModelServer(better) as server:
        runner.run("autoresearch.yml", "repository_dispatch", fake, "-s", "ANTHROPIC_API_KEY=sk-ant-planted-0123456789",
                   payload={"action": "checkpoint", "client_payload": {"checkpoint": str(checkpoint)}}, ANTHROPIC_BASE_URL=server.url)  # fmt: skip
    (pull,) = fake.pulls.values()
    assert str(checkpoint.name) in pull["body"]
    log = fake.git("log", "--format=%s", "autoresearch-memory").splitlines()
    assert log == [
        "Done with the checkpoint of run 7",
        log[1],
        "Queue the checkpoint of run 7",
    ] and log[1].startswith("Remember program")


def test_a_checkpoint_whose_research_fails_at_once_leaves_the_queue(
    runner: Runner, fake: FakeGitHub
) -> None:
    """There is no artifact then, and nothing to publish."""
    (runner.home / "program.md").write_text("---\nrum: python train.py\n---\n")
    tiny.commit(runner.home)
    runner.run("autoresearch.yml", "repository_dispatch", fake, code=1,
               payload={"action": "checkpoint", "client_payload": {"checkpoint": "s3://models/1"}})  # fmt: skip
    log = fake.git("log", "--format=%s", "autoresearch-memory").splitlines()
    assert (
        log == ["Done with the checkpoint of run 7", "Queue the checkpoint of run 7"]
        and not fake.pulls
    )


JOB = """
name: one job
on: workflow_dispatch
jobs:
  autoresearch:
    runs-on: [self-hosted, gpu]
    steps:
      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1
      - uses: ./
        id: autoresearch
        with: {options}
      - shell: bash
        run: printf '%s\\n' "$TOLD" > "$RESULT"
        if: always()
        env:
          TOLD: ${{{{ toJSON(steps.autoresearch.outputs) }}}}
          RESULT: {result}
"""


def one_job(runner: Runner, fake: FakeGitHub, **options: str) -> dict[str, str]:
    result = runner.folder / "result.json"
    text = JOB.format(
        options=json.dumps({key.replace("_", "-"): value for key, value in options.items()}),
        result=result,
    )
    (runner.home / ".github" / "workflows" / "one.yml").write_text(text)
    tiny.commit(runner.home)
    tiny.git(runner.home, "push", "-q", str(fake.bare), "main")
    runner.run("one.yml", "workflow_dispatch", fake)
    told: dict[str, str] = json.loads(result.read_text())
    return told


def test_a_single_job_publishes_and_gives_its_outputs(runner: Runner, fake: FakeGitHub) -> None:
    tiny.patch(
        runner.home, runner.folder / "ideas" / "1.diff", ("WIDTH = 4", "WIDTH = 6"), subject="Wider"
    )
    told = one_job(runner, fake, agent=f"patches:{runner.folder / 'ideas'}", publish="true", max_minutes="5", github_token=fake.token,
                   draft="true", labels="autoresearch\nml", branch="research/width", state_directory=str(runner.folder / "state"))  # fmt: skip
    declared = set(yaml.safe_load((HERE / "action.yml").read_text())["outputs"])
    assert set(told) == declared
    (pull,) = fake.pulls.values()
    assert (
        told["improved"] == "true"
        and told["metric-name"] == "val_bpb"
        and told["kept"] == told["experiments"] == "1"
    )
    assert (
        float(told["best"]) < float(told["baseline"]) and 7 < float(told["improvement-percent"]) < 9
    )
    assert (
        told["branch"] == pull["head"] == "research/width"
        and told["pull-request-operation"] == "created"
    )
    assert (
        told["pull-request-head-sha"] == pull["head_sha"]
        and pull["draft"]
        and pull["labels"] == ["autoresearch", "ml"]
    )
    assert (
        told["stop-reason"].startswith("The one patch")
        and float(told["cost-usd"]) == 0
        and Path(told["report-path"]).exists()
    )


def test_a_dry_run_writes_nothing(runner: Runner, fake: FakeGitHub) -> None:
    tiny.patch(
        runner.home, runner.folder / "ideas" / "1.diff", ("WIDTH = 4", "WIDTH = 6"), subject="Wider"
    )
    told = one_job(runner, fake, agent=f"patches:{runner.folder / 'ideas'}", publish="true", max_minutes="5", github_token=fake.token,
                   dry_run="true", state_directory=str(runner.folder / "state"))  # fmt: skip
    assert (
        told["improved"] == "true" and told["pull-request-operation"] == "none" and not fake.writes
    )


FLEET = """
name: fleet
on: workflow_dispatch
jobs:
  fleet:
    uses: ./.github/workflows/autoresearch-fleet.yml
    with:
      shards: "3"
      max-minutes: "5"
      agents: |
        {agents}
"""


def test_a_fleet_ends_in_one_pull_request(runner: Runner, fake: FakeGitHub) -> None:
    """plan, three shards as a matrix (one of which cannot even start), one merge that confirms, one pull request."""
    tiny.patch(
        runner.home, runner.folder / "one" / "1.diff", ("WIDTH = 4", "WIDTH = 6"), subject="Wider"
    )
    tiny.patch(
        runner.home,
        runner.folder / "two" / "1.diff",
        ("LR = 0.1", "LR = 0.2"),
        subject="Raise the rate",
    )
    agents = "\n        ".join(
        f"patches:{runner.folder / name}" for name in ("one", "two", "missing")
    )
    (runner.home / ".github" / "workflows" / "call.yml").write_text(FLEET.format(agents=agents))
    tiny.commit(runner.home)
    tiny.git(runner.home, "push", "-q", str(fake.bare), "main")
    runner.run("call.yml", "workflow_dispatch", fake, code=1)  # the broken shard fails its own job
    assert {
        path.name.rsplit("-shard-")[-1] for path in runner.store.iterdir() if "-shard-" in path.name
    } >= {"1", "2"}
    (pull,) = fake.pulls.values()
    assert fake.git("log", "--format=%s", f"main..{pull['head_sha']}").split("\n")[:-1] in (
        ["Wider", "Raise the rate"], ["Raise the rate", "Wider"],
    )  # fmt: skip
    for shard in runner.store.glob("*-shard-*/ledger.jsonl"):
        assert '"held":true' not in shard.read_text()


GH = """#!/bin/sh
case "$2" in repos/*/ref/tags/*) cat "$TAGS/${2##*/}"; exit ;; esac
printf '%s\n' "$*" >> "$TAGS/calls"
while [ $# -gt 0 ]; do [ "$1" = --notes-file ] && cat "$2" >> "$TAGS/calls"; shift; done
exit 0
"""


def released(
    runner: Runner, fake: FakeGitHub, version: str, code: int = 0, **more: str
) -> tuple[str, list[str]]:
    """(what the job said, what it asked of GitHub): `gh` writes down its calls in place of making them."""
    tags = runner.folder / "tags"
    tags.mkdir(exist_ok=True)
    (runner.bin / "gh").write_text(GH)
    (runner.bin / "gh").chmod(0o755)
    own = (HERE / "autoresearch_action" / "__init__.py").read_text()
    package = runner.home / "autoresearch_action" / "__init__.py"
    package.write_text(re.sub(r'__version__ = ".*"', '__version__ = "1.2.0"', own))
    text = "# Changelog\n\n## 1.2.0\n\nNew things.\n\n## 1.1.0\n\nOld things.\n"
    (runner.home / "CHANGELOG.md").write_text(text)
    tiny.commit(runner.home)
    said = runner.run(
        "release.yml", "workflow_dispatch", fake, "--input", f"version={version}",
        code=code, TAGS=str(tags), **more,
    )  # fmt: skip
    calls = tags / "calls"
    return said, calls.read_text().splitlines() if calls.exists() else []


def test_a_release_tags_its_commit_and_moves_the_major_tag(
    runner: Runner, fake: FakeGitHub
) -> None:
    (runner.folder / "tags").mkdir()
    (runner.folder / "tags" / "v1").write_text("an older commit")
    _, (tagged, release, *notes, moved) = released(runner, fake, "1.2.0")
    sha = tiny.git(runner.home, "rev-parse", "HEAD")
    assert tagged.endswith(f"repos/octo/repo/git/refs -f ref=refs/tags/v1.2.0 -f sha={sha}")
    assert release.startswith("release create v1.2.0 --verify-tag --title v1.2.0 ")
    assert "".join(notes).strip() == "New things."
    assert moved.endswith(
        f"--method PATCH repos/octo/repo/git/refs/tags/v1 -f sha={sha} -F force=true"
    )


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("1.2.0; echo $GH_TOKEN", "three numbers like 1.0.0"),
        ("1.3.0", "has another __version__"),
        ("1.2.0", "v1.2.0 is there already"),
    ],
)
def test_a_release_that_is_none_is_refused(
    runner: Runner, fake: FakeGitHub, version: str, words: str
) -> None:
    (runner.folder / "tags").mkdir()
    (runner.folder / "tags" / "v1.2.0").write_text("another commit")
    # On a busy machine act loses the last line of a step that ends at once
    for _ in range(4):
        said, calls = released(runner, fake, version, code=1)
        if words in said:
            break
    assert words in said
    assert calls == []


def test_action_and_command_line_agree() -> None:
    """What docs/reference.md, which is made from either, cannot show."""
    inputs = yaml.safe_load((HERE / "action.yml").read_text())["inputs"]
    used = re.findall(r"\$\{\{ inputs\.([\w-]+)", (HERE / "action.yml").read_text())
    assert set(used) == set(inputs), "an input that nothing reads, or one that is not declared"

    command = main.commands["run"]
    options = {option.name.replace("_", "-"): option for option in command.params}
    for name in ("max-experiments", "max-minutes", "max-usd"):
        assert float(inputs[name]["default"]) == float(options[name].default)  # type: ignore[arg-type]
    assert {
        "program",
        "brief",
        "agents",
        "max-experiments",
        "max-minutes",
        "max-usd",
        "gpu-usd-per-hour",
        "checkpoint",
    } <= set(options)
    source = "".join(file.read_text() for file in (HERE / "autoresearch_action").rglob("*.py"))
    passed = set(re.findall(r"AUTORESEARCH_IN_(\w+):", (HERE / "action.yml").read_text()))
    read = {
        name.upper().replace("-", "_")
        for name in re.findall(r'inputs\.(?:text|number|whole|truth|lines)\("([\w-]+)"', source)
    }
    assert passed == read
