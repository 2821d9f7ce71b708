"""Where a figure's marks stand."""

import pytest

from flowstill_evaluator.report.figures import Line, Row, forest, panel, ticks_between
from flowstill_evaluator.statistics import Bounds


def test_forest_places_values_on_its_axis():
    rows = [Row("a", 0.5, Bounds(0.25, 3.0), "half"), Row("b", 0.0, Bounds(-2.0, 0.1), "none")]
    figure = forest("t", rows, 0.0, 1.0, [0, 1], str)
    assert (figure.rows[0].x, figure.rows[0].x_low) == (50.0, 25.0)
    assert (figure.rows[0].x_high, figure.rows[1].x_low) == (100.0, 0.0)


@pytest.mark.parametrize(("low", "high"), [(-0.13, 0.13), (0, 0.2), (-1, 1), (0, 3e-6)])
def test_ticks_are_round_and_inside(low, high):
    ticks = ticks_between(low, high)
    assert 3 <= len(ticks) <= 7
    assert all(low - 1e-12 <= t <= high + 1e-12 for t in ticks)


def test_a_panel_marks_the_published_step_and_keeps_what_must_be_seen():
    figure = panel("t", [100, 200], [Line("a", "first", [1.0, 3.0])], 200, shown=[0.0], errors=[0.5, 0.5])
    (_, first), (x_last, last) = figure.lines[0].points
    assert figure.x_chosen == x_last == figure.right
    assert figure.top < last < first < figure.bottom
    assert "0" in [tick.label for tick in figure.y_ticks]
    assert figure.band.endswith("Z")


def test_a_single_look_makes_a_panel():
    figure = panel("t", [100], [Line("a", "first", [0.0])], 100)
    assert figure.lines[0].points[0][0] == figure.right
