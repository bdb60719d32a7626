"""The Ray executor: trials on a cluster. `--executor ray://HOST:PORT` (its client port), or
`ray://auto` on one of its machines.

One actor per slot: one GPU each, or one CPU each in a cluster without GPUs. This package travels by
Ray's runtime environment. Base commit, setup folder, submodules, checkpoint and brief are put into
the object store once and unpacked once per machine, in a folder of /var/tmp named by their hash; a
candidate's commit follows as a small pack. A trial whose worker dies comes back as "lost" and its
slot gets another worker, or shares one while there is none.

A machine of the cluster needs: the same Python and Ray as here, numpy, pydantic, pyyaml, git,
bubblewrap, whatever the trial itself runs (looked up on the machine's own PATH), and the folders
that the brief's `data` and `evaluate-data` name, at the same path (a shared file system; else let
`setup` make the data inside the checkout, which is shipped). Not covered: device locks (Ray
reserves the GPUs), secrets (they stay here), machines that differ in more than the GPU's type, a
checkpoint that does not fit in memory, clusters behind a token in an environment variable.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import Any

import autoresearch_action
from autoresearch_action.errors import EnvironmentFault, InputError
from autoresearch_action.records import Measurement, Trial
from autoresearch_action.trials import lost
from autoresearch_action.trials.worker import Place, Worker, objects, pack
from autoresearch_action.workspace.trees import Workspace

# Seconds that a new worker may take to start
PATIENCE = 120.0
# Seconds that a worker may take to end a cancelled trial before it is ended itself
GRACE = 10.0
# Seconds in which the cluster's port must answer
ANSWER = 5.0


def places(nodes: Sequence[Mapping[str, Any]], wanted: str, exclusive: bool) -> list[Place]:
    """The slots that `--slots` means on these nodes (as `ray.nodes()` gives them), spread over the
    machines.

    `exclusive`: the metric is a time, so that one slot has a machine to itself. Raises InputError,
    EnvironmentFault.
    """
    alive = sorted(
        (n for n in nodes if n["Alive"]), key=lambda n: (n["NodeManagerHostname"], n["NodeID"])
    )
    kind = "GPU" if any(n["Resources"].get("GPU", 0) >= 1 for n in alive) else "CPU"
    homes = sorted(
        ((i, at) for at, n in enumerate(alive) for i in range(int(n["Resources"].get(kind, 0))))
    )
    if wanted != "auto" and not (wanted.isdigit() and int(wanted)):
        raise InputError(f"--slots {wanted!r}: on a cluster give auto or a number.")
    number = 1 if exclusive else len(homes) if wanted == "auto" else int(wanted)
    if not 0 < number <= len(homes):
        raise EnvironmentFault(f"--slots {wanted}: the cluster has {len(homes)} {kind}s.")
    chosen = [alive[at] for _, at in homes[:number]]
    types = [
        next((name[17:] for name in n["Resources"] if name.startswith("accelerator_type:")), "")
        for n in chosen
    ]
    hosts, ids = [n["NodeManagerHostname"] for n in chosen], [n["NodeID"] for n in chosen]
    names = types if len({*types}) > 1 else ["cuda" if kind == "GPU" else "cpu"] * number
    return [
        Place(
            name=f"{names[i]}:{i}",
            node=ids[i],
            gpu=kind == "GPU",
            index=hosts[:i].count(hosts[i]),
            count=hosts.count(hosts[i]),
            cpus=int(n["Resources"].get("CPU", 0)) // ids.count(ids[i]),
        )
        for i, n in enumerate(chosen)
    ]


class RayPool:
    """Trials on the slots of a Ray cluster. Made before the slots are counted; `open` gives it the
    work.

    Raises InputError (no such address), EnvironmentFault (no Ray, no cluster, no worker).
    """

    def __init__(self, address: str, wanted: str, sandbox: str, exclusive: bool = False) -> None:
        self._ray = _connect(address)
        self._places = {place.name: place for place in places(self._ray.nodes(), wanted, exclusive)}
        self.slots = list(self._places)
        self.cuda = any(place.gpu for place in self._places.values())
        self._sandbox, self._run = sandbox, os.urandom(6).hex()
        # By slot: the actor, its first word, and how long that may take
        self._hired: dict[str, tuple[Any, Any, float]] = {}
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._cancelled = threading.Event()
        ready = [self._hire(name)[1] for name in self.slots]
        done, late = self._ray.wait(ready, num_returns=len(ready), timeout=PATIENCE)
        if late:
            raise EnvironmentFault(
                f"Only {len(done)} of {len(ready)} workers of the cluster have started: give a"
                " smaller --slots."
            )
        try:
            facts = self._ray.get(ready)
        except self._ray.exceptions.RayError as error:
            raise EnvironmentFault(f"The cluster's workers do not start: {_last(error)}") from None
        if faults := [fact["fault"] for fact in facts if "fault" in fact]:
            raise EnvironmentFault(f"On a worker of the cluster: {faults[0]}")
        machines = len({place.node for place in self._places.values()})
        ray = f"Ray: {len(self.slots)} slots on {machines} machines."
        self.told = f"{facts[0].pop('told')} {ray}"
        self.environment = {
            name: "; ".join(dict.fromkeys(fact[name] for fact in facts if name in fact))
            for name in facts[0]
        }
        self.environment["slots"] = ", ".join(self.slots)

    def open(
        self, workspace: Workspace, checkpoint: Path | None, scrub: Callable[[str], str]
    ) -> RayPool:
        """Ship the run's own things; from here on it takes trials."""
        self._workspace, self._scrub = workspace, scrub
        self._kit = self._ray.put(pack(workspace, checkpoint))
        self._news = lru_cache(maxsize=64)(lambda commit: objects(workspace, commit))
        self._threads = {
            name: ThreadPoolExecutor(1, thread_name_prefix=name) for name in self.slots
        }
        self._next = cycle(self.slots)
        return self

    def takes_another(self, slot: str) -> bool:
        return False

    def submit(self, trial: Trial, slot: str | None = None) -> Future[Measurement]:
        name = slot or next(self._next)
        return self._threads[name].submit(self._measure, name, trial)

    def cancel(self) -> None:
        self._cancelled.set()
        for actor, _, _ in list(self._hired.values()):
            self._tell(actor)

    def _tell(self, actor: Any) -> None:
        with suppress(self._ray.exceptions.RayError, ConnectionError):
            actor.cancel.remote()

    def close(self) -> None:
        self.cancel()
        for thread in self._threads.values():
            thread.shutdown(wait=True, cancel_futures=True)
        with suppress(self._ray.exceptions.RayError, ConnectionError):
            left = [actor.leave.remote() for actor, _, _ in self._hired.values()]
            self._ray.wait(left, num_returns=len(left), timeout=GRACE)
        # Ends the actors, too
        self._ray.shutdown()

    def _hire(self, name: str) -> tuple[Any, Any, float]:
        place = self._places[name]
        affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            place.node, soft=True
        )
        kind = self._ray.remote(
            num_gpus=int(place.gpu), num_cpus=place.cpus, max_concurrency=len(self._places) + 2
        )(Worker)
        actor = kind.options(scheduling_strategy=affinity).remote(place, self._sandbox, self._run)
        self._hired[name] = hired = actor, actor.ready.remote(), time.monotonic() + PATIENCE
        return hired

    def _worker(self, name: str) -> Any:
        """The slot's actor; where none can be had (its machine is gone), another slot's, whose
        trials queue.
        """
        # On a machine that has just gone the first replacement fails
        for _ in range(2):
            actor, ready, until = self._hired.get(name) or self._hire(name)
            while (
                not (started := self._ray.wait([ready], timeout=0.5)[0])
                and time.monotonic() < until
                and not self._cancelled.is_set()
            ):
                pass
            if not started:
                break
            with suppress(self._ray.exceptions.RayError):
                if fault := self._ray.get(ready).get("fault"):
                    raise EnvironmentFault(f"On a worker of the cluster: {fault}")
                return actor
            del self._hired[name]
        for other, word, _ in list(self._hired.values()):
            if self._ray.wait([word], timeout=0)[0]:
                return other
        raise EnvironmentFault(
            "The cluster has no worker left: start the same command again when it has."
        )

    def _measure(self, name: str, trial: Trial) -> Measurement:
        """One trial on the slot's worker, from the slot's thread. Raises EnvironmentFault."""
        actor, since = None, 0.0
        try:
            if self._cancelled.is_set():
                return lost(trial, name)
            actor = self._worker(name)
            answer = actor.measure.remote(trial, [self._kit], self._news(trial.commit))
            while not self._ray.wait([answer], timeout=0.5)[0]:
                if self._cancelled.is_set() and not since:
                    since = time.monotonic()
                    # It may have been hired after all were told
                    self._tell(actor)
                elif since and time.monotonic() > since + GRACE:
                    self._ray.kill(actor)
            result, log = self._ray.get(answer)
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            # Else it was lent by another slot
            if actor is None or (name in self._hired and actor is self._hired[name][0]):
                self._hired.pop(name, None)
            return lost(trial, name, f"The worker of {name} is gone: {_last(error)}")
        if isinstance(result, str):
            raise EnvironmentFault(f"On a worker of the cluster: {result}")
        # That trial will be asked again, under the same name
        if log and result.outcome != "lost":
            path = self._workspace.state / result.log
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(log)
        measurement: Measurement = result.model_copy(update={"tail": self._scrub(result.tail)})
        return measurement


def _connect(address: str) -> Any:
    """Ray, connected. Secrets are out of this process's environment by now (commands/run.py); no
    variable of it travels.
    """
    found = re.fullmatch(r"ray://(?:auto|(\[[0-9a-f:]+\]|[\w.-]+):(\d{1,5}))", address)
    if not found:
        raise InputError(
            f"--executor {address}: give local, ray://HOST:PORT, or ray://auto on a machine of the"
            " cluster."
        )
    # Under `uv run` Ray would ship the working directory
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise EnvironmentFault(
            'Ray is not installed: `pip install "autoresearch-action[ray]"`, then run again.'
        ) from None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        where = (
            address.removeprefix("ray://")
            if found[1]
            else ray._private.services.canonicalize_bootstrap_address("auto")
        )
        host, _, port = (where or "").rpartition(":")
        # Ray itself tries for minutes
        socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
        _init(ray, address if found[1] else where)
    except (OSError, RuntimeError, ValueError, ImportError, ray.exceptions.RayError) as error:
        raise EnvironmentFault(
            f"The Ray cluster {address} cannot be reached: {_last(error)}"
        ) from None
    finally:
        for number, handler in handlers.items():
            # Ray puts its own in their place
            signal.signal(number, handler)
    return ray


def _init(ray: Any, address: str) -> None:
    """Twice where need be: the server that a cluster starts for a client does not come up each
    time.
    """
    package = str(Path(autoresearch_action.__file__).parent)
    for last in (False, True):
        try:
            ray.init(
                address=address,
                runtime_env={"py_modules": [package]},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except (ConnectionError, RuntimeError):
            ray.shutdown()
            if last:
                raise


def _last(error: BaseException) -> str:
    """What Ray has to say, as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[-1][:300] if lines else type(error).__name__
    return told if told.endswith((".", "!", "?")) else f"{told}."
