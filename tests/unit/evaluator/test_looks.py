"""The predeclared looks, and that no look spends what another has."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flowstill.api.studentrollout import Evaluation
from flowstill_evaluator.looks import MOST_LOOKS, level_of, schedule
from flowstill_evaluator.stopping import looks_of

budgets = st.tuples(st.integers(1, 100_000), st.integers(1, 100_000)).map(sorted)


@pytest.mark.parametrize(
    ("first", "most", "looks"),
    [
        (50, 200, (50, 100, 200)),
        (200, 200, (200,)),
        (50, 60, (50, 60)),
        (30, 200, (30, 56, 106, 200)),
        (1, 2, (1, 2)),
        (10, 10_000, (10, 56, 316, 1778, 10_000)),
    ],
)
def test_looks_about_double(first, most, looks):
    assert schedule(first, most) == looks


@given(budgets)
def test_looks_grow_from_the_first_to_the_most(budget):
    first, most = budget
    looks = schedule(first, most)
    assert (looks[0], looks[-1]) == (first, most)
    assert list(looks) == sorted(set(looks))
    assert len(looks) <= MOST_LOOKS


@pytest.mark.parametrize(("first", "most"), [(0, 5), (6, 5)])
def test_looks_that_cannot_be(first, most):
    with pytest.raises(ValueError, match="at least 1 up"):
        schedule(first, most)


def test_looks_of_a_spec():
    spec = {"suite": "metaworld", "tasks": ["t"]}
    assert looks_of(Evaluation.model_validate(spec)) == (50, 100, 200)
    assert looks_of(Evaluation.model_validate(spec | {"episodesPerTask": 300})) == (300,)
    assert looks_of(Evaluation.model_validate(spec | {"maxEpisodesPerTask": 50})) == (50,)


@given(budgets, st.floats(0.001, 0.2))
def test_the_looks_share_the_level(budget, level):
    looks = schedule(*budget)
    levels = [level_of(looks, look, level) for look in looks]
    assert sum(levels) == pytest.approx(level)
    assert all(0.0 <= each <= level for each in levels)
    if len(looks) == 1:
        assert levels == [level]


def test_levels_of_lan_and_demets():
    """One-sided 2.5 % spent at a half: 0.00153, as in the tables of group-sequential designs."""
    assert level_of((50, 100), 50, 0.025) == pytest.approx(0.00153, abs=1e-5)
    assert level_of((50, 100), 100, 0.025) == pytest.approx(0.02347, abs=1e-5)


def test_a_number_that_is_no_look():
    with pytest.raises(ValueError, match="none of the looks"):
        level_of((50, 100), 70, 0.05)


def test_peeking_at_its_level_is_wrong_as_often_as_it_says_and_naively_far_more():
    """Sums of normal steps without an effect, seen at 50, 100 and 200."""
    looks = schedule(50, 200)
    walk = np.random.default_rng(3).normal(size=(20_000, looks[-1])).cumsum(axis=1)
    z_KR = np.stack([walk[:, n - 1] / np.sqrt(n) for n in looks])
    limits = np.array([[stats.norm.isf(level_of(looks, n, 0.05))] for n in looks])
    assert 0.042 <= np.mean((z_KR > limits).any(axis=0)) <= 0.052
    assert np.mean((z_KR > stats.norm.isf(0.05)).any(axis=0)) > 0.085
