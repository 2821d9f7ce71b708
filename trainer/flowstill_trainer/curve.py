"""The looks of a training as files of the student: numbers for machines, a picture for people."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flowstill.artifacts.curve import CURVE, PICTURE, Curve, Look
from flowstill_trainer.files import write_json
from flowstill_trainer.selection import MIN_SPREAD

INK, SOFT, ACCENT, WARNING = "#1b1d22", "#5d636f", "#1f5fd0", "#b3261e"
Lines = Sequence[tuple[str, Callable[[Look], float], str]]


def write_curve(folder: Path, curve: Curve) -> None:
    """Write ``fidelity/curve.json`` and ``fidelity/curve.png`` into the student's folder."""
    (folder / CURVE).parent.mkdir(parents=True, exist_ok=True)
    write_json(folder / CURVE, curve.model_dump(mode="json", by_alias=True))
    draw(curve).savefig(folder / PICTURE, dpi=144, metadata={"Software": None})


def draw(curve: Curve) -> Any:
    """Distance, spread, chunk errors and cosine over steps, as a figure of matplotlib's.

    The published step is marked, and where the refinement begins.
    """
    from matplotlib.figure import Figure  # no pyplot: no backend, no state

    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    distance, spread, error, cosine = figure.subplots(2, 2, sharex=True).flat
    _draw(distance, curve, "Energy distance to the teacher", [("", lambda look: look.distance, ACCENT)])
    errors = [look.distance_error or 0.0 for look in curve.looks]
    low = [look.distance - e for look, e in zip(curve.looks, errors, strict=True)]
    high = [look.distance + e for look, e in zip(curve.looks, errors, strict=True)]
    distance.fill_between([look.step for look in curve.looks], low, high, color=ACCENT, alpha=0.18, linewidth=0)
    distance.axhline(0.0, color=SOFT, linewidth=0.8)
    _draw(spread, curve, "Spread over draws, of the teacher's", [("", lambda look: look.spread, ACCENT)])
    spread.axhline(1.0, color=SOFT, linewidth=0.8)
    spread.axhline(MIN_SPREAD, color=WARNING, linewidth=1.0, linestyle=":")
    _draw(
        error,
        curve,
        "Squared error, same noise (does not choose)",
        [
            ("P95", lambda look: look.mse_p95, "#c2c6cf"),
            ("P90", lambda look: look.mse_p90, "#9aa1ae"),
            ("mean", lambda look: look.mse_mean, INK),
            ("median", lambda look: look.mse_median, ACCENT),
            (f"mean of {curve.chunks}", lambda look: look.mean_error, WARNING),
        ],
    )
    _draw(
        cosine,
        curve,
        "Cosine (does not choose)",
        [("nearest", lambda look: look.nearest_cosine, ACCENT), ("same noise", lambda look: look.cosine, INK)],
    )
    for axes in (error, cosine):
        axes.set_xlabel("step" if _refined_from(curve) is None else "step (dashed: refinement begins)", color=SOFT)
    return figure


def _refined_from(curve: Curve) -> int | None:
    """The training's last step, where a refinement came after it."""
    trained = [look.step for look in curve.looks if look.phase == "training"]
    return trained[-1] if 0 < len(trained) < len(curve.looks) else None


def _draw(axes: Any, curve: Curve, title: str, lines: Lines) -> None:
    steps = [look.step for look in curve.looks]
    for label, value, colour in lines:
        axes.plot(steps, [value(look) for look in curve.looks], color=colour, label=label, marker="o", markersize=3)
    axes.axvline(curve.published_step, color=ACCENT, linewidth=6, alpha=0.15, zorder=0)
    begin = _refined_from(curve)
    if begin is not None:
        axes.axvline(begin, color=SOFT, linewidth=0.8, linestyle="--", zorder=0)
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.tick_params(colors=SOFT, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#ece9e4")
    axes.set_axisbelow(True)
    if len(lines) > 1:
        axes.legend(fontsize=8, frameon=False)
