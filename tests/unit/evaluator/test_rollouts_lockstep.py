"""Slots: every episode runs once, to its own end, whatever runs beside it."""

from dataclasses import replace

import numpy as np
import pytest

from flowstill.errors import UserError
from flowstill_evaluator.lockstep import ATTEMPTS, Slots
from flowstill_evaluator.policy import BatchedPolicy
from flowstill_evaluator.records import Episode, episodes_of
from flowstill_evaluator.suites.gym_env import ContractBroken
from tests.unit.evaluator.analytic import Line, LineController

SENTENCES = {"a": "go", "b": "come"}


def policy(runner, width=4, action_steps=3, seed=0):
    return BatchedPolicy(
        runner,
        "arm",
        seed=seed,
        action_steps=action_steps,
        width=width,
        instructions=SENTENCES,
        rename_map={},
    )


def run(episodes, runner, width=4, breaks=None, action_steps=3):
    slots = Slots(lambda task: Line(task, breaks), width)
    ask = policy(runner, width, action_steps)
    answer = slots.begin(episodes)
    outcomes, errors, rounds = [*answer.outcomes], [*answer.errors], [answer]
    while answer.waiting:
        answer = slots.advance(ask(answer))
        rounds.append(answer)
        outcomes += answer.outcomes
        errors += answer.errors
    return {o.episode: o for o in outcomes}, errors, rounds


def test_every_episode_ends_once_and_batches_are_full():
    episodes = episodes_of(["a", "b"], 9, seed=3)
    runner = LineController()
    outcomes, errors, rounds = run(episodes, runner)
    assert set(outcomes) == set(episodes)
    assert not errors
    assert sum(len(r.outcomes) for r in rounds) == len(episodes)
    assert set(runner.batches) == {4}
    assert all(len(r.waiting) == 4 for r in rounds[:8])


def test_an_outcome_is_what_the_environment_did():
    [(episode, outcome)] = run([Episode("a", 0, 5)], LineController(gain=-2.0, noise=0.0))[0].items()
    start = float(np.random.default_rng(5).uniform(0.5, 1.5))
    line = Line("a")
    line.reset(5)
    rewards = [line.step(action) for action in outcome.actions_TD]
    assert outcome.episode == episode
    assert outcome.success
    assert outcome.failure is None
    assert outcome.steps == len(outcome.actions_TD) == len(outcome.velocity_TJ)
    assert outcome.steps == int(np.ceil((start - 0.06) / 0.1))
    assert outcome.clamped_steps == outcome.steps
    assert outcome.reward == pytest.approx(sum(r.reward for r in rewards))
    assert outcome.chunks == -(-outcome.steps // 3)


@pytest.mark.parametrize(("gain", "failure"), [(1.0, "contact"), (0.0, "timeout")])
def test_failures_have_their_kind(gain, failure):
    [outcome] = run([Episode("a", 0, 5)], LineController(gain=gain, noise=0.0))[0].values()
    assert (outcome.success, outcome.failure) == (False, failure)
    assert (outcome.idle_chunks == outcome.chunks) is (failure == "timeout")


class Stopping(Line):
    """Knows no joints, and ends its episodes by itself after ten steps."""

    def step(self, action):
        done = super().step(action)
        ended = self._steps == 10
        return replace(done, done=done.done or ended, ended=ended, joint_velocity=np.empty(0))


def test_without_joints_no_chunk_is_idle_and_an_end_is_no_timeout():
    slots = Slots(Stopping, 1)
    ask = policy(LineController(gain=0.0, noise=0.0), 1)
    answer = slots.begin([Episode("a", 0, 5)])
    while answer.waiting:
        answer = slots.advance(ask(answer))
    [outcome] = answer.outcomes
    assert (outcome.failure, outcome.steps, outcome.idle_chunks) == ("ended", 10, 0)
    assert outcome.velocity_TJ.shape == (10, 0)


def test_an_episode_does_not_depend_on_its_neighbours():
    alone = run([Episode("a", 7, 107)], LineController(noise=0.5))[0]
    among = run([*episodes_of(["a"], 7, seed=0), Episode("a", 7, 107)], LineController(noise=0.5), width=3)[0]
    np.testing.assert_array_equal(alone[Episode("a", 7, 107)].actions_TD, among[Episode("a", 7, 107)].actions_TD)


def test_draw_zero_of_many_is_the_noise_of_one():
    episodes = [Episode("a", 2, 2)]
    seen = {}
    for draws in (1, 4):
        runner = LineController(draws=draws)
        answer = Slots(Line, 1).begin(episodes)
        noises = []
        act = runner.act
        runner.act = lambda o, n, act=act, noises=noises: (noises.append(n), act(o, n))[1]
        policy(runner, width=1)(answer)
        seen[draws] = noises[0]
    np.testing.assert_array_equal(seen[1][:, 0], seen[4][:, 0])


def test_a_broken_environment_is_tried_again_and_is_no_failure():
    outcomes, errors, _ = run([Episode("a", 0, 5), Episode("a", 1, 6)], LineController(), breaks={5: ATTEMPTS - 1})
    assert len(outcomes) == 2
    assert not errors


def test_a_hopeless_environment_is_reported_and_the_rest_goes_on():
    outcomes, errors, _ = run([Episode("a", 0, 5), Episode("a", 1, 6)], LineController(), width=1, breaks={5: ATTEMPTS})
    assert [e.episode.index for e in outcomes.values()] == [1]
    assert [e.episode.index for e in errors] == [0]
    assert errors[0].message == "RuntimeError: cannot start 5"


def test_an_error_of_our_own_is_reported_in_its_own_words():
    class Silent(Line):
        def reset(self, seed):
            raise ContractBroken("reset(seed=…) gave nothing")

    answer = Slots(Silent, 1).begin([Episode("a", 0, 5)])
    assert [error.message for error in answer.errors] == ["reset(seed=…) gave nothing"]


def test_a_policy_that_is_not_finite_is_an_error_of_its_own():
    with pytest.raises(UserError, match=r"arm arm .* not finite .*episode 0") as caught:
        run([Episode("a", 0, 5)], LineController(noise=np.nan))
    assert caught.value.reason == "NonFiniteActions"


def test_environment_of_another_task_is_replaced():
    made = []

    def make(task):
        made.append(Line(task))
        return made[-1]

    slots = Slots(make, 1)
    ask = policy(LineController(), 1)
    answer = slots.begin([Episode("a", 0, 1), Episode("a", 1, 2), Episode("b", 0, 1)])
    while answer.waiting:
        answer = slots.advance(ask(answer))
    assert [(line.task, line.closed) for line in made] == [("a", True), ("b", False)]
