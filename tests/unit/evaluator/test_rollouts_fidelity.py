"""Fidelity: known distributions give known figures."""

import numpy as np
import pytest

from flowstill_evaluator import fidelity
from flowstill_evaluator.observations import Batch
from tests.unit.evaluator.analytic import LineController


def two_ways(generator, observations=12, width=6, keep=(-1.0, 1.0), noise=0.05):
    """Chunks that go one of two ways, picked per chunk."""
    way = generator.choice(keep, (observations, fidelity.CHUNKS, 1))
    return way * np.ones(width) + noise * generator.standard_normal((observations, fidelity.CHUNKS, width))


def test_a_perfect_student_scores_as_the_teacher_itself():
    draw = np.random.default_rng(0)
    record = fidelity.compare(*(two_ways(draw) for _ in range(3)))
    assert np.mean(record["cosine"]) == pytest.approx(np.mean(record["teacher_self_cosine"]), abs=0.01)
    assert record["spread_ratio"] == pytest.approx(1.0, abs=0.1)
    assert record["distances"]["student"] == pytest.approx(record["distances"]["teacher_self"], abs=0.1)
    assert len(record["cosine"]) == record["observations"] == 12


def test_a_collapsed_student_passes_the_cosine_and_not_the_spread():
    draw = np.random.default_rng(0)
    record = fidelity.compare(two_ways(draw), two_ways(draw), two_ways(draw, keep=(1.0,)))
    assert np.mean(record["cosine"]) > 0.99
    assert record["spread_ratio"] < 0.2
    assert record["distances"]["student"] > 5 * record["distances"]["teacher_self"]


def test_a_student_between_the_ways_has_the_cosine_against_it():
    draw = np.random.default_rng(0)
    record = fidelity.compare(two_ways(draw), two_ways(draw), 0.1 * draw.standard_normal((12, fidelity.CHUNKS, 6)))
    assert np.mean(record["cosine"]) < 0.6


def test_nearest_cosine_is_exact_on_a_small_case():
    chunks = np.array([[[1.0, 0.0], [0.0, 2.0]]])
    reference = np.array([[[3.0, 0.0], [1.0, 1.0]]])
    assert fidelity.nearest_cosine(chunks, reference)[0] == pytest.approx((1.0 + np.sqrt(0.5)) / 2)


def test_energy_distance_of_two_points_and_of_none():
    a, b = np.zeros((1, 4, 3)), np.zeros((1, 4, 3))
    b[..., 0] = 2.0
    assert fidelity.energy_distance(a, a)[0] == 0
    assert fidelity.energy_distance(a, b)[0] == pytest.approx(4.0)


def test_certain_teacher_and_certain_student_have_the_same_spread():
    same = np.ones((3, fidelity.CHUNKS, 2))
    assert fidelity.compare(same, same, same)["spread_ratio"] == 1.0


@pytest.mark.parametrize("draws", [1, 4, 16])
def test_sampling_keeps_real_dimensions_of_executed_steps(draws):
    runner = LineController(draws=draws, noise=1.0)
    seen = Batch({"observation.state": np.array([[0.5], [-0.5], [0.7]], np.float32)}, ("go",) * 3)
    chunks = fidelity.sample(runner, seen, 3, np.random.default_rng(1), lambda: None)
    assert chunks.shape == (3, fidelity.CHUNKS, 3)
    # The controller's sign shows that the rows of an observation stay together.
    assert chunks[0].mean() < -0.4
    assert chunks[1].mean() > 0.4
    assert len(np.unique(chunks)) == chunks.size


def test_draws_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="3 draws"):
        fidelity.sample(LineController(draws=3), Batch({}, ("go",)), 3, np.random.default_rng(0), lambda: None)
