"""progress.png: every experiment, the kept ones as a staircase, labelled. The incumbent's search
values, not the claim.
"""

from __future__ import annotations

from io import BytesIO

from autoresearch_action.report.tables import Row
from autoresearch_action.text import clip, label, line

MOST_LABELS = 12
# A value beyond is drawn as none: no axis reaches it
LARGEST = 1e100
KEEP, DISCARD, CRASH = "#1a7f37", "#8c959f", "#cf222e"


def progress(rows: list[Row], metric: str, minimize: bool, held: bool | None = None) -> bytes:
    """The picture as PNG. `held`: what the confirmation said, None before one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    metric = label(metric)
    figure = Figure(figsize=(10, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    measured = [r for r in rows if _drawn(r)]
    kept = [r for r in measured if r.status == "keep"]
    others = [r for r in measured if r.status != "keep"]
    axes.scatter(
        [r.number for r in others],
        _values(others),
        s=16,
        color=DISCARD,
        label=f"discarded ({len(others)})",
    )
    if kept:
        last = max(r.number for r in rows)
        numbers, values = [r.number for r in kept] + [last], [*_values(kept), *_values(kept[-1:])]
        axes.step(numbers, values, where="post", color=KEEP, linewidth=1.6)
        axes.scatter(
            [r.number for r in kept],
            _values(kept),
            s=32,
            color=KEEP,
            zorder=3,
            label=f"kept ({len(kept) - 1})",
        )
        for r in kept[1:][-MOST_LABELS:]:
            axes.annotate(
                clip(line(r.description), 44).replace("$", r"\$"),
                (r.number, r.value or 0.0),
                xytext=(4, 8),
                textcoords="offset points",
                fontsize=7,
                rotation=18,
            )
    lows, highs = _window(measured)
    axes.set_ylim(lows, highs)
    crashed = [r.number for r in rows if not _drawn(r) and r.runs]
    axes.scatter(
        crashed,
        [highs if minimize else lows] * len(crashed),
        marker="x",
        s=18,
        color=CRASH,
        clip_on=False,
        label=f"crashed or stopped ({len(crashed)})",
    )
    said = {None: "", True: ", confirmed", False: ", not confirmed"}[held]
    axes.set_title(f"{metric} by experiment{said}", loc="left", fontsize=11)
    axes.set_xlabel("experiment")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(f"{metric} ({'lower' if minimize else 'higher'} is better)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="best")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _drawn(row: Row) -> bool:
    return row.value is not None and abs(row.value) < LARGEST


def _values(rows: list[Row]) -> list[float]:
    return [r.value for r in rows if r.value is not None]


def _window(rows: list[Row]) -> tuple[float, float]:
    """Axis limits that show every kept value and most others: an outlier must not flatten the
    rest.
    """
    kept = sorted(r.value for r in rows if r.value is not None and r.status == "keep")
    values = sorted(r.value for r in rows if r.value is not None)
    if not values:
        return 0.0, 1.0
    low, high = values[len(values) // 20], values[-1 - len(values) // 5]
    low, high = min(low, *kept[:1] or [low]), max(high, *kept[-1:] or [high])
    margin = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + 1.6 * margin
