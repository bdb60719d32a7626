"""What a metric's name says: a time or a quality, less or more. Proposals; the brief's keys decide.

A name is read as words ("cpuTime", "p99_latency/ms"). In English the last word that says something
is what the thing is: an "accuracy_loss" is a loss, a "loss_accuracy" an accuracy. A unit says so
only where no word names a quality: "ms_ssim" and "bleu_us" are none of time.
"""

from __future__ import annotations

import re
from typing import Literal

Goal = Literal["minimize", "maximize"]


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_UNITS = _set(
    """
    s sec secs second seconds ms msec millis millisecond milliseconds us usec µs μs micros
    microsecond microseconds ns nsec nanos nanosecond nanoseconds minute minutes hour hours
    """
)
_DURATIONS = _set(
    """
    time latency duration elapsed runtime walltime wallclock wall ttft tpot itl rtt makespan p50
    p75 p90 p95 p99 p999 delay jitter
    """
)
_RATES = _set(
    """
    throughput qps rps fps tps ops iops gflops tflops flops mips bandwidth gbps mbps speed speedup
    hz
    """
)
_LESS = _set(
    """
    loss losses bpb bpc bpd ppl perplexity error errors err rmse mse mae mape smape rmsle wer cer
    ter fid kid lpips nll crossentropy entropy brier ece regret divergence kl distance cost cycles
    instructions misses faults failures failed conflicts allocs allocations energy joules watts
    penalty residual deviance aic bic collisions
    """
)
_SIZES = _set(
    """
    b bytes kb mb gb kib mib gib memory mem rss vram peak size usd
    """
)
_MORE = _set(
    """
    accuracy acc f1 fbeta bleu chrf rouge meteor score auc auroc auprc roc map recall precision
    sensitivity specificity r2 psnr ssim iou miou ap dice ndcg mrr hits reward return returns win
    wins winrate pass passed passes solved elo correlation pearson spearman kappa mcc likelihood
    mfu coverage elbo top1 top5 em
    """
)


def words(name: str) -> list[str]:
    """The words of a name, small: `valLoss/µs` gives val, loss, µs."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return [word for word in re.split(r"[^\wµμ]|_", parted.lower()) if word]


def taken_for(metric: str, measures: str | None) -> tuple[str, str]:
    """("time" or "quality", the reason in words): what a metric is measured as."""
    if measures:
        return measures, f"`measures: {measures}` says so"
    if measures_time(metric):
        return "time", "by its name; `measures: quality` says otherwise"
    return "quality", "by its name, which speaks of no time; `measures: time` says otherwise"


def measures_time(name: str) -> bool:
    """Whether a name speaks of a duration or a rate."""
    found = words(name)
    if _what(found, _LESS | _MORE - {"score"}, _DURATIONS | _RATES | {"per"}) == "first":
        return False
    return bool(_DURATIONS.union(_RATES).intersection(found) or _per_unit(found) or _unit(found))


def goal(name: str) -> Goal | None:
    """Whether less or more of it is better; None where its name does not say."""
    found = words(name)
    if _rate(found):
        return "maximize"
    less, more = _LESS | _DURATIONS, _MORE | _RATES
    said = _what(found, less, more)
    if said and {"neg", "negative", "inverse", "inv"}.intersection(found) and said == "second":
        return "minimize"
    if said == "second":
        return "maximize"
    weak = _unit(found) or _per_unit(found) or not _SIZES.isdisjoint(found)
    return "minimize" if said or weak else None


def _what(found: list[str], first: frozenset[str], second: frozenset[str]) -> str:
    """Which of two sets the last word that is in one of them belongs to; "" for neither."""
    for word in reversed(found):
        if word in first or word in second:
            return "first" if word in first else "second"
    return ""


def _rate(found: list[str]) -> bool:
    """`ops_per_s`, and no `ns_per_op`."""
    return any(one == "per" and two in _UNITS for one, two in zip(found, found[1:], strict=False))


def _per_unit(found: list[str]) -> bool:
    return any(
        (one in _UNITS and two == "per") or (one == "per" and two in _UNITS)
        for one, two in zip(found, found[1:], strict=False)
    )


def _unit(found: list[str]) -> bool:
    """Whether it ends in a unit of time, or begins with a long one (`seconds_to_target`)."""
    return bool(found) and (found[-1] in _UNITS or (found[0] in _UNITS and len(found[0]) > 3))
