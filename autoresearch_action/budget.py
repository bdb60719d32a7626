"""Budget: experiments, minutes, dollars. "May another one start, and still leave time to confirm
and publish?"

Owns the three hard caps and the reserve. Does not own a trial's own limits (trials/trial.py) and
reads no clock but the one it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from autoresearch_action.errors import InputError

# Caps of a run where none are given: experiments, minutes, US dollars
EXPERIMENTS, MINUTES, USD = 100, 330.0, 10.0
# How much a model that can think may
EFFORTS = ("low", "medium", "high", "xhigh", "max")
# Report, outputs and summary at the end
PUBLISH_SECONDS = 20.0
# Of these the part that even an interrupted run needs
REPORT_SECONDS = 6.0
# Minutes of a run: two years
LONGEST = 1_000_000
# Seconds of a trial beside its training window that are assumed before one was measured
START_UP = 2.0


@dataclass
class Budget:
    """Hard caps of one run. Times in seconds on `clock` (monotonic); money in US dollars."""

    max_experiments: int
    max_minutes: float
    max_usd: float
    gpu_usd_per_hour: float = 0.0
    clock: Callable[[], float] = lambda: 0.0
    started: float = field(init=False)
    # Of an honest trial, on average; 0 until one was seen
    trial_seconds: float = 0.0
    slots: int = 1

    def __post_init__(self) -> None:
        if self.max_experiments < 1:
            raise InputError(f"--max-experiments {self.max_experiments}: at least 1 is needed.")
        if not 0 < self.max_minutes <= LONGEST:
            given = f"--max-minutes {self.max_minutes:g}"
            raise InputError(f"{given}: give a number of minutes above 0, at most {LONGEST:,}.")
        if not math.isfinite(self.max_usd) or self.max_usd < 0:
            raise InputError(f"--max-usd {self.max_usd}: give a number of dollars, 0 or more.")
        if not math.isfinite(self.gpu_usd_per_hour) or self.gpu_usd_per_hour < 0:
            raise InputError(
                f"--gpu-usd-per-hour {self.gpu_usd_per_hour}: give a number of dollars, 0 or more."
            )
        self.started = self.clock()

    @property
    def seconds_left(self) -> float:
        return self.started + self.max_minutes * 60 - self.clock()

    def over_reason(self) -> str:
        """Why everything must stop now, "" while there is time: what is left is for the report."""
        over = f"the {self.max_minutes:g} minutes are over"
        return "" if self.seconds_left > REPORT_SECONDS else over

    def device_usd(self, seconds: float) -> float:
        return seconds / 3600 * self.gpu_usd_per_hour

    def rounds(self, runs: int) -> int:
        """How many trials one after the other `runs` of them need on the slots at hand."""
        return -(-runs // self.slots)

    def reserve(self, confirm_runs: int) -> float:
        """Seconds kept back for the confirmation of `confirm_runs` trials and for publishing."""
        return self.rounds(confirm_runs) * self.trial_seconds * 1.1 + PUBLISH_SECONDS

    def trials_left(self, spent: float) -> float:
        """Trials of the usual length that the dollars pay for when `spent` are gone; without end
        where the device costs nothing.
        """
        price = self.device_usd(self.trial_seconds)
        return (self.max_usd - spent) / price if price else math.inf

    def room(self, trials: int, confirm_runs: int, spent: float) -> bool:
        """Whether `trials` may be started and still leave time and dollars for the confirmation."""
        seconds = self.rounds(trials) * self.trial_seconds + self.reserve(confirm_runs)
        return self.seconds_left >= seconds and self.trials_left(spent) >= trials + confirm_runs

    def check_size(self, time_budget: float, runs: int) -> None:
        """Refuse a run that cannot calibrate, try one candidate and confirm it: `runs` trials in
        all.
        """
        self.trial_seconds = self.trial_seconds or time_budget + START_UP
        need = self.rounds(runs) * self.trial_seconds + PUBLISH_SECONDS
        least = "calibration, one candidate and its confirmation are"
        if need > self.max_minutes * 60:
            raise InputError(
                f"--max-minutes {self.max_minutes:g} is too small: {least} {runs} trials of"
                f" {self.trial_seconds:.0f} s on {self.slots} slot{'s' * (self.slots > 1)},"
                f" which needs --max-minutes {math.ceil(need / 6) / 10:g}."
            )
        if self.trials_left(0.0) < runs:
            cost = self.device_usd(runs * self.trial_seconds)
            raise InputError(
                f"--max-usd {self.max_usd:g} is too small: {least} {runs} trials of"
                f" {self.trial_seconds:.3g} s, which cost {cost:.2f} dollars of the device."
            )

    def spent_reason(
        self, experiments: int, spent: float, trials: int, confirm_runs: int, worst_usd: float = 0.0
    ) -> str:
        """Why no further experiment may start, in a few words; "" when one may.

        `spent`: dollars, calls and trials in flight included; `trials`: that ideas at hand and the
        new one still need; `worst_usd`: the price of the next call.
        """
        if experiments >= self.max_experiments:
            return f"all {self.max_experiments} experiments are done"
        if self.seconds_left < self.trial_seconds + self.reserve(confirm_runs):
            return f"the {self.max_minutes:g} minutes are used up but for confirming and reporting"
        if self.gpu_usd_per_hour and not self.trial_seconds:
            return "what a trial costs is not known yet"
        ahead = self.device_usd((confirm_runs + trials) * self.trial_seconds)
        if spent + ahead + worst_usd > self.max_usd and (worst_usd or self.gpu_usd_per_hour):
            return f"another experiment could pass the {self.max_usd:g} dollars ({spent:.2f} spent)"
        return ""
