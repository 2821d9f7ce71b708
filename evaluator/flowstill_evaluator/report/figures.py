"""The report's drawings as coordinates; the template only turns them into SVG elements.

All sizes are in the drawing's own units (about pixels); colours come from the page's style sheet, so that a
drawing is as readable on a dark page as on a light one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flowstill_evaluator.statistics import Bounds, Floats, percentile_value

WIDTH = 760.0
LEFT = 168.0
RIGHT = 176.0
ROW = 34.0
TOP = 10.0
AXIS = 34.0
RIDGE_HEIGHT = 64.0


@dataclass(frozen=True)
class Row:
    """One line of a forest plot."""

    label: str
    value: float
    bounds: Bounds
    text: str
    kind: str = "other"
    limit: float | None = None


@dataclass(frozen=True)
class DrawnRow:
    """A row with its coordinates."""

    label: str
    text: str
    kind: str
    y: float
    x: float
    x_low: float
    x_high: float
    x_limit: float | None


@dataclass(frozen=True)
class Tick:
    """A mark of the horizontal axis."""

    x: float
    label: str


@dataclass(frozen=True)
class Forest:
    """Values with intervals, one under another on one axis."""

    width: float
    height: float
    left: float
    right: float
    bottom: float
    rows: tuple[DrawnRow, ...]
    ticks: tuple[Tick, ...]
    x_reference: float | None
    title: str


def forest(
    title: str,
    rows: Sequence[Row],
    low: float,
    high: float,
    ticks: Sequence[float],
    label: Callable[[float], str],
    reference: float | None = None,
) -> Forest:
    """Lay out rows on an axis from ``low`` to ``high``; what lies beyond is drawn at the edge."""
    right = WIDTH - RIGHT

    def place(value: float) -> float:
        return round(LEFT + (min(max(value, low), high) - low) / (high - low) * (right - LEFT), 2)

    drawn = tuple(
        DrawnRow(
            label=row.label,
            text=row.text,
            kind=row.kind,
            y=TOP + ROW * (index + 0.5),
            x=place(row.value),
            x_low=place(row.bounds.low),
            x_high=place(row.bounds.high),
            x_limit=None if row.limit is None else place(row.limit),
        )
        for index, row in enumerate(rows)
    )
    bottom = TOP + ROW * len(rows)
    marks = tuple(Tick(place(value), label(value)) for value in ticks)
    x_reference = None if reference is None else place(reference)
    return Forest(WIDTH, bottom + AXIS, LEFT, right, bottom, drawn, marks, x_reference, title)


def ticks_between(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``wanted`` of them."""
    raw = (high - low) / wanted
    unit = 10.0 ** np.floor(np.log10(raw))
    step = float(next(unit * factor for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if unit * factor >= raw - 1e-12))
    first = int(np.ceil(low / step - 1e-9))
    return [round(step * k, 10) for k in range(first, int(np.floor(high / step + 1e-9)) + 1)]


@dataclass(frozen=True)
class Hill:
    """One sample's density over the axis, with two of its percentiles."""

    label: str
    kind: str
    path: str
    base: float
    x_median: float
    x_p99: float
    median: str
    p99: str


@dataclass(frozen=True)
class Ridge:
    """Densities over one logarithmic axis, one under another."""

    width: float
    height: float
    left: float
    right: float
    bottom: float
    hills: tuple[Hill, ...]
    ticks: tuple[Tick, ...]
    title: str


def ridge(title: str, samples: Sequence[tuple[str, str, Floats]]) -> Ridge:
    """Lay out (label, kind, positive values) as densities of the logarithm."""
    everything = np.concatenate([values for _, _, values in samples])
    low, high = (
        float(np.log10(everything.min())) - 0.08,
        float(np.log10(np.quantile(everything, 0.9995))) + 0.08,
    )
    right = WIDTH - RIGHT

    def place(value: float) -> float:
        inside = min(max(float(np.log10(value)), low), high)
        return round(LEFT + (inside - low) / (high - low) * (right - LEFT), 2)

    hills = []
    for index, (label, kind, values) in enumerate(samples):
        base = TOP + RIDGE_HEIGHT * (index + 1)
        median, p99 = float(np.median(values)), percentile_value(values, 0.99)
        path = _hill_path(np.log10(values), low, high, LEFT, right, base)
        hills.append(Hill(label, kind, path, base, place(median), place(p99), f"{median:.3g}", f"{p99:.3g}"))
    bottom = TOP + RIDGE_HEIGHT * len(samples)
    steps = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 5)]
    ticks = tuple(Tick(place(v), f"{v:g}") for v in steps if low <= np.log10(v) <= high)
    return Ridge(WIDTH, bottom + AXIS, LEFT, right, bottom, tuple(hills), ticks, title)


def _hill_path(log_N: Floats, low: float, high: float, left: float, right: float, base: float) -> str:
    bins = 180
    counts, _ = np.histogram(np.clip(log_N, low, high), bins=bins, range=(low, high))
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 1.8) ** 2)
    density = np.convolve(counts, kernel / kernel.sum(), mode="same")
    height = density / max(float(density.max()), 1e-12) * (RIDGE_HEIGHT - 14.0)
    x_G = left + (np.arange(bins) + 0.5) / bins * (right - left)
    points = " ".join(f"L{x:.1f},{base - y:.1f}" for x, y in zip(x_G, height, strict=True))
    return f"M{left:.1f},{base:.1f} {points} L{right:.1f},{base:.1f} Z"
