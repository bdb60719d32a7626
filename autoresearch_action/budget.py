"""Budget: experiments, minutes, dollars. "May another one start, and still leave time to confirm and publish?"

Owns the three hard caps and the reserve. Does not own a trial's own limits (trials/trial.py) and reads no clock
but the one it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from autoresearch_action.errors import InputError

PUBLISH_SECONDS = 20.0  # report, outputs and summary at the end
REPORT_SECONDS = 6.0  # of these the part that even an interrupted run needs
LONGEST = 1_000_000  # minutes of a run: two years
START_UP = 2.0  # seconds of a trial beside its training window that are assumed before one was measured


@dataclass
class Budget:
    """Hard caps of one run. Times in seconds on `clock` (monotonic); money in US dollars."""

    max_experiments: int
    max_minutes: float
    max_usd: float
    gpu_usd_per_hour: float = 0.0
    clock: Callable[[], float] = lambda: 0.0
    started: float = field(init=False)
    trial_seconds: float = 0.0  # of an honest trial, on average; 0 until one was seen
    slots: int = 1

    def __post_init__(self) -> None:
        if self.max_experiments < 1:
            raise InputError(f"--max-experiments {self.max_experiments}: at least 1 is needed.")
        if not 0 < self.max_minutes <= LONGEST:
            raise InputError(f"--max-minutes {self.max_minutes:g}: give a number of minutes above 0, at most {LONGEST:,}.")
        if not math.isfinite(self.max_usd) or self.max_usd < 0:
            raise InputError(f"--max-usd {self.max_usd}: give a number of dollars, 0 or more.")
        if not math.isfinite(self.gpu_usd_per_hour) or self.gpu_usd_per_hour < 0:
            raise InputError(f"--gpu-usd-per-hour {self.gpu_usd_per_hour}: give a number of dollars, 0 or more.")
        self.started = self.clock()

    @property
    def seconds_left(self) -> float:
        return self.started + self.max_minutes * 60 - self.clock()

    def over(self) -> str:
        """Why everything must stop now, "" while there is time: what is left is for the report."""
        return "" if self.seconds_left > REPORT_SECONDS else f"the {self.max_minutes:g} minutes are over"

    def device_usd(self, seconds: float) -> float:
        return seconds / 3600 * self.gpu_usd_per_hour

    def rounds(self, runs: int) -> int:
        """How many trials one after the other `runs` of them need on the slots at hand."""
        return -(-runs // self.slots)

    def reserve(self, confirm_runs: int) -> float:
        """Seconds kept back for the confirmation of `confirm_runs` trials and for publishing."""
        return self.rounds(confirm_runs) * self.trial_seconds * 1.1 + PUBLISH_SECONDS

    def check_size(self, time_budget: float, runs: int) -> None:
        """Refuse a run that cannot calibrate, try one candidate and confirm it: `runs` trials in all."""
        self.trial_seconds = self.trial_seconds or time_budget + START_UP
        need = self.rounds(runs) * self.trial_seconds + PUBLISH_SECONDS
        if need > self.max_minutes * 60:
            raise InputError(
                f"--max-minutes {self.max_minutes:g} is too small: calibration, one candidate and its confirmation are"
                f" {runs} trials of {self.trial_seconds:.0f} s on {self.slots} slot{'s' * (self.slots > 1)},"
                f" which needs --max-minutes {math.ceil(need / 6) / 10:g}."
            )

    def why_not(self, experiments: int, usd: float, device_seconds: float, confirm_runs: int, worst_usd: float = 0.0) -> str:
        """Why no further experiment may start, in a few words; "" when one may.

        `usd` is spent on models (calls in flight at their worst), `worst_usd` the price of the next call.
        """
        if experiments >= self.max_experiments:
            return f"all {self.max_experiments} experiments are done"
        if self.seconds_left < self.trial_seconds + self.reserve(confirm_runs):
            return f"the {self.max_minutes:g} minutes are used up but for confirming and reporting"
        ahead = (confirm_runs + 1) * self.trial_seconds
        spent = usd + self.device_usd(device_seconds + ahead)
        if spent + worst_usd > self.max_usd and (worst_usd or self.gpu_usd_per_hour):
            return f"another experiment could pass the {self.max_usd:g} dollars ({usd + self.device_usd(device_seconds):.2f} spent)"
        return ""
