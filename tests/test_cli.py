"""The small commands: init on three kinds of repositories, doctor, measure, and help that costs nothing."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import yaml
from click.testing import CliRunner

from autoresearch_action import brief as briefs
from autoresearch_action.cli import CAPS, main
from autoresearch_action.commands.init import init
from autoresearch_action.errors import EnvironmentFault, InputError, Interrupted
from autoresearch_action.trials import checkpoint
from autoresearch_action.workspace.patch import editable

HERE = Path(__file__).resolve().parent.parent
PROGRAM = tiny.PROGRAM.replace("python ", "/usr/bin/python3 ")


def autoresearch(home: Path, *words: str, code: int = 0, **more: str) -> str:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GITHUB_", "ANTHROPIC_"))
    }
    command = [sys.executable, "-m", "autoresearch_action", *words]
    environment = (
        kept
        | {"PYTHONPATH": str(HERE), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        | more
    )
    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


SCRIPT = (
    'import random\nLR = 0.1\nprint("---")\nprint(f"tokens_per_second: {random.random() + LR}")\n'
)
SUITE = "import package\n\ndef test_speed(benchmark):\n    benchmark(package.work)\n"


@pytest.mark.parametrize("kind", ["trio", "suite", "script", "script of modules"])
def test_init_writes_what_doctor_accepts(tmp_path: Path, kind: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    if kind == "trio":
        (home / "train.py").write_text(tiny.TRAIN.format(noise=0.01, salt=0))
        (home / "prepare.py").write_text("import torch\n\nTIME_BUDGET = 120\n")
    elif kind == "suite":
        (home / "package").mkdir()
        (home / "package" / "__init__.py").write_text("def work():\n    return sum(range(1000))\n")
        for test in ("test_speed.py", "package/test_more.py"):
            (home / test).write_text(SUITE)
    else:
        (home / "main.py").write_text(SCRIPT + ("import work, json\n" if "modules" in kind else ""))
        (home / "work.py").write_text("RATE = 3\n")
    tiny.git(home, "init", "-q", "-b", "main")
    written = init(home)
    tiny.commit(home)
    brief = briefs.read(Path("program.md"), home)
    assert (brief.metric, brief.goal) == {
        "trio": ("val_bpb", "minimize"), "suite": ("median_seconds", "minimize"), "script": ("tokens_per_second", "maximize"),
    }[kind.split()[0]]  # fmt: skip
    if kind == "trio":
        assert brief.time_budget == 120
    elif kind == "suite":
        tests = [
            "test_speed.py",
            "package/test_more.py",
            "package/conftest.py",
            "autoresearch_score.py",
        ]
        assert editable([*tests, "package/work.py"], "", brief) == ["package/work.py"]
    workflow = home / ".github" / "workflows" / "autoresearch.yml"
    assert workflow in {home / path for path in written}
    assert ("ubuntu-latest" in workflow.read_text()) is (kind != "trio")  # which imports torch
    subprocess.run(
        [str(Path(sys.executable).with_name("actionlint")), str(workflow)], check=True, cwd=home
    )
    assert "already" in autoresearch(home, "init", code=2)
    if kind.startswith("script"):
        assert editable(["main.py", "work.py"], "", brief) == [
            "work.py" if "modules" in kind else "main.py"
        ]
        said = autoresearch(home, "doctor")
        assert "run: tokens_per_second" in said
        assert "Nothing stands in the way" in said


def test_init_in_a_folder_of_a_repository_puts_the_workflow_at_its_top(tmp_path: Path) -> None:
    home = tmp_path / "root" / "services" / "a model"
    home.mkdir(parents=True)
    (home / "main.py").write_text(SCRIPT)
    tiny.git(tmp_path / "root", "init", "-q", "-b", "main")
    said = autoresearch(home, "init")
    assert "Wrote program.md." in said
    assert "git add program.md ../../.github/workflows/autoresearch.yml && git commit" in said
    workflow = tmp_path / "root" / ".github" / "workflows" / "autoresearch.yml"
    assert yaml.safe_load(workflow.read_text())["jobs"]["autoresearch"]["with"] == {
        "working-directory": "services/a model",
        "runs-on": '["ubuntu-latest"]',
    }
    subprocess.run(
        [str(Path(sys.executable).with_name("actionlint")), str(workflow)],
        check=True,
        cwd=tmp_path / "root",
    )
    assert "already" in autoresearch(home, "init", code=2)
    assert not (home / ".github").exists()


def test_doctor_says_what_to_do_about_each_lack(tmp_path: Path) -> None:
    home = tiny.repository(tmp_path / "home", program=PROGRAM)
    said = autoresearch(home, "doctor")
    assert "ok   run" in said
    assert "sandbox" in said
    assert "Set ANTHROPIC_API_KEY" in said
    assert "Nothing stands in the way" in said
    brief = (home / "program.md").read_text()
    (home / "program.md").write_text(
        brief.replace(
            "metric:", "limits: {speed: 5}\ndata: [/nowhere/data]\ncontext: [format.md]\nmetric:", 1
        )
    )
    tiny.commit(home)
    said = autoresearch(home, "doctor", code=2)
    assert "FAIL limits: `limits` names speed" in said
    assert "note data: /nowhere/data is not there" in said
    assert "note context: format.md is no file here" in said
    (home / "program.md").write_text(brief)
    (home / "train.py").write_text("raise SystemExit('no data here')\n")
    tiny.commit(home)
    assert "FAIL run" in autoresearch(home, "doctor", code=2)
    (home / "train.py").write_text("open('model.txt', 'w').write('1.5')\n")
    tiny.commit(home)
    said = autoresearch(home, "doctor")
    assert "note model: no key, and optuna finds no literal to turn" in said
    assert "or run with --agent command:CMD or patches:DIR" in said
    (home / "train.py").write_text("RATE = 1.5\nopen('model.txt', 'w').write(str(RATE))\n")
    tiny.commit(home)
    assert "AUTORESEARCH_SEED" in autoresearch(home, "doctor")
    assert not (home / ".autoresearch").exists()
    seeded = "RATE = 1.5\nimport random\nrandom.seed(7)\nopen('model.txt', 'w').write(str(random.random()))\n"
    (home / "train.py").write_text(seeded)
    tiny.commit(home)
    said = autoresearch(home, "doctor")
    assert "ok   seeds: literal seeds are replaced in the trial's copy" in said
    assert "AUTORESEARCH_SEED" not in said
    tiny.git(home, "rm", "-q", "--cached", "program.md")
    tiny.git(home, "commit", "-q", "-m", "Forget the brief")
    said = autoresearch(home, "doctor", code=2)
    assert "FAIL commit: program.md is not committed" in said
    assert "git add program.md" in said
    (home / "program.md").write_text("---\nmetrik: x\n---\n")
    assert "did you mean `metric`" in autoresearch(home, "doctor", code=2)


@pytest.mark.parametrize(
    ("name", "goal", "asks"),
    [("rmse", "minimize", False), ("ns_per_op", "minimize", False), ("result", "maximize", True)],
)
def test_init_reads_the_goal_off_a_name_or_asks(
    tmp_path: Path, name: str, goal: str, asks: bool
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "main.py").write_text(f"LR = 0.1\nprint(f'{name} = {{LR}}')\n")
    tiny.git(home, "init", "-q", "-b", "main")
    init(home)
    tiny.commit(home)
    brief = briefs.read(Path("program.md"), home)
    assert (brief.metric, brief.goal) == (name, goal)
    said = autoresearch(home, "doctor")
    assert ("goal: maximize" in said) is asks
    assert "guessed by `init`: " in said
    assert f"metric: {name} is measured as {'time' if 'ns' in name else 'quality'}" in said


def test_doctor_asks_about_a_goal_that_the_name_speaks_against(tmp_path: Path) -> None:
    program = PROGRAM.replace("goal: minimize", "goal: maximize")
    home = tiny.repository(tmp_path / "home", program=program)
    assert "a val_bpb is mostly to be minimized" in autoresearch(home, "doctor")


@pytest.mark.parametrize("edit", ["srcc/**", "'*.rs'", "'!train.py'"])
def test_an_edit_that_matches_no_file_is_refused_before_anything_runs(
    tmp_path: Path, edit: str
) -> None:
    home = tiny.repository(
        tmp_path / "home", program=PROGRAM.replace("edit: [train.py]", f"edit: {edit}")
    )
    words = f"`edit` ({edit.strip(chr(39))}) names no file that is committed here"
    assert words in autoresearch(home, "run", "--agent", "command:false", code=2)
    assert words in autoresearch(home, "doctor", ANTHROPIC_API_KEY="sk-nobody-has-this", code=2)


def test_the_advice_on_a_brief_fits_whether_there_is_one(tmp_path: Path) -> None:
    home = tiny.repository(tmp_path / "home", program="---\nmetrik: x\n---\n")
    said = autoresearch(home, "doctor", code=2)
    assert "autoresearch init" not in said
    assert "Mend that and ask again" in said
    (home / "program.md").unlink()
    assert "autoresearch init" in autoresearch(home, "doctor", code=2)


SHELL = """---
edit: [train.sh]
run: sh train.sh
metric: loss
---
"""


def test_the_advice_on_seeds_is_in_the_program_s_own_language(tmp_path: Path) -> None:
    home = tiny.repository(tmp_path / "home", program=SHELL, train__sh="RATE=3\necho loss: 0.731\n")
    said = autoresearch(home, "doctor", ANTHROPIC_API_KEY="sk-nobody-has-this")
    assert "8 runs with different seeds gave the same" in said
    assert '"${AUTORESEARCH_SEED:-1337}"' in said
    assert "torch" not in said
    assert "`exact: true`" in said
    (home / "train.sh").write_text("RATE=3\necho Loss was 0.731\n")
    tiny.commit(home)
    said = autoresearch(home, "doctor", ANTHROPIC_API_KEY="sk-nobody-has-this", code=2)
    assert "the nearest line: Loss was 0.731." in said
    assert "Have it print `loss: value`" in said


COPIED = """import os, random, sys
sys.path.insert(0, "vendor")
import work
random.seed(os.environ["AUTORESEARCH_SEED"])
print("loss:", work.RATE + random.random())
"""
LIBRARY = """---
edit: [src/**]
evaluate: /usr/bin/python3 score.py
metric: loss
---
"""


@pytest.mark.parametrize("folder", ["vendor", "src"])
def test_doctor_notices_that_another_copy_is_read_than_the_one_to_edit(
    tmp_path: Path, folder: str
) -> None:
    home = tmp_path / "home"
    for place in ("src", "vendor"):
        (home / place).mkdir(parents=True)
        (home / place / "work.py").write_text("RATE = 3\n")
    tiny.repository(home, program=LIBRARY, score__py=COPIED.replace("vendor", folder))
    said = autoresearch(home, "doctor", code=2 if folder == "vendor" else 0)
    assert ("FAIL canary" in said) is (folder == "vendor")


def test_measure_says_what_a_gain_takes(tmp_path: Path) -> None:
    home = tiny.repository(tmp_path / "home", noise=0.02, program=PROGRAM)
    said = autoresearch(home, "measure", "--pairs", "6")
    assert said.count("run ") >= 12
    sigma = re.search(r"σ = ([\d.]+) over 12 runs", said)
    assert sigma
    assert 0.008 < float(sigma[1]) < 0.04
    needed = [int(found) for found in re.findall(r"A gain of [\d.]+ % needs (\d+) runs", said)]
    assert len(needed) == 4
    assert needed == sorted(needed, reverse=True)
    assert needed[0] > needed[-1]
    for minutes in ("nan", "-5", "inf"):
        assert f"--max-minutes {minutes}" in autoresearch(
            home, "measure", f"--max-minutes={minutes}", code=2
        )


def test_help_and_version_load_nothing_heavy() -> None:
    code = "import sys; from autoresearch_action.cli import main; sys.exit(any(m in sys.modules for m in ('anthropic', 'optuna', 'matplotlib', 'scipy', 'torch', 'github')))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE)
    for name in [None, *main.commands]:
        done = CliRunner().invoke(main, ([name] if name else []) + ["--help"])
        assert done.exit_code == 0
        assert done.output


def test_the_action_s_caps_are_the_command_line_s() -> None:
    inputs = yaml.safe_load((HERE / "action.yml").read_text())["inputs"]
    caps = {name.removeprefix("--"): default for name, _, default, _ in CAPS[:3]}
    assert {name: float(inputs[name]["default"]) for name in caps} == caps


def test_the_pages_workflows_are_sound(tmp_path: Path) -> None:
    """Every example is valid YAML that actionlint accepts, and asks for the rights that the called workflow needs."""
    text = (HERE / "README.md").read_text() + (HERE / "docs" / "action.md").read_text()
    found = re.findall(r"<!-- example: (\w+) -->\n```yaml\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in found] == ["nightly", "checkpoint", "single"]
    needed: dict[str, str] = {}
    for job in yaml.safe_load((HERE / ".github/workflows/autoresearch.yml").read_text())[
        "jobs"
    ].values():
        needed |= {
            key: value for key, value in job["permissions"].items() if needed.get(key) != "write"
        }
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    tiny.git(tmp_path, "init", "-q")  # actionlint looks for its settings in a repository
    (tmp_path / ".github" / "actionlint.yaml").write_text(
        (HERE / ".github" / "actionlint.yaml").read_text()
    )
    for name, example in found:
        (folder / f"{name}.yml").write_text(example)
        (job,) = yaml.safe_load(example)["jobs"].values()
        assert job["permissions"] == needed, name
    subprocess.run(
        [str(Path(sys.executable).with_name("actionlint")), *map(str, folder.iterdir())],
        check=True,
        cwd=tmp_path,
    )


def test_the_page_s_brief_is_one() -> None:
    page = (HERE / "docs" / "briefs.md").read_text()
    text = re.search(r"```yaml\n(---\nedit:.*?)```", page, re.DOTALL)
    assert text
    brief = briefs.parse(text[1].encode(), Path("program.md"), HERE)
    assert brief.metric == "val_bpb"
    assert brief.evaluate
    assert brief.limits["peak_vram_mb"].relative == pytest.approx(0.1)


def test_a_checkpoint_is_fetched_hashed_and_kept(tmp_path: Path) -> None:
    """Through fsspec, in a process of its own that has the credentials which the harness put away; anew for a new run."""
    served = tmp_path / "model.pt"
    served.write_bytes(b"weights" * 1000)
    path, sha = checkpoint.fetch(
        f"file://{served}", tmp_path / "state", {"AWS_SECRET_ACCESS_KEY": "x"}
    )
    assert path.read_bytes() == served.read_bytes()
    assert sha == hashlib.sha256(b"weights" * 1000).hexdigest()
    served.write_bytes(b"changed")
    assert checkpoint.fetch(f"file://{served}", tmp_path / "state", {}, keep=True) == (path, sha)
    assert checkpoint.fetch(f"file://{served}", tmp_path / "state", {}) == (
        path,
        hashlib.sha256(b"changed").hexdigest(),
    )
    path.unlink()
    assert (
        checkpoint.fetch(f"file://{served}", tmp_path / "state", {}, keep=True)[0].read_bytes()
        == b"changed"
    )
    for uri, words in (
        ("nowhere://x/y", "driver"),
        (f"file://{tmp_path}/missing", "FileNotFoundError"),
    ):
        with pytest.raises(EnvironmentFault, match=words):
            checkpoint.fetch(uri, tmp_path / "other", {})
    with pytest.raises(EnvironmentFault, match=r"missing\.pt cannot be fetched") as caught:
        checkpoint.fetch(
            f"file://user:pw@{tmp_path.name}/missing.pt#X-Amz-Signature={'a' * 30}",
            tmp_path / "other",
            {},
        )
    assert "aaa" not in str(caught.value)
    assert "pw@" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        checkpoint.fetch(str(tmp_path / "missing"), tmp_path, {})
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(Interrupted, match="enough"),
    ):
        checkpoint.fetch(
            f"http://127.0.0.1:{silent.getsockname()[1]}/model.pt",
            tmp_path / "other",
            {},
            interrupted=lambda: "enough",
        )


def test_the_demo_s_clone_follows_the_checkout(tmp_path: Path) -> None:
    """Its own clone is made once, and is at the checkout's commit whenever the demo runs."""
    home = tiny.repository(tmp_path / "home")
    tool = tmp_path / "bin" / "autoresearch"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\ngit rev-parse HEAD\n")
    tool.chmod(0o755)
    for _ in range(2):
        (home / "train.py").write_text((home / "train.py").read_text() + "#\n")
        head = tiny.commit(home)
        env = os.environ | {
            "PATH": f"{tool.parent}:{os.environ['PATH']}",
            "DEMO_DIRECTORY": str(tmp_path / "demo"),
        }
        done = subprocess.run(
            ["sh", str(HERE / "benchmark" / "demo.sh")],
            cwd=home,
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith(head)
        assert (tmp_path / "demo" / "train.py").read_text() == (home / "train.py").read_text()


@pytest.mark.parametrize(
    "words",
    ["--max-minutes 1e308", "--max-minutes nan", "--slots ²", "--slots 99999", "--agent patches:~nobody-here/x", "--checkpoint ~nobody-here/x",
     "--checkpoint a\x1bb", "--program /dev/zero", "--program pipe", "--agent command:nowhere-to-be-found --usd-per-call 0"],
)  # fmt: skip
def test_odd_options_end_in_one_sentence(tmp_path: Path, words: str) -> None:
    home = tiny.repository(tmp_path / "home", program=PROGRAM)
    os.mkfifo(home / "pipe")
    said = autoresearch(home, "run", "--agent", "optuna", *words.split(" "), code=2)
    assert len([line for line in said.splitlines() if line.startswith("autoresearch: ")]) == 1
