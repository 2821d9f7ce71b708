"""The suites behind one interface."""

import pickle

import numpy as np
import pytest

from flowstill.errors import UserError
from flowstill_evaluator.suites.interface import Offer
from flowstill_evaluator.suites.registry import LIBERO, METAWORLD, plain, suite_from, suite_of

SPACE = Offer(states={2: "x, y"}, cameras=(), black=(), action_size=2, low=(0.0, 5.0), high=(1.0, 6.0))


def test_meta_world_has_its_fifty_tasks_and_reach_around():
    with pytest.raises(UserError, match=r"has no task 'chess'; it has assembly-v3, ") as said:
        METAWORLD.preflight(["reach-v3", "chess"])
    assert str(said.value).count("-v3") == 50
    assert "reach-around" in str(said.value)
    assert METAWORLD.preflight(["drawer-open-v3"]) == {"drawer-open-v3": "Open a drawer"}
    with pytest.raises(UserError, match="listed twice"):
        METAWORLD.preflight(["reach-v3", "reach-v3"])


def test_a_suite_travels_to_the_processes_of_simulators_and_films():
    for suite in (METAWORLD, LIBERO):
        assert pickle.loads(pickle.dumps(suite)) == suite_from(plain(suite)) == suite


def test_an_unknown_suite_is_named():
    with pytest.raises(UserError, match=r"spec.evaluation.suite: there is no suite 'chess'"):
        suite_of("chess")


def test_random_actions_lie_in_the_range_and_metaworlds_are_those_of_ever():
    actions = np.array([SPACE.random_action(np.random.default_rng(seed)) for seed in range(200)])
    assert (actions >= (0, 5)).all()
    assert (actions <= (1, 6)).all()
    assert (np.ptp(actions, axis=0) > 0.9).all()
    mine, scalars = (np.random.default_rng([3, 200]) for _ in range(2))
    for _ in range(5):
        expected = scalars.uniform(-1.0, 1.0, 4)
        np.testing.assert_array_equal(METAWORLD.offer("reach-around").random_action(mine), expected)
