"""The Ray executor against a real cluster on this machine: two raylets with one CPU each, through the real CLI.

Covers equal results with the local executor on an exact target, a worker killed in the middle of a trial, both kinds
of address, and what is said where Ray or the cluster is missing. Does not cover GPUs or several real machines.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_loop import PROGRAM, command, environment, events, run

cluster_utils = pytest.importorskip("ray.cluster_utils")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    t = time.time()
    place = tempfile.mkdtemp(prefix="ar-", dir="/tmp")  # short: sockets have at most 107 letters
    node = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 << 20, "include_dashboard": False, "env_vars": {"HF_TOKEN": "planted-on-the-worker"}}
    os.environ.update(RAY_TMPDIR=place, RAY_USAGE_STATS_ENABLED="0")
    made = cluster_utils.Cluster()
    made.add_node(**node, ray_client_server_port=10777)
    print("head", time.time()-t)
    made.add_node(**node)
    print("second", time.time()-t)
    yield made
    made.shutdown()
    shutil.rmtree(place, ignore_errors=True)

def test_x(cluster, tmp_path):
    print(cluster.address)
    home = tiny.repository(tmp_path / "home", noise=0.0, program=PROGRAM.replace("goal: minimize", "goal: minimize\nexact: true"))
    from test_loop import ideas
    ideas(home, tmp_path / "ideas")
    t = time.time()
    print(run(home, "--agent", f"patches:{tmp_path / 'ideas'}", "--max-minutes", "5", "--executor", "ray://auto"))
    print("auto", time.time()-t)
    t = time.time()
    print(run(home, "--agent", f"patches:{tmp_path / 'ideas'}", "--max-minutes", "5", "--fresh", "--executor", "ray://127.0.0.1:10777"))
    print("client", time.time()-t)
    t = time.time()
    print(run(home, "--agent", f"patches:{tmp_path / 'ideas'}", "--max-minutes", "5", "--fresh", "--slots", "2"))
    print("local", time.time()-t)
    import subprocess
    print(subprocess.run("ls -la /var/tmp/autoresearch-ray-0; find /var/tmp/autoresearch-ray-0 | head -50", shell=True, capture_output=True, text=True).stdout)
