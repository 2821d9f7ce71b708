"""The report's drawings as coordinates; the template only turns them into SVG elements.

A row of a plot has its label and its value as text of the page, and between them a track as wide as there is room: all
horizontal places are per cent of the track, so that text keeps its size on a phone. Colours come from the page's style
sheet, so that a drawing is as readable on a dark page as on a light one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flowstill_evaluator.report.document import Histogram
from flowstill_evaluator.statistics import Bounds

HILL_HEIGHT = 44.0
PANEL_WIDTH, PANEL_HEIGHT = 380.0, 190.0
_PANEL_LEFT, _PANEL_RIGHT, _PANEL_TOP, _PANEL_BOTTOM = 52.0, 18.0, 12.0, 26.0


@dataclass(frozen=True)
class Row:
    """One line of a forest plot, in the unit of its axis."""

    label: str
    value: float
    bounds: Bounds
    text: str
    kind: str = "other"
    limit: float | None = None


@dataclass(frozen=True)
class DrawnRow:
    """A row with its places in per cent of the track."""

    label: str
    text: str
    kind: str
    x: float
    x_low: float
    x_high: float
    x_limit: float | None


@dataclass(frozen=True)
class Tick:
    """A mark of an axis."""

    x: float
    label: str


@dataclass(frozen=True)
class Forest:
    """Values with intervals, one under another on one axis."""

    title: str
    rows: tuple[DrawnRow, ...]
    ticks: tuple[Tick, ...]
    x_reference: float | None


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
    place = _scale(low, high)
    drawn = tuple(
        DrawnRow(
            label=row.label,
            text=row.text,
            kind=row.kind,
            x=place(row.value),
            x_low=place(row.bounds.low),
            x_high=place(row.bounds.high),
            x_limit=None if row.limit is None else place(row.limit),
        )
        for row in rows
    )
    marks = tuple(Tick(place(value), label(value)) for value in ticks)
    return Forest(title, drawn, marks, None if reference is None else place(reference))


def ticks_between(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``wanted`` of them."""
    raw = (high - low) / wanted
    unit = 10.0 ** np.floor(np.log10(raw))
    step = float(next(unit * factor for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if unit * factor >= raw - 1e-12 * unit))
    first = int(np.ceil(low / step - 1e-9))
    return [float(f"{step * k:.10g}") for k in range(first, int(np.floor(high / step + 1e-9)) + 1)]


@dataclass(frozen=True)
class Hill:
    """One sample's density, with values that are marked on it: a tall mark and, where there is one, a short mark."""

    label: str
    kind: str
    path: str
    x_tall: float
    x_short: float | None
    text: str
    detail: str


@dataclass(frozen=True)
class Ridge:
    """Densities over one axis, one under another; paths are in a box of 100 by :data:`HILL_HEIGHT`."""

    title: str
    hills: tuple[Hill, ...]
    ticks: tuple[Tick, ...]
    x_limit: float | None


@dataclass(frozen=True)
class Sample:
    """A histogram with the values to mark, in the unit of the axis before any logarithm."""

    label: str
    kind: str
    histogram: Histogram
    tall: float
    short: float | None
    text: str
    detail: str


def ridge(title: str, samples: Sequence[Sample], limit: float | None = None) -> Ridge:
    """Lay out histograms of one axis, that of the first."""
    axis = samples[0].histogram
    scale = _scale(axis.low, axis.high)

    def place(value: float) -> float:
        return scale(float(np.log10(value)) if axis.logarithmic else value)

    hills = tuple(
        Hill(
            label=sample.label,
            kind=sample.kind,
            path=_hill_path(sample.histogram.counts),
            x_tall=place(sample.tall),
            x_short=None if sample.short is None else place(sample.short),
            text=sample.text,
            detail=sample.detail,
        )
        for sample in samples
    )
    values = _powers(axis) if axis.logarithmic else ticks_between(axis.low, axis.high)
    marks = tuple(Tick(place(value), f"{value:g}") for value in values)
    return Ridge(title, hills, marks, None if limit is None else place(limit))


def _powers(axis: Histogram) -> list[float]:
    """One, two and five times powers of ten; the powers alone where those would be too many."""
    exponents = range(int(np.floor(axis.low)), int(np.ceil(axis.high)) + 1)
    factors = (1, 2, 5) if axis.high - axis.low < 2.5 else (1,)
    steps = [float(f"{factor}e{exponent}") for exponent in exponents for factor in factors]
    return [step for step in steps if axis.low <= np.log10(step) <= axis.high]


def _scale(low: float, high: float) -> Callable[[float], float]:
    def place(value: float) -> float:
        return round(100.0 * (min(max(value, low), high) - low) / (high - low), 2)

    return place


def _hill_path(counts: Sequence[int]) -> str:
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 1.8) ** 2)
    density = np.convolve(np.asarray(counts, dtype=np.float64), kernel / kernel.sum(), mode="same")
    height = density / max(float(density.max()), 1e-12) * (HILL_HEIGHT - 4.0)
    x_G = (np.arange(len(counts)) + 0.5) / len(counts) * 100.0
    points = " ".join(f"L{x:.2f},{HILL_HEIGHT - y:.1f}" for x, y in zip(x_G, height, strict=True))
    return f"M0,{HILL_HEIGHT:g} {points} L100,{HILL_HEIGHT:g} Z"


@dataclass(frozen=True)
class Line:
    """One quantity over the steps of a training."""

    name: str
    kind: str
    values: Sequence[float]


@dataclass(frozen=True)
class DrawnLine:
    """A line as a path with its points."""

    name: str
    kind: str
    path: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    """A small chart of :data:`PANEL_WIDTH` by :data:`PANEL_HEIGHT`: lines over steps."""

    title: str
    lines: tuple[DrawnLine, ...]
    band: str | None
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_chosen: float
    left: float
    right: float
    top: float
    bottom: float


def panel(
    title: str,
    steps: Sequence[int],
    lines: Sequence[Line],
    chosen: int,
    *,
    shown: Sequence[float] = (),
    errors: Sequence[float] | None = None,
) -> Panel:
    """Lay out lines over steps.

    Args:
        title: what is drawn.
        steps: of every value.
        lines: at least one; each has a value for every step.
        chosen: the step that is marked.
        shown: values that the vertical axis must hold.
        errors: half height of a band around the first line, a value for every step.
    """
    spread = np.zeros(len(steps)) if errors is None else np.asarray(errors, dtype=np.float64)
    first = np.asarray(lines[0].values, dtype=np.float64)
    edges = np.concatenate([first - spread, first + spread, *(np.asarray(line.values) for line in lines), [*shown]])
    low, high = float(edges.min()), float(edges.max())
    room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    low, high = low - room, high + room
    start, end = min(0, *steps), max(*steps, chosen, 1)
    right, bottom = PANEL_WIDTH - _PANEL_RIGHT, PANEL_HEIGHT - _PANEL_BOTTOM
    across, down = _scale(start, end), _scale(low, high)

    def x(step: float) -> float:
        return round(_PANEL_LEFT + across(step) / 100.0 * (right - _PANEL_LEFT), 1)

    def y(value: float) -> float:
        return round(bottom - down(value) / 100.0 * (bottom - _PANEL_TOP), 1)

    def path(values: Sequence[float]) -> tuple[tuple[float, float], ...]:
        return tuple((x(step), y(float(value))) for step, value in zip(steps, values, strict=True))

    drawn = tuple(DrawnLine(line.name, line.kind, _joined(path(line.values)), path(line.values)) for line in lines)
    outline = [*path((first + spread).tolist()), *reversed(path((first - spread).tolist()))]
    return Panel(
        title=title,
        lines=drawn,
        band=None if errors is None else f"{_joined(outline)} Z",
        x_ticks=tuple(Tick(x(value), f"{value:g}") for value in ticks_between(start, end, 4)),
        y_ticks=tuple(Tick(y(value), f"{value:g}") for value in ticks_between(low, high, 4)),
        x_chosen=x(chosen),
        left=_PANEL_LEFT,
        right=right,
        top=_PANEL_TOP,
        bottom=bottom,
    )


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:g},{y:g}" for x, y in points)
