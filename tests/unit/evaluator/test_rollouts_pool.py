"""Simulators that die or hang: an error of the simulator, never of an episode that was in the same process.

Workers are threads here, so that a process ends by an exception that nobody catches.
"""

import os
import socket
import threading
from collections import Counter
from contextlib import suppress
from multiprocessing import Pipe

import numpy as np
import pytest

from flowstill.errors import FlowstillError, UserError
from flowstill_evaluator import lockstep
from flowstill_evaluator.lockstep import ATTEMPTS, HOPELESS, Slots, WorkerPool, answer
from flowstill_evaluator.records import episodes_of
from flowstill_evaluator.suites.registry import LIBERO, METAWORLD
from tests.unit.evaluator.analytic import Line, LineController
from tests.unit.evaluator.test_rollouts_lockstep import policy

WIDTH = 4


class Died(BaseException):
    """The process ended."""


class Process:
    """A worker as a thread: what its environment does not survive closes its end of the pipe."""

    exitcode = -11

    def __init__(self, slots, connection):
        self.connection = connection
        self.thread = threading.Thread(target=self.live, args=(slots,), daemon=True)
        self.thread.start()

    def live(self, slots):
        try:
            answer(self.connection, slots)
        except (Died, OSError):
            pass
        finally:
            self.kill()
            self.connection.close()

    def kill(self):
        """End the conversation without closing what the thread may be reading from."""
        with suppress(OSError), socket.socket(fileno=os.dup(self.connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)

    terminate = kill

    def join(self):
        pass


class Pool(WorkerPool):
    """A pool whose workers run ``make``'s environments."""

    def __init__(self, make, workers, **options):
        self.make, self.spawned = make, 0
        super().__init__(METAWORLD, workers, WIDTH, **options)

    def _spawn(self):
        self.spawned += 1
        ours, theirs = Pipe()
        return lockstep._Worker(Process(Slots(self.make, WIDTH), theirs), ours)


class Deadly(Line):
    """Ends its process, or is told to do something else, at the first step of some seeds."""

    def __init__(self, task, deaths, act):
        super().__init__(task)
        self.deaths, self.act = deaths, act

    def reset(self, seed):
        self.seed = seed
        return super().reset(seed)

    def step(self, action):
        if self.deaths[self.seed] > 0:
            self.deaths[self.seed] -= 1
            self.act()
        return super().step(action)


def die():
    raise Died


def run(episodes, deaths=None, act=die, workers=2, **options):
    outcomes, errors = {}, []

    def heard(said):
        outcomes.update({o.episode: o for o in said.outcomes})
        errors.extend(said.errors)

    counts = Counter(deaths or {})
    with Pool(lambda task: Deadly(task, counts, act), workers, **options) as pool:
        pool.run(episodes, policy(LineController(noise=0.3), width=16), heard)
        return outcomes, errors, pool.spawned


EPISODES = episodes_of(["a"], 12, seed=0)


@pytest.mark.parametrize(
    ("suite", "episodes", "size"), [(METAWORLD, 1000, (8, 8)), (LIBERO, 1000, (8, 2)), (LIBERO, 3, (3, 1))]
)
def test_no_more_environments_than_the_suite_can_have(monkeypatch, suite, episodes, size):
    monkeypatch.setattr(lockstep, "usable_cores", lambda: 8)
    assert lockstep.pool_size(episodes, suite) == size


def test_who_was_in_the_process_that_died_ends_as_ever():
    whole, none, _ = run(EPISODES)
    outcomes, errors, spawned = run(EPISODES, {2: 1, 7: ATTEMPTS})
    assert none == errors == []
    assert spawned == 2 + 1 + ATTEMPTS
    assert set(outcomes) == set(whole) == set(EPISODES)
    for episode in EPISODES:
        np.testing.assert_array_equal(outcomes[episode].actions_TD, whole[episode].actions_TD)


def test_only_the_episode_that_always_kills_is_given_up():
    outcomes, errors, spawned = run(EPISODES, {5: 99})
    assert [error.episode.index for error in errors] == [5]
    assert errors[0].message == "the simulator's process ended with -11"
    assert set(outcomes) == {episode for episode in EPISODES if episode.index != 5}
    assert spawned == 2 + 1 + ATTEMPTS, "the others that ran beside it cost no process"


def test_where_every_simulator_dies_nothing_is_concluded():
    with pytest.raises(FlowstillError, match=f"{HOPELESS} episodes were tried {ATTEMPTS} times each, and the simul"):
        run(EPISODES, dict.fromkeys(range(12), 99))


def test_a_simulator_that_hangs_is_killed():
    hang = threading.Event()
    outcomes, errors, spawned = run(EPISODES, {3: 1}, act=hang.wait, silence=1.0)
    hang.set()
    assert set(outcomes) == set(EPISODES)
    assert errors == []
    assert spawned == 3


def test_an_error_of_the_users_ends_the_evaluation_in_its_own_words():
    def missing(task):
        raise UserError(f"{task} has no meshes", field="spec.evaluation.tasks")

    with Pool(missing, 1) as pool, pytest.raises(UserError, match=r"spec.evaluation.tasks: a has no meshes") as caught:
        pool.run(EPISODES, policy(LineController()), lambda said: None)
    assert caught.value.field == "spec.evaluation.tasks"


def test_each_arm_has_its_own_tries():
    counts = Counter({5: 2 * ATTEMPTS})
    with Pool(lambda task: Deadly(task, counts, die), 1) as pool:
        errors = []
        for _ in range(3):
            pool.run(EPISODES, policy(LineController(), width=16), lambda said: errors.extend(said.errors))
    assert [error.episode.index for error in errors] == [5]
