"""The episodes of every arm, and the observations on which nothing is scored."""

from __future__ import annotations

import os
import time
from contextlib import closing

from flowstill.policies.interface import Runner
from flowstill_evaluator.arms import Arm, reference_arm
from flowstill_evaluator.lockstep import BATCH, Round, WorkerPool, policy_threads, pool_size
from flowstill_evaluator.observations import Batch, on_the_way
from flowstill_evaluator.policy import BatchedPolicy
from flowstill_evaluator.records import Episode, stored
from flowstill_evaluator.session import Session
from flowstill_evaluator.suites.graphics import choose_library
from flowstill_evaluator.suites.interface import View
from flowstill_evaluator.views import drawn, view_of


def simulate(session: Session) -> None:
    """Run what is missing of every arm, and collect held-out observations where they are measured on."""
    path = session.folder / "observations.npz"
    with closing(Simulators(session)) as simulators:
        for arm in session.comparison.arms:
            if missing := session.log.missing(arm.name, session.episodes):
                run_arm(session, arm, missing, simulators)
        if session.measures and not path.exists():
            held_out(session, simulators).save(path)


class Simulators:
    """The simulators of an evaluation, started when a policy first needs them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pool: tuple[View, WorkerPool] | None = None

    def seen_by(self, runner: Runner, arm: str) -> WorkerPool:
        """Simulators that show what this policy looks at; those of a policy that looks at the same go on.

        Raises:
            UserError: the policy does not fit the tasks, or its cameras cannot be drawn here.
        """
        suite, tasks = self._session.suite, self._session.task.evaluation.tasks
        view = view_of(runner.info, arm, suite, tasks, self._session.rename_map)
        if self._pool is not None and self._pool[0] == view:
            return self._pool[1]
        self.close()
        if drawn(view, suite, tasks):
            os.environ["MUJOCO_GL"] = choose_library()  # the simulators' processes inherit it
        workers, width = pool_size(len(self._session.episodes), suite)
        self._session.tell(f"starting {workers} simulators")
        self._pool = view, WorkerPool(suite, workers, width, view)
        return self._pool[1]

    def close(self) -> None:
        """End the simulators' processes."""
        if self._pool is not None:
            self._pool[1].close()
            self._pool = None


def run_arm(session: Session, arm: Arm, missing: list[Episode], simulators: Simulators) -> None:
    """Run the missing episodes of one arm; the simulators start when its policy is there."""
    session.tell(f"loading {arm.name}")
    started = time.monotonic()
    runner = arm.open(session.provider, policy_threads())
    session.note_arm(arm, runner)
    pool = simulators.seen_by(runner, arm.name)
    suite = session.task.evaluation.suite

    def heard(answer: Round) -> None:
        session.log.append(stored(outcome, suite, arm.name, session.velocity_rows) for outcome in answer.outcomes)
        session.errors.extend((arm.name, error) for error in answer.errors)
        session.tell(f"running {arm.name}")

    pool.run(missing, policy_of(session, runner, arm.name), heard)
    session.note_arm(arm, runner, seconds=time.monotonic() - started)


def policy_of(session: Session, runner: Runner, arm: str) -> BatchedPolicy:
    """A runner as the policy of this evaluation."""
    return BatchedPolicy(
        runner,
        arm,
        seed=session.seed,
        action_steps=session.comparison.action_steps,
        width=BATCH,
        instructions=session.instructions,
        rename_map=session.rename_map,
    )


def held_out(session: Session, simulators: Simulators) -> Batch:
    """Observations of the teacher's episodes after the last that may be scored: nothing was trained on them."""
    session.tell("collecting held-out observations")
    runner = reference_arm(session.references).open(session.provider, policy_threads())
    return on_the_way(
        simulators.seen_by(runner, "teacher"),
        policy_of(session, runner, "teacher"),
        session.instructions,
        session.rename_map,
        count=session.task.gates.p4.observations,
        seed=session.seed,
        first=session.task.evaluation.most_episodes_per_task,
    )
