"""The post is real, episodes repeat exactly, and the expert goes round both ways."""

from __future__ import annotations

import numpy as np
import pytest

from flowstill.policies.interface import STATE
from flowstill_evaluator.suites.expert import WayRoundExpert
from flowstill_evaluator.suites.interface import View
from flowstill_evaluator.suites.metaworld_env import MetaWorldEnv
from flowstill_evaluator.suites.reach_around import (
    BLACK_CAMERA,
    GOAL_HIGH,
    GOAL_LOW,
    POST_RADIUS,
    POST_XY,
    START_HIGH,
    START_LOW,
    WIDE_TASK_NAME,
    ReachAroundEnv,
)
from flowstill_evaluator.suites.registry import METAWORLD


@pytest.fixture(scope="module")
def env() -> ReachAroundEnv:
    return ReachAroundEnv()


HAND_OVER_TIPS = np.array([0.0, 0.0, 0.045])


def straight_to_goal(state: np.ndarray) -> np.ndarray:
    """The action that heads for the goal with no thought of the post."""
    way = state[4:7] + HAND_OVER_TIPS - state[:3]
    return np.append(0.7 * way / np.linalg.norm(way), 0.0)


def drive(env: ReachAroundEnv, seed: int, expert: WayRoundExpert | None = None):
    """Play one episode; without an expert, straight at the goal."""
    state = env.reset(seed)[STATE]
    if expert is not None:
        expert.start(state)
    states = [state]
    while True:
        action = straight_to_goal(state) if expert is None else expert.act(state).executed
        result = env.step(action)
        state = env.observe()[STATE]
        states.append(state)
        if result.done:
            return result, np.stack(states)


def test_observation_is_what_the_policy_expects(env):
    observation = env.reset(0)
    assert observation[STATE].shape == (7,)
    assert observation[STATE].dtype == np.float32
    assert observation[BLACK_CAMERA].shape == (32, 32, 3)
    assert observation[BLACK_CAMERA].dtype == np.uint8
    assert not observation[BLACK_CAMERA].any()
    np.testing.assert_allclose(observation[STATE][4:], env.sim.target, rtol=1e-6)


def test_start_and_goal_vary_with_the_seed_inside_their_boxes(env):
    states = np.stack([env.reset(seed)[STATE] for seed in range(8)])
    assert len(np.unique(states[:, :3], axis=0)) == 8
    assert len(np.unique(states[:, 4:], axis=0)) == 8
    slack = 0.012  # the weld holds the hand softly
    assert (states[:, :3] > START_LOW - slack).all()
    assert (states[:, :3] < START_HIGH + slack).all()
    assert (states[:, 4:] >= GOAL_LOW.astype(np.float32)).all()
    assert (states[:, 4:] <= GOAL_HIGH.astype(np.float32)).all()


def test_the_straight_line_from_start_to_goal_crosses_the_post():
    widest = max(abs(START_LOW[0]), START_HIGH[0], abs(GOAL_LOW[0]), GOAL_HIGH[0])
    assert widest < POST_RADIUS
    assert START_HIGH[1] < POST_XY[1] - POST_RADIUS
    assert GOAL_LOW[1] > POST_XY[1] + POST_RADIUS


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_driving_straight_at_the_goal_touches_the_post_and_fails(env, seed):
    result, _ = drive(env, seed)
    assert result.touched
    assert result.done
    assert not result.success


def test_contact_is_with_the_body_in_the_scene(env):
    result, states = drive(env, 3)
    geoms = {env.sim.model.geom(g).name for g in env.sim.data.contact.geom.ravel()}
    assert result.touched
    assert "post" in geoms
    assert states[-1][1] < POST_XY[1]  # the hand did not get past it


def test_expert_reaches_the_goal_on_both_sides(env):
    sides = {}
    for seed in range(6):
        expert = WayRoundExpert(np.random.default_rng(seed))
        result, states = drive(env, 100, expert)
        assert result.success
        assert not result.touched
        beside = states[np.abs(states[:, 1] - POST_XY[1]).argmin(), 0]
        assert np.sign(beside) == expert.side
        sides[expert.side] = states[0]
    assert set(sides) == {-1, 1}
    np.testing.assert_array_equal(sides[-1], sides[1])  # nothing in the first observation tells


def test_expert_labels_stay_well_inside_the_action_range(env):
    expert = WayRoundExpert(np.random.default_rng(0))
    state = env.reset(5)[STATE]
    expert.start(state)
    for _ in range(30):
        action = expert.act(state)
        assert np.abs(action.label).max() < 0.8
        env.step(action.executed)
        state = env.observe()[STATE]


def test_same_seed_and_actions_give_the_same_floats(env):
    _, first = drive(env, 7, WayRoundExpert(np.random.default_rng(1)))
    drive(env, 8)
    _, again = drive(env, 7, WayRoundExpert(np.random.default_rng(1)))
    _, fresh = drive(ReachAroundEnv(), 7, WayRoundExpert(np.random.default_rng(1)))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, fresh)


def test_step_limit_ends_the_episode_as_a_failure():
    env = ReachAroundEnv(max_steps=5)
    env.reset(0)
    results = [env.step(np.zeros(4)) for _ in range(5)]
    assert [r.done for r in results] == [False] * 4 + [True]
    assert not results[-1].success
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros(4))
    env.reset(1)
    assert not env.step(np.zeros(4)).done


def test_actions_outside_the_range_are_clipped_and_reported(env):
    env.reset(0)
    inside = env.step([0.0, 0.0, 1.0, -1.0])
    assert not inside.clamped
    wide, clipped = (ReachAroundEnv() for _ in range(2))
    wide.reset(0)
    clipped.reset(0)
    result = wide.step([0.0, 0.0, 1.5, -1.0])
    assert result.clamped
    clipped.step([0.0, 0.0, 1.0, -1.0])
    np.testing.assert_array_equal(wide.observe()[STATE], clipped.observe()[STATE])
    assert result.joint_velocity.shape == (7,)
    assert np.abs(result.joint_velocity).max() > 0


@pytest.mark.parametrize("action", [[0.0] * 3, [0.0] * 5, [0.0, 0.0, float("nan"), 0.0]])
def test_bad_actions_are_refused(env, action):
    env.reset(0)
    with pytest.raises(ValueError, match="action"):
        env.step(action)


def test_bad_settings_are_refused(env):
    with pytest.raises(ValueError, match="seed"):
        env.reset(-1)
    with pytest.raises(ValueError, match="max_steps"):
        ReachAroundEnv(max_steps=0)
    with pytest.raises(ValueError, match="reach-v3"):
        MetaWorldEnv("reach-v9")
    with pytest.raises(ValueError, match="max_steps"):
        MetaWorldEnv("reach-v3", max_steps=501)


def test_a_plain_meta_world_task_repeats_and_shows_its_goal():
    env = MetaWorldEnv("drawer-open-v3", max_steps=20)
    first, other, again = (env.reset(seed)[STATE] for seed in (1, 2, 1))
    assert first.shape == (21,)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.abs(first[18:]).max() > 0
    env.step([0.0, 1.0, 0.0, 0.0])
    assert not np.array_equal(env.observe()[STATE], again)


def test_plain_reach_succeeds_when_driven_to_its_goal():
    env = MetaWorldEnv("reach-v3")
    state = env.reset(0)[STATE]
    while True:
        way = state[18:21] + HAND_OVER_TIPS - state[:3]
        result = env.step(np.append(np.clip(10 * way, -1, 1), 0.0))
        state = env.observe()[STATE]
        if result.done:
            break
    assert result.success


def test_wide_goals_lie_where_their_middle_does_not_reach():
    wide = METAWORLD.environment(WIDE_TASK_NAME, View(4))
    states = [(wide.reset(seed)[STATE], wide.sim.target) for seed in range(40)]
    assert {state.shape for state, _ in states} == {(4,)}
    goals = np.stack([goal for _, goal in states])
    assert (np.abs(goals[:, 0]) > 0.05).mean() > 0.3
    assert (np.linalg.norm((GOAL_HIGH - GOAL_LOW) / 2)) < 0.05


def test_the_expert_reaches_wide_goals_on_both_sides():
    wide = METAWORLD.environment(WIDE_TASK_NAME)
    reached = [
        (np.sign(states[0][4]), expert.side)
        for seed in range(16)
        for expert in [WayRoundExpert(np.random.default_rng(seed))]
        for result, states in [drive(wide, seed, expert)]
        if result.success
    ]
    assert len(reached) >= 10
    assert len(set(reached)) == 4
