"""The picture of the looks: what is marked in it, and where."""

import pytest

from flowstill.artifacts.curve import Curve, Look
from flowstill_trainer.curve import draw
from flowstill_trainer.selection import MIN_SPREAD

TITLES = ["Energy distance", "Spread over draws", "Squared error", "Cosine"]


def curve(refined=()):
    phases = [(100, "training"), (250, "training"), *((step, "refinement") for step in refined)]
    looks = [
        Look(
            step=step, phase=phase, loss=0.1, distances=[step / 1000], distance=step / 1000, distance_error=0.05,
            spread=0.9, cosine=0.8, nearest_cosine=0.9, mse_mean=0.4, mse_median=0.3, mse_p90=0.8, mse_p95=1.0,
            mean_error=0.1,
        )
        for step, phase in phases
    ]  # fmt: skip
    return Curve(
        teacher_steps=10, observations=64, chunks=16, steps=400, published_step=100, reason="nearest", looks=looks
    )


def lines(axes, style):
    """X and y of the lines of that style."""
    found = [line for line in axes.get_lines() if line.get_linestyle() == style]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in found]


@pytest.mark.parametrize("refined", [(), (300, 400)])
def test_a_dashed_line_is_where_the_refinement_begins_and_nowhere_else(refined):
    panels = draw(curve(refined)).axes
    assert all(axes.get_title("left").startswith(title) for title, axes in zip(TITLES, panels, strict=True))
    for axes in panels:
        assert lines(axes, "--") == ([([250, 250], [0, 1])] if refined else [])
    labels = [axes.get_xlabel() for axes in panels[2:]]
    assert labels == (["step (dashed: refinement begins)"] * 2 if refined else ["step"] * 2)


def test_the_published_step_and_the_limit_of_the_spread_are_marked():
    distance, spread, *others = draw(curve((300, 400))).axes
    assert lines(spread, ":") == [([0, 1], [MIN_SPREAD, MIN_SPREAD])]
    assert all(lines(axes, ":") == [] for axes in (distance, *others))
    for axes in (distance, spread, *others):
        assert [list(line.get_xdata()) for line in axes.get_lines() if line.get_linewidth() == 6] == [[100, 100]]
    [line] = [line for line in distance.get_lines() if len(line.get_xdata()) == 4]
    assert list(line.get_xdata()) == [100, 250, 300, 400]
    assert list(line.get_ydata()) == [0.1, 0.25, 0.3, 0.4]
