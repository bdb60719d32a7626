"""The Ray executor against a real cluster on this machine: two raylets with one CPU each, through the real CLI.

Covers: a worker killed within a trial, a run interrupted within the next and resumed through Ray's client port,
results equal to the local executor's, what stays behind (nothing), how slots are spread, and what is said where Ray or
the cluster is missing. Does not cover GPUs or machines that share no file system.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_loop import HERE, PROGRAM, command, environment, events, patience, run

from autoresearch_action.errors import EnvironmentFault, InputError
from autoresearch_action.isolation.process import descendants
from autoresearch_action.records import Trial
from autoresearch_action.trials.cluster import places
from autoresearch_action.trials.worker import SCRATCH

CLUSTER = """import sys
from ray.cluster_utils import Cluster
made, node = Cluster(), {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
made.add_node(**node, ray_client_server_port=int(sys.argv[1])), made.add_node(**node)
print(made.address, flush=True)
sys.stdin.read()
made.shutdown()
"""
SECRET = "planted-in-the-drivers-environment"


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[int, str, int]]:
    """Two nodes, held by a process of their own (shut down by handle, never by name): its pid, address, client port."""
    pytest.importorskip("ray")
    folder = tempfile.mkdtemp(
        prefix="ar-", dir="/tmp"
    )  # short: a socket's path has at most 107 letters
    mine = environment(
        RAY_TMPDIR=folder,
        RAY_USAGE_STATS_ENABLED="0",
        RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S="120",
    )
    del mine["PYTHONPATH"]  # workers get the package from Ray
    words = [sys.executable, "-I", "-c", CLUSTER, str(port := free_port())]
    with subprocess.Popen(
        words, cwd=folder, env=mine, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process.pid, process.stdout.readline().strip(), port  # type: ignore[union-attr]
        made = [(pid, says(pid)) for pid in descendants(process.pid)]
        with suppress(subprocess.TimeoutExpired):  # how well Ray takes itself down is not ours
            process.communicate(timeout=30)  # the end of its input is its sign
        for one, words in made:
            with suppress(ProcessLookupError):
                if words and says(one) == words:
                    os.kill(one, signal.SIGKILL)
        process.kill()
    assert subprocess.run(["grep", "-rq", SECRET, folder]).returncode == 1, "a secret has travelled"
    shutil.rmtree(folder)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def says(pid: int) -> str:
    with suppress(OSError):  # it is gone
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    return ""


def hanging(cluster: int) -> tuple[int, int]:
    """A trial that goes on and on: its worker, and a handle that tells its end."""
    before: set[tuple[int, int]] = set()
    for _ in range(300):
        workers = [pid for pid in descendants(cluster) if says(pid).startswith("ray::Worker")]
        now = {
            (worker, pid)
            for worker in workers
            for pid in descendants(worker)
            if says(pid).endswith("python3 train.py")
        }
        for worker, pid in now & before:
            return worker, os.pidfd_open(pid)
        before = now
        time.sleep(0.6)
    raise AssertionError("no trial was seen")


def results(home: Path, state: str) -> dict[tuple[str, str], tuple[Any, ...]]:
    """What was measured, by tree and split: everything but times, memory and places."""
    return {
        (trial["hashes"]["tree"], trial["trial"]["stage"]): (
            *(trial[name] for name in ("outcome", "value", "reason", "tail", "sandbox", "self_reported", "notes")),
            [loss for _, loss in trial["curve"]], trial["metrics"] | {"peak_rss_mb": 0}, (home / state / trial["log"]).read_text(),
        )
        for trial in events(home, "trial", state)
    }  # fmt: skip


def test_a_study_survives_its_workers_and_equals_a_local_one(
    cluster: tuple[int, str, int], tmp_path: Path
) -> None:
    pid, address, port = cluster
    (data := tmp_path / "data").mkdir()
    (data / "slow").touch()
    home = tiny.repository(
        tmp_path / "home",
        0.0,
        program=PROGRAM.replace("goal:", f"exact: true\ndata: [{data}]\ngoal:"),
    )
    ideas, wait = (
        tmp_path / "ideas",
        ("time.sleep(PAUSE)", f'time.sleep(15 * os.path.exists("{data}/slow"))'),
    )
    tiny.patch(
        home, ideas / "1.diff", ("with open", "loss += 9\nwith open"), subject="Far too high"
    )
    tiny.patch(
        home,
        ideas / "2.diff",
        ('print("peak_vram_mb: 100.0")', "raise SystemExit(7)"),
        subject="Broken",
    )
    tiny.patch(
        home,
        ideas / "3.diff",
        wait,
        ("LR = 0.1", "LR = 0.3"),
        ("WIDTH = 4", "WIDTH = 8"),
        subject="Best",
    )
    words = ["--agent", f"patches:{ideas}", "--max-minutes", "5"]
    before, mine = (
        {*SCRATCH.glob("autoresearch-ray-*/*")},
        environment(RAY_ADDRESS=address, ANTHROPIC_API_KEY=SECRET),
    )
    first = subprocess.Popen(
        command("run", *words, "--executor", "ray://auto"),
        cwd=home,
        env=mine,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        worker, trial = hanging(pid)
        os.kill(worker, signal.SIGKILL)
        assert select.select([trial], [], [], patience(4))[0], (
            "what a lost worker ran must end with it"
        )
        _, trial = hanging(pid)
        first.send_signal(signal.SIGTERM)
        assert select.select([trial], [], [], patience(4))[0], "cancelling ends trials at once"
        said, _ = first.communicate(timeout=120)
    finally:
        first.kill()
    assert first.returncode == 0 and "Nothing is lost" in said and "2 slots on 2 machines" in said

    (data / "slow").unlink()
    run(home, *words, "--executor", f"ray://127.0.0.1:{port}", ANTHROPIC_API_KEY=SECRET)
    run(home, *words, "--slots", "2", "--state", "local")
    for state in (".autoresearch", "local"):
        verdicts = {
            event["description"]: event["status"] for event in events(home, "verdict", state)
        }
        assert verdicts == {
            "baseline": "keep",
            "Far too high": "discard",
            "Broken": "crash",
            "Best": "keep",
        }
        (confirmation,) = events(home, "confirmation", state)
        assert confirmation["held"] and (confirmation["baseline"], confirmation["best"]) == (
            1.561,
            1.001,
        )
    ray, local = results(home, ".autoresearch"), results(home, "local")
    same = ray.keys() & local.keys()  # a rejected idea may have been tried on another parent
    assert len(same) >= 4 and all(ray[key] == local[key] for key in same)
    purposes = [Trial.model_validate(event["trial"]).purpose for event in events(home, "trial")]
    assert purposes.count("screen") == 3, "lost trials leave no trace"
    assert {*SCRATCH.glob("autoresearch-ray-*/*")} <= before, (
        "the workers left their folders behind"
    )


def test_slots_are_spread_over_the_machines() -> None:
    sizes = {
        "a": {"GPU": 2.0, "CPU": 9.0},
        "b": {"GPU": 1.0, "CPU": 4.0},
        "c": {"GPU": 8.0},
        "d": {"CPU": 64.0},
    }
    two = [
        {"Alive": n != "c", "NodeID": f"id-{n}", "NodeManagerHostname": n, "Resources": has}
        for n, has in sizes.items()
    ]
    told = [f"{p.name} {p.node} {p.index}/{p.count} {p.cpus}" for p in places(two, "auto", False)]
    assert told == ["cuda:0 id-a 0/2 4", "cuda:1 id-b 0/1 4", "cuda:2 id-a 1/2 4"]
    assert [(p.node, p.count, p.cpus) for p in places(two, "auto", True)] == [("id-a", 1, 9)], (
        "a time is measured alone"
    )
    assert [p.name for p in places(two[3:], "2", False)] == ["cpu:0", "cpu:1"]
    for name, kind in (("a", "H100"), ("b", "A100")):
        sizes[name][f"accelerator_type:{kind}"] = 1.0
    assert [p.name for p in places(two, "2", False)] == ["H100:0", "A100:1"]
    for wanted, error in (("4", EnvironmentFault), ("cuda:0", InputError)):
        with pytest.raises(error):
            places(two, wanted, False)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    home = tiny.repository(tmp_path / "home", program=PROGRAM)
    assert "give local, ray://HOST:PORT" in run(home, "--executor", "spark://x", code=2)
    pytest.importorskip("ray")
    assert "cannot be reached" in run(home, "--executor", f"ray://127.0.0.1:{free_port()}", code=3)
    (tmp_path / "ray.py").write_text("raise ImportError")
    assert 'pip install "autoresearch-action[ray]"' in run(
        home, "--executor", "ray://auto", code=3, PYTHONPATH=f"{tmp_path}:{HERE}"
    )
