"""Which numbers of the document are drawn, and how they are labelled."""

from collections.abc import Callable, Sequence

from flowstill.artifacts.curve import Curve, Look
from flowstill_evaluator.gates.base import points
from flowstill_evaluator.report.build import histogram
from flowstill_evaluator.report.document import Comparison, JointShift, Range, Report
from flowstill_evaluator.report.figures import (
    Forest,
    Line,
    Panel,
    Ridge,
    Row,
    Sample,
    forest,
    panel,
    ridge,
    ticks_between,
)
from flowstill_evaluator.report.words import percent, percent_tick
from flowstill_evaluator.statistics import Bounds

_FAR = 20.0
"""Intervals of a joint are drawn up to so many limits, so that one wild joint leaves the others readable."""


def arms_figure(report: Report) -> Forest | None:
    """Success of every arm with its interval; the dashed line is the baseline's."""
    if not report.arms:
        return None
    rows = [
        Row(a.name, a.success / a.episodes, _bounds(a.interval), percent(a.success / a.episodes), a.role)
        for a in report.arms
    ]
    reference = next((a.success / a.episodes for a in report.arms if a.role == "baseline"), None)
    ticks = [0, 0.25, 0.5, 0.75, 1.0]
    return forest("Success of every arm with its interval", rows, 0.0, 1.0, ticks, percent_tick, reference)


def difference_figure(report: Report) -> Forest | None:
    """Paired differences with their margins: all tasks together (P1), then each (S3)."""
    if report.paired is None:
        return None
    all_margin, task_margin = _threshold(report, "P1", 0.03), _threshold(report, "S3", 0.1)
    rows = [_difference("All episodes", report.paired, "served", all_margin)]
    rows += [_difference(t.task, t, "other", task_margin) for t in report.tasks]
    ends = [abs(end) for row in rows for end in (row.bounds.low, row.bounds.high)]
    reach = max(*ends, task_margin * 1.3, all_margin * 1.3, 0.01)
    ticks = ticks_between(-reach, reach, 7)
    return forest("Difference to the baseline in points", rows, -reach, reach, ticks, _tick_points, 0.0)


def shift_figure(report: Report) -> Forest | None:
    """Velocity shift of every joint, with the limit."""
    if not report.velocity_shifts:
        return None
    limit = _threshold(report, "S2", 0.15)
    rows = [_shift(s, limit) for s in report.velocity_shifts]
    high = max(limit * 1.3, *(min(row.bounds.high, _FAR * limit) for row in rows))
    return forest("Velocity shift of every joint", rows, 0.0, high, ticks_between(0.0, high), lambda v: f"{v:g}")


def latency_figure(report: Report) -> Ridge | None:
    """Latency of the served student and of the baseline on one logarithmic axis."""
    if report.latency is None:
        return None
    samples = [
        Sample(a.arm, a.role, a.histogram, a.p50, a.p99, f"p50 {a.p50:.3g} ms", f"p99 {a.p99:.3g} ms")
        for a in report.latency.arms
    ]
    return ridge("Milliseconds of a call", samples)


def fidelity_figure(report: Report) -> Ridge | None:
    """Cosine to the nearest teacher chunk: the student's, and the teacher's own on fresh noise."""
    fidelity = report.fidelity
    if fidelity is None:
        return None
    limit = _threshold(report, "P4", 0.85)
    both = [("teacher, fresh noise", "baseline", fidelity.teacher_self_cosine), ("student", "served", fidelity.cosine)]
    lowest = min(limit, *fidelity.cosine, *fidelity.teacher_self_cosine)
    low = lowest - 0.08 * (1.0 - lowest) - 1e-3
    samples = [
        Sample(
            label,
            kind,
            histogram(values, low, 1.0, logarithmic=False),
            mean := sum(values) / len(values),
            min(values),
            f"mean {mean:.3f}",
            f"lowest {min(values):.3f}",
        )
        for label, kind, values in both
        if values
    ]
    return ridge("Cosine to the nearest teacher chunk", samples, limit)


def training_panels(curve: Curve) -> list[Panel]:
    """Distance, spread, error and cosine of every look."""

    def line(name: str, kind: str, value: Callable[[Look], float]) -> Line:
        return Line(name, kind, [value(look) for look in curve.looks])

    steps, chosen = [look.step for look in curve.looks], curve.published_step
    errors = [look.distance_error or 0.0 for look in curve.looks]
    distance = [line("energy distance", "first", lambda look: look.distance)]
    spread = [line("spread", "first", lambda look: look.spread)]
    error = [
        line("median", "first", lambda look: look.mse_median),
        line("mean", "second", lambda look: look.mse_mean),
        line("90th percentile", "third", lambda look: look.mse_p90),
    ]
    cosine = [
        line("nearest chunk", "first", lambda look: look.nearest_cosine),
        line("same noise", "second", lambda look: look.cosine),
    ]
    return [
        panel("Energy distance to the teacher", steps, distance, chosen, shown=[0.0], errors=errors),
        panel("Spread over draws, of the teacher's", steps, spread, chosen, shown=[0.5, 1.0]),
        panel("Squared error, same noise", steps, error, chosen, shown=[0.0]),
        panel("Cosine to the teacher", steps, cosine, chosen),
    ]


def alternative(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """What a screen reader says of a plot: its title and its rows, the first twelve of them."""
    said = "; ".join(f"{label}: {text}" for label, text in rows[:12])
    rest = f"; and {len(rows) - 12} more in the table" if len(rows) > 12 else ""
    return f"{title}. {said}{rest}."


def _difference(label: str, counts: Comparison, kind: str, margin: float) -> Row:
    return Row(label, counts.difference, _bounds(counts.interval), points(counts.difference), kind, -margin)


def _shift(shift: JointShift, limit: float) -> Row:
    kind = "served" if shift.distance <= limit else "beyond"
    return Row(shift.joint, shift.distance, _bounds(shift.interval), f"{shift.distance:.3f}", kind, limit)


def _threshold(report: Report, gate: str, default: float) -> float:
    """The limit that a gate was held against; margins are drawn as distances."""
    found = next((g.threshold for g in report.gates if g.name == gate), None)
    return default if found is None else abs(found)


def _bounds(interval: Range) -> Bounds:
    return Bounds(interval.low, interval.high)


def _tick_points(proportion: float) -> str:
    return points(proportion).replace(".0", "")
