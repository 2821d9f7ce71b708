"""The example of a custom suite in the real simulators' processes, with a policy, and filmed."""

import os
from pathlib import Path

import numpy as np
import pytest

from flowstill.api.studentrollout import CustomSuite
from flowstill.errors import UserError
from flowstill.policies.loading import load_policy
from flowstill_evaluator import videos
from flowstill_evaluator.lockstep import WorkerPool
from flowstill_evaluator.observations import on_the_way
from flowstill_evaluator.policy import BatchedPolicy
from flowstill_evaluator.records import EpisodeLog, Outcome, episodes_of, stored
from flowstill_evaluator.suites.registry import suite_of
from flowstill_evaluator.views import view_of
from tests.support import tiny_smolvla
from tests.unit.evaluator.analytic import CHUNK, PADDED, as_chunks, info

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_suite"
TASKS = ["reach", "reach-past-post"]
BLACK = "observation.images.black"
UPPER, FORE = 0.20, 0.18  # m, the arm's links


class ArmController:
    """Solves the planar arm by its Jacobian; noise says how fast it goes."""

    def __init__(self) -> None:
        self.info = info(state_dim=6, action_dim=2, cameras=(BLACK,))

    def act(self, observations, noise_BKHD):
        joints_BHJ = np.repeat(observations["observation.state"][:, None, :2].astype(float), CHUNK, axis=1)
        chunk = np.zeros((len(joints_BHJ), 1, CHUNK, PADDED), np.float32)
        for row, (*_, goal_x, goal_y) in enumerate(observations["observation.state"]):
            joints = joints_BHJ[row, 0]
            pace = 5 + np.tanh(noise_BKHD[row, 0, 0, 0])
            for step in range(CHUNK):
                outer = joints.sum()
                tip = UPPER * np.array([np.cos(joints[0]), np.sin(joints[0])])
                tip = tip + FORE * np.array([np.cos(outer), np.sin(outer)])
                turn = np.array([[-tip[1], -FORE * np.sin(outer)], [tip[0], FORE * np.cos(outer)]])
                miss = np.array([goal_x, goal_y]) - tip
                speed = turn.T @ np.linalg.solve(turn @ turn.T + 1e-3 * np.eye(2), pace * miss)
                chunk[row, 0, step, :2] = action = np.clip(speed / 2, -1, 1)
                joints = joints + 0.1 * action
        return as_chunks(chunk, 2)


@pytest.fixture(scope="module", autouse=True)
def installed():
    """The example's package, as an installation would give it, here and in every process that starts from here."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(EXAMPLE))
    patch.setenv("PYTHONPATH", str(EXAMPLE), prepend=os.pathsep)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def suite():
    suite = suite_of("custom", CustomSuite(entry_point="planar_arm:make_env"))
    assert suite.preflight(TASKS) == {
        "reach": "reach the goal",
        "reach-past-post": "reach the goal and leave the post alone",
    }
    return suite


def test_the_arm_reaches_in_lockstep_again_exactly_so_and_is_filmed(suite, tmp_path):
    episodes = episodes_of(TASKS, 6, seed=0)
    policy = BatchedPolicy(
        ArmController(), "arm", seed=0, action_steps=4, width=3,
        instructions=suite.preflight(TASKS), rename_map={},
    )  # fmt: skip
    runs = []
    with WorkerPool(suite, 2, 3) as pool:
        for _ in range(2):
            found = []
            pool.run(episodes, policy, lambda answer, found=found: found.extend(answer.outcomes))
            runs.append({outcome.episode: outcome for outcome in found})
    assert set(runs[0]) == set(episodes)
    for episode, outcome in runs[0].items():
        np.testing.assert_array_equal(outcome.actions_TD, runs[1][episode].actions_TD)
        assert outcome.velocity_TJ.shape == (outcome.steps, 2)
        assert outcome.failure in (None, "contact")
    assert all(outcome.success for episode, outcome in runs[0].items() if episode.task == "reach")
    log = EpisodeLog(tmp_path / "episodes.jsonl")
    for arm in ("student", "teacher@10"):
        log.append([stored(runs[0][episodes[0]], "custom", arm, 10)])
    [film] = videos.choose(log, "student", "teacher@10", "all")
    note = videos.make([film], log, suite, tmp_path, lambda: None)
    assert note is None or "cannot be drawn" in note, note
    assert (tmp_path / film.path).exists() is (note is None)


def test_a_task_that_the_package_has_not_is_the_packages_own_error(suite):
    with pytest.raises(UserError, match="failed with ValueError: there is no task 'dance'; use one of reach, "):
        suite.preflight(["dance"])


def test_a_tiny_policy_acts_and_its_short_episodes_give_enough_observations(tmp_path):
    teacher = tiny_smolvla.write_teacher(tmp_path / "teacher", state_dim=6, action_dim=2)
    suite = suite_of("custom", CustomSuite(entry_point="planar_arm:make_env", config={"max_steps": "6"}))
    sentences, rename_map = suite.preflight(TASKS), {BLACK: tiny_smolvla.CAMERA}
    runner = load_policy(f"file://{teacher}", runtime="torch", steps=2)
    view = view_of(runner.info, "teacher", suite, TASKS, rename_map)
    policy = BatchedPolicy(
        runner, "teacher", seed=0, action_steps=4, width=2, instructions=sentences, rename_map=rename_map
    )
    outcomes: list[Outcome] = []
    with WorkerPool(suite, 1, 2, view) as pool:
        pool.run(episodes_of(TASKS, 2, seed=0), policy, lambda answer: outcomes.extend(answer.outcomes))
        observations = on_the_way(pool, policy, sentences, rename_map, count=20, seed=0, first=50)
    assert [o.episode.task for o in outcomes].count("reach") == [o.episode.index for o in outcomes].count(1) == 2
    assert {(o.steps, o.chunks, o.velocity_TJ.shape) for o in outcomes if o.failure == "timeout"} == {(6, 2, (6, 2))}
    # Two chunks an episode, where four were hoped for: more episodes are run until there are enough.
    assert len(observations) == 20
    assert set(observations.sentences) == set(sentences.values())
    states = observations.features["observation.state"]
    assert len(set(zip(observations.sentences, map(bytes, states), strict=True))) == 20, "the tasks share their starts"
    assert observations.features[tiny_smolvla.CAMERA].shape == (20, 32, 32, 3)
