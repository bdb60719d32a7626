"""Run the tests; print the geometric mean of the benchmarks' median seconds. Frozen during a run.

A candidate that fails a test gets no score. The benchmarks run its code in their own process, as
pytest-benchmark does: read what you merge. Other plugins stay out: they take longer to start than
the benchmarks to run.
"""

import json
import math
import os
import subprocess
import sys
import tempfile

OPTIONS = [
    "-q",
    "-p",
    "pytest_benchmark.plugin",
    "--benchmark-min-rounds=15",
    "--benchmark-max-time=0.1",
]

with tempfile.NamedTemporaryFile(suffix=".json") as file:
    command = [sys.executable, "-m", "pytest", *OPTIONS, f"--benchmark-json={file.name}"]
    subprocess.run(command, check=True, env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    medians = [bench["stats"]["median"] for bench in json.load(file)["benchmarks"]]
print(f"median_seconds: {math.exp(sum(map(math.log, medians)) / len(medians)):.9g}")
