"""The Ray executor against a real cluster on this machine: two raylets with one CPU each, through the real CLI.

Covers: a worker killed in the middle of a trial, a run interrupted in the middle of the next one and resumed through
Ray's client port, results equal to the local executor's on an exact target, what stays behind (nothing), how slots
are spread over a cluster with GPUs, and what is said where Ray or the cluster is missing. Does not cover real GPUs
or machines that share no file system.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
from test_loop import PROGRAM, command, environment, events, run

from autoresearch_action.errors import EnvironmentFault, InputError
from autoresearch_action.trials.process import descendants
from autoresearch_action.trials.remote import places

CLUSTER = """import sys
from ray.cluster_utils import Cluster
made, node = Cluster(), {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
made.add_node(**node, ray_client_server_port=int(sys.argv[1]))
made.add_node(**node)
print(made.address, flush=True)
sys.stdin.read()
made.shutdown()
"""
SECRET = "planted-in-the-drivers-environment"


class Cluster(NamedTuple):
    pid: int
    address: str
    port: int  # for Ray's client


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes, held by a process of their own: shut down by handle, never by name."""
    pytest.importorskip("ray")
    folder = tempfile.mkdtemp(prefix="ar-", dir="/tmp")  # short: a socket's path has at most 107 letters
    mine = environment(RAY_TMPDIR=folder, RAY_USAGE_STATS_ENABLED="0")
    del mine["PYTHONPATH"]  # workers get the package from Ray
    words = [sys.executable, "-I", "-c", CLUSTER, str(port := free_port())]
    with subprocess.Popen(words, cwd=folder, env=mine, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield Cluster(process.pid, process.stdout.readline().strip(), port)
        process.communicate(timeout=30)  # the end of its input is its sign
    left = subprocess.run(["grep", "-rl", SECRET, folder], capture_output=True, text=True).stdout
    shutil.rmtree(folder)
    assert not left, "a secret has travelled"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def says(pid: int) -> str:
    """A process's command line, "" once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def hanging(cluster: Cluster) -> tuple[int, int]:
    """(worker, trial) of a trial that goes on and on."""
    seen: list[tuple[int, int]] = []
    for _ in range(40):
        workers = [pid for pid in descendants(cluster.pid) if says(pid).startswith("ray::Worker")]
        now = [(worker, pid) for worker in workers for pid in descendants(worker) if says(pid).endswith("python3 train.py")]
        if both := [pair for pair in now if pair in seen]:
            return both[0]
        seen = now
        time.sleep(0.6)
    raise AssertionError("no trial was seen")


def gone(pid: int) -> bool:
    until = time.monotonic() + 3
    while says(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not says(pid)


def results(home: Path, state: str) -> dict[tuple[str, str], tuple[Any, ...]]:
    """What was measured, by tree and split: everything but times, memory and places."""
    return {
        (trial["hashes"]["tree"], trial["trial"]["split"]): (
            trial["outcome"], trial["value"], trial["reason"], trial["tail"], [loss for _, loss in trial["curve"]],
            trial["hashes"]["frozen"], trial["sandbox"], trial["self_reported"], trial["notes"],
            {name: value for name, value in trial["metrics"].items() if name != "peak_rss_mb"}, (home / state / trial["log"]).read_text(),
        )
        for trial in events(home, "trial", state)
    }  # fmt: skip


def test_a_study_survives_its_workers_and_equals_a_local_one(cluster: Started, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "slow").touch()
    home = tiny.repository(tmp_path / "home", 0.0, program=PROGRAM.replace("goal:", f"exact: true\ndata: [{data}]\ngoal:"))
    ideas = tmp_path / "ideas"
    wait = ("time.sleep(PAUSE)", f'time.sleep(15 * os.path.exists("{data}/slow"))')
    tiny.patch(home, ideas / "1.diff", ("with open", "loss += 9\nwith open"), subject="Far too high")
    tiny.patch(home, ideas / "2.diff", ('print("peak_vram_mb: 100.0")', "raise SystemExit(7)"), subject="Broken")
    tiny.patch(home, ideas / "3.diff", wait, ("LR = 0.1", "LR = 0.3"), ("WIDTH = 4", "WIDTH = 8"), subject="Best")
    words = ["--agent", f"patches:{ideas}", "--max-minutes", "5"]
    scratch = Path(f"/var/tmp/autoresearch-ray-{os.geteuid()}")
    before = {path for path in scratch.glob("*") if path.is_dir()}

    more = {"RAY_ADDRESS": cluster.address, "ANTHROPIC_API_KEY": SECRET}
    auto = command("run", *words, "--executor", "ray://auto")
    first = subprocess.Popen(auto, cwd=home, env=environment(**more), stdout=subprocess.PIPE, text=True)
    worker, trial = hanging(cluster)
    os.kill(worker, signal.SIGKILL)
    assert gone(trial)
    again, trial = hanging(cluster)
    assert again != worker
    first.send_signal(signal.SIGTERM)
    assert gone(trial)
    said, _ = first.communicate(timeout=20)
    assert first.returncode == 0 and "Nothing is lost" in said and "2 slots on 2 machines" in said

    (data / "slow").unlink()
    run(home, *words, "--executor", f"ray://127.0.0.1:{cluster.port}", ANTHROPIC_API_KEY=SECRET)
    run(home, *words, "--slots", "2", "--state", "local")
    for state in (".autoresearch", "local"):
        verdicts = {event["description"]: event["status"] for event in events(home, "verdict", state)}
        assert verdicts == {"baseline": "keep", "Far too high": "discard", "Broken": "crash", "Best": "keep"}
        (confirmation,) = events(home, "confirmation", state)
        assert confirmation["held"] and (confirmation["baseline"], confirmation["best"]) == (1.561, 1.001)
    ray, local = results(home, ".autoresearch"), results(home, "local")
    same = ray.keys() & local.keys()
    assert len(same) >= 4 and {split for _, split in same} == {"val", "holdout"}
    assert {key: ray[key] for key in same} == {key: local[key] for key in same}
    trials = events(home, "trial")
    assert {"lost"}.isdisjoint(trial["outcome"] for trial in trials) and {trial["slot"] for trial in trials} <= {"cpu:0", "cpu:1"}
    assert len([trial for trial in trials if trial["trial"]["purpose"] == "screen"]) == 3
    assert {path for path in scratch.glob("*") if path.is_dir()} == before, "the workers left their folders behind"


def node(name: str, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "NodeID": f"id-{name}", "NodeManagerHostname": name, "Resources": resources}


def test_slots_are_spread_over_the_machines() -> None:
    two = [node("a", GPU=2.0, CPU=9.0), node("b", GPU=1.0, CPU=4.0), node("c", alive=False, GPU=8.0), node("d", CPU=64.0)]
    found = [(p.name, p.node, p.index, p.count, p.cpus) for p in places(two, "auto", False)]
    assert found == [("cuda:0", "id-a", 0, 2, 4), ("cuda:1", "id-b", 0, 1, 4), ("cuda:2", "id-a", 1, 2, 4)]
    assert [(p.node, p.count, p.cpus) for p in places(two, "auto", True)] == [("id-a", 1, 9)], "a time is measured alone"
    mixed = [n | {"Resources": n["Resources"] | {f"accelerator_type:{kind}": 1.0}} for n, kind in zip(two, ("H100", "A100"), strict=False)]
    assert [p.name for p in places(mixed, "2", False)] == ["H100:0", "A100:1"]
    assert [p.name for p in places(two[3:], "2", False)] == ["cpu:0", "cpu:1"]
    with pytest.raises(EnvironmentFault, match="has 3 GPUs"):
        places(two, "4", False)
    with pytest.raises(InputError, match="auto or a number"):
        places(two, "cuda:0", False)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    home = tiny.repository(tmp_path / "home", program=PROGRAM)
    assert "give local, ray://HOST:PORT" in run(home, "--executor", "spark://x", code=2)
    pytest.importorskip("ray")
    assert "cannot be reached" in run(home, "--executor", f"ray://127.0.0.1:{free_port()}", code=3)
    (tmp_path / "ray.py").write_text("raise ImportError")
    said = run(home, "--executor", "ray://auto", code=3, PYTHONPATH=f"{tmp_path}:{os.getcwd()}")
    assert 'pip install "autoresearch-action[ray]"' in said
