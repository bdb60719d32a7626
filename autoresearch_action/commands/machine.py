"""Where a command's trials run: this machine's slots, sandbox and device locks, or a cluster's.

Puts the parts of `isolation` and `trials` together; measures nothing itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from autoresearch_action.brief import Brief
from autoresearch_action.errors import EnvironmentFault, Interrupted
from autoresearch_action.isolation import device, sandbox
from autoresearch_action.trials import Executor
from autoresearch_action.trials.pool import LocalPool
from autoresearch_action.workspace.trees import Workspace


class Machine:
    """Where trials run: this machine's slots, sandbox and device locks, or a cluster's slots."""

    def __init__(
        self, slots: str, brief: Brief, require_sandbox: bool = False, where: str = "local"
    ) -> None:
        wanted: str = "require" if require_sandbox else brief.sandbox
        self._remote = None
        self._local: list[device.Slot] = []
        if where == "local":
            self._local = device.find_slots(slots, exclusive=brief.measures_time)
            self._isolation = sandbox.choose(wanted)
            self.slots, self.told = [slot.name for slot in self._local], self._isolation.describe()
            self.environment = device.environment(self._local) | {
                "sandbox": self._isolation.strength
            }
            self.cuda = any(slot.gpu for slot in self._local)
        else:
            from autoresearch_action.trials.cluster import RayPool

            self._remote = RayPool(where, slots, wanted, exclusive=brief.measures_time)
            self.slots, self.told, self.environment = (
                self._remote.slots,
                self._remote.told,
                self._remote.environment,
            )
            self.cuda = self._remote.cuda
        self._locks = device.Locks(self._local, exclusive=brief.measures_time and where == "local")

    @contextmanager
    def locked(
        self,
        say: Callable[[str], None],
        interrupted: Callable[[], str] = str,
        patience: float = math.inf,
    ) -> Iterator[None]:
        """Its devices are nobody else's inside. Raises Interrupted, and EnvironmentFault when the
        patience is at its end.
        """
        try:
            self._locks.acquire(say, interrupted, patience)
        except EnvironmentFault:
            if reason := interrupted():
                raise Interrupted(reason) from None
            raise
        try:
            yield
        finally:
            self._locks.release()

    def executor(
        self,
        brief: Brief,
        workspace: Workspace,
        state: Path,
        checkpoint: Mapping[str, str],
        scrub: Callable[[str], str],
    ) -> Executor:
        path = Path(checkpoint["path"]) if checkpoint else None
        if self._remote:
            return self._remote.open(workspace, path, scrub)
        return LocalPool(brief, workspace, self._isolation, self._local, state, path, scrub)
