"""The predeclared looks, and that no look spends what another has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flowstill.api.studentrollout import Evaluation
from flowstill_evaluator.gates.margins import within_margin
from flowstill_evaluator.looks import MOST_LOOKS, level_of, schedule
from flowstill_evaluator.statistics import PairCounts
from flowstill_evaluator.stopping import looks_of

budgets = st.tuples(st.integers(1, 100_000), st.integers(1, 100_000)).map(sorted)


@pytest.mark.parametrize(
    ("first", "most", "looks"),
    [
        (50, 200, (50, 100, 150, 200)),
        (200, 200, (200,)),
        (50, 60, (50, 60)),
        (30, 200, (30, 72, 115, 158, 200)),
        (1, 2, (1, 2)),
        (10, 10_000, (10, 2508, 5005, 7502, 10_000)),
    ],
)
def test_looks_are_evenly_spaced(first, most, looks):
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
    spec = {"suite": "metaworld", "tasks": ["a", "b", "c"]}
    assert looks_of(Evaluation.model_validate(spec)) == (50, 100, 150, 200)
    assert looks_of(Evaluation.model_validate(spec | {"tasks": ["a", "a"]}))[-1] == 600
    assert looks_of(Evaluation.model_validate(spec | {"tasks": ["a", "b"]}))[-1] == 300
    ten = [f"t{index}" for index in range(10)]
    assert looks_of(Evaluation.model_validate(spec | {"tasks": ten})) == (50, 100, 150, 200)
    assert looks_of(Evaluation.model_validate(spec | {"tasks": [*ten, "one more"]})) == (50, 112, 175, 238, 300)
    assert looks_of(Evaluation.model_validate(spec | {"episodesPerTask": 300})) == (300,)
    assert looks_of(Evaluation.model_validate(spec | {"maxEpisodesPerTask": 50})) == (50,)


@given(budgets, st.floats(0.001, 0.2))
@settings(max_examples=12, deadline=None)
def test_no_level_is_more_than_the_whole_and_together_they_are_no_less(budget, level):
    looks = schedule(*budget)
    levels = [level_of(looks, look, level) for look in looks]
    assert all(0.0 < each <= level * (1 + 1e-6) for each in levels)
    assert sum(levels) >= level * (1 - 1e-6)
    if len(looks) == 1:
        assert levels == [level]


def test_boundaries_of_lan_and_demets():
    """Published for five equal looks and one-sided 2.5 %."""
    looks = (20, 40, 60, 80, 100)
    boundaries = [stats.norm.isf(level_of(looks, look, 0.025)) for look in looks]
    assert boundaries == pytest.approx([4.8769, 3.3570, 2.6803, 2.2898, 2.0310], abs=2e-4)


def test_a_number_that_is_no_look():
    with pytest.raises(ValueError, match="none of the looks"):
        level_of((50, 100), 70, 0.05)


def test_peeking_at_its_level_is_wrong_as_often_as_it_says_and_naively_far_more():
    """Sums of normal steps without an effect, seen at 50, 100, 150 and 200."""
    looks = schedule(50, 200)
    walk = np.random.default_rng(3).normal(size=(20_000, looks[-1])).cumsum(axis=1)
    z_KR = np.stack([walk[:, n - 1] / np.sqrt(n) for n in looks])
    limits = np.array([[stats.norm.isf(level_of(looks, n, 0.05))] for n in looks])
    assert 0.047 <= np.mean((z_KR > limits).any(axis=0)) <= 0.053
    assert np.mean((z_KR > stats.norm.isf(0.05)).any(axis=0)) > 0.085


def test_the_exact_test_at_every_look_keeps_the_whole_level():
    """Paired episodes of one task at S3's margin, eleven losses and one gain in a hundred pairs."""
    looks, generator = schedule(50, 200), np.random.default_rng(4)
    steps = generator.multinomial(50, [0.01, 0.11, 0.88], (2_000, len(looks))).cumsum(axis=1)
    wrong = [
        any(
            within_margin(PairCounts(int(rest), int(gained), int(lost), 0), 0.10, level_of(looks, n, 0.05)) == "Pass"
            for n, (gained, lost, rest) in zip(looks, run, strict=True)
        )
        for run in steps
    ]
    assert 0.03 <= np.mean(wrong) <= 0.06
