"""Parity: what counts as a difference, and what it leads to."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from flowstill.api.children import ParityTask
from flowstill.child.context import ChildContext
from flowstill.child.progress import ProgressTracker
from flowstill.errors import Interrupted
from flowstill.policies.interface import Chunks
from flowstill_evaluator.observations import Batch
from flowstill_evaluator.parity import (
    DENSITY_TIE,
    Difference,
    compare_runners,
    difference,
    judge_difference,
    with_warning,
)
from tests.unit.evaluator.analytic import LineController
from tests.unit.evaluator.test_arms import references

STEPS, REAL = 3, 2


@pytest.fixture
def chunks():
    draw = np.random.default_rng(0)
    all_BKHD = draw.standard_normal((4, 5, 6, 8)).astype(np.float32)
    density_BK = draw.standard_normal((4, 5)).astype(np.float32)
    index_B = density_BK.argmax(axis=1)
    chosen_BHD = all_BKHD[np.arange(4), index_B]
    return Chunks(chosen_BHD[..., :REAL], chosen_BHD, all_BKHD, index_B, density_BK)


def changed(chunks, place, by):
    all_BKHD = chunks.all_normalised_BKHD.copy()
    all_BKHD[place] += by
    return replace(chunks, all_normalised_BKHD=all_BKHD)


def test_equal_is_equal(chunks):
    assert difference(chunks, chunks, STEPS, REAL) == Difference(0.0, 0, 4)


@pytest.mark.parametrize(
    ("place", "seen"),
    [((3, 4, 2, 1), True), ((0, 0, 0, 0), True), ((0, 0, STEPS, 0), False), ((0, 0, 0, REAL), False)],
)
def test_every_draw_counts_padding_and_steps_that_are_not_executed_do_not(chunks, place, seen):
    largest = difference(chunks, changed(chunks, place, 0.5), STEPS, REAL).largest
    assert largest == pytest.approx(0.5 if seen else 0.0, abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_in_either(chunks, value):
    broken = changed(chunks, (1, 1, 1, 1), value)
    assert difference(chunks, broken, STEPS, REAL).largest == np.inf
    assert difference(broken, chunks, STEPS, REAL).largest == np.inf
    assert difference(broken, broken, STEPS, REAL).largest == np.inf


@pytest.mark.parametrize(("gap", "disagreements"), [(0.5 * DENSITY_TIE, 0), (2 * DENSITY_TIE, 1), (np.nan, 1)])
def test_another_draw_is_forgiven_in_a_tie_only(chunks, gap, disagreements):
    other = (chunks.index_B[2] + 1) % 5
    density_BK = chunks.density_BK.copy()
    density_BK[2, other] = density_BK[2, chunks.index_B[2]] - gap
    index_B = chunks.index_B.copy()
    index_B[2] = other
    left, right = replace(chunks, density_BK=density_BK), replace(chunks, density_BK=density_BK, index_B=index_B)
    assert difference(left, right, STEPS, REAL).disagreements == disagreements


@pytest.mark.parametrize(("moved", "gap", "disagreements"), [(0.01, 0.039, 0), (0.01, 0.041, 1), (0.0, 0.039, 1)])
def test_a_rounded_graph_ties_as_far_as_its_chunks_moved(chunks, moved, gap, disagreements):
    """Four times the farthest move of a chunk of that observation; in float32 the tie stays what it is."""
    other = (chunks.index_B[2] + 1) % 5
    density_BK = chunks.density_BK.copy()
    density_BK[2, other] = density_BK[2, chunks.index_B[2]] - gap
    index_B = chunks.index_B.copy()
    index_B[2] = other
    left = replace(chunks, density_BK=density_BK)
    right = replace(changed(left, (2, 0, 1, 1), moved), index_B=index_B)
    right = changed(right, (3, 0, 1, 1), 1.0)  # another observation's move excuses nothing here
    assert difference(left, right, STEPS, REAL, rounded=True).disagreements == disagreements
    assert difference(left, right, STEPS, REAL).disagreements == 1


@pytest.mark.parametrize(
    ("measured", "outcome", "words", "number"),
    [
        (Difference(9e-4, 0, 64), "Succeeded", "0.0009", 9e-4),
        (Difference(1.1e-3, 0, 64), "UserError", "0.0011", 1.1e-3),
        (Difference(float("inf"), 0, 64), "UserError", "not finite", None),
        (Difference(0.0, 2, 64), "UserError", "different draws for 2", 0.0),
    ],
)
def test_the_result(measured, outcome, words, number):
    result = judge_difference(measured, 1e-3, references())
    assert (result.outcome, result.difference, result.threshold) == (outcome, number, 1e-3)
    assert result.reason == ("ParityHolds" if outcome == "Succeeded" else "ParityFailed")
    assert words in result.message
    assert result.teacher == references().teacher
    assert result.baseline == references().baseline


@pytest.mark.parametrize(("most", "warned"), [(20, True), (200, False)])
def test_the_result_says_what_the_evaluation_cannot_decide(most, warned, caplog):
    evaluation = {"suite": "metaworld", "tasks": ["a", "b", "c"], "episodesPerTask": 20, "maxEpisodesPerTask": most}
    task = ParityTask.model_validate(
        {
            "resource": "lab/reach",
            "uid": "1",
            "work": "file:///work",
            "student": {"uri": "store://students/s", "digest": references().student.digest},
            "evaluation": evaluation,
        }
    )
    plain = judge_difference(Difference(9e-4, 0, 64), 1e-3, references())
    result = with_warning(plain, task)
    assert plain.warning is None
    assert ("20 episodes of each of 3 tasks" in (result.warning or "")) == warned
    assert result.model_copy(update={"warning": None}) == plain
    assert ("P1 (0.03)" in caplog.text) == warned


def context(tmp_path):
    return ChildContext(work=tmp_path, stop=threading.Event(), progress=ProgressTracker())


def test_runners_get_the_same_noise_and_all_observations(tmp_path):
    seen = Batch({"observation.state": np.linspace(-1, 1, 70, dtype=np.float32)[:, None]}, ("go",) * 70)
    runners = [LineController(noise=1.0, draws=3) for _ in range(2)]
    measured = compare_runners(*runners, seen, seed=0, action_steps=4, context=context(tmp_path))
    assert measured == Difference(0.0, 0, 70)
    other = LineController(noise=1.001, draws=3)
    assert compare_runners(runners[0], other, seen, seed=0, action_steps=4, context=context(tmp_path)).largest > 1e-3


def test_it_stops_when_asked(tmp_path):
    surroundings = context(tmp_path)
    surroundings.stop.set()
    seen = Batch({"observation.state": np.zeros((2, 1), np.float32)}, ("go",) * 2)
    with pytest.raises(Interrupted):
        compare_runners(LineController(), LineController(), seen, seed=0, action_steps=4, context=surroundings)
