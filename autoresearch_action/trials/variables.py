"""The environment variables of a trial's commands: an allow-list of this process's own, and what
tells a trial its seed, its budget and on what it is measured.

Not covered: the home and the scratch folder, which are the isolation's; secrets, of which there are
none here.
"""

from __future__ import annotations

import os
from pathlib import Path

from autoresearch_action.brief import Brief
from autoresearch_action.isolation import CACHE, device
from autoresearch_action.isolation.device import Slot
from autoresearch_action.records import Trial
from autoresearch_action.trials.compiled import BUDGET, ENVIRONMENT

PASSED = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "VIRTUAL_ENV", "CONDA_PREFIX",
    "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "ROCM_PATH", "PYTHONPATH", "AUTORESEARCH_DATA",
    "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "CC", "CXX",
)  # fmt: skip
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def passed(brief: Brief) -> dict[str, str]:
    """What a trial gets of this process's environment."""
    names = (*PASSED, *brief.env)
    found = {name: os.environ[name] for name in names if name in os.environ}
    # It would overrule LC_NUMERIC: of a locale only the letters are wanted
    if "LC_ALL" in found and "LC_ALL" not in brief.env:
        found["LC_CTYPE"] = found.pop("LC_ALL")
    return found


def cores(slot: Slot) -> int:
    """Processor cores that a trial on the slot may use."""
    return len(slot.cores) or os.cpu_count() or 1


def variables(
    phase: str, brief: Brief, trial: Trial, slot: Slot, checkpoint: Path | None, cached: bool
) -> dict[str, str]:
    """All that the command of a phase gets. `cached`: it has a copy of what compilers made."""
    # On what it is measured
    told = phase == "evaluate" or (phase != "compile" and not brief.evaluate)
    budget = trial.time_budget if trial.time_budget is not None else brief.time_budget
    budget = min(budget, BUDGET) if phase == "compile" else budget
    chosen = {
        "LC_NUMERIC": "C",
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "CUDA_VISIBLE_DEVICES": device.card(slot.gpu)[0] if slot.gpu else "",
        "AUTORESEARCH_SEED": str(trial.seed),
        "AUTORESEARCH_TIME_BUDGET": f"{budget:g}",
        "AUTORESEARCH_SPLIT": trial.split if told else "val",
        "AUTORESEARCH_HOLDOUT_SLICE": str(trial.slice if told else 0),
        # The sandbox's user may be in no passwd, and torch.compile asks who it is
        "USER": "trial",
        "LOGNAME": "trial",
    }
    if checkpoint:
        chosen["AUTORESEARCH_CHECKPOINT"] = str(checkpoint)
    caches = ENVIRONMENT if cached else {}
    chosen |= {name: str(CACHE / folder) for name, folder in caches.items()}
    return passed(brief) | dict.fromkeys(THREADS, str(cores(slot))) | chosen
