"""Rollouts: run every arm on the same episodes, measure what serving costs, and publish the records.

Everything that is finished lies in the work folder, so that an attempt goes on where the last one ended.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flowstill.api.children import Result, RolloutsTask
from flowstill.api.fields import StatusRef
from flowstill.artifacts.digests import json_digest
from flowstill.artifacts.stores import fetch
from flowstill.child.context import ChildContext
from flowstill.child.threads import usable_cores
from flowstill.errors import ArtifactError, Interrupted
from flowstill.policies.interface import Runner
from flowstill_evaluator import fidelity, latency, memory
from flowstill_evaluator.arms import (
    Arm,
    Comparison,
    Provider,
    References,
    compare,
    one_draw_arm,
    pick_provider,
    reference_arm,
    resolve,
)
from flowstill_evaluator.lockstep import Round, WorkerPool, policy_threads, pool_size
from flowstill_evaluator.observations import Batch, on_the_way
from flowstill_evaluator.policy import BatchedPolicy
from flowstill_evaluator.publication import publish_rollouts
from flowstill_evaluator.records import (
    MAX_VELOCITY_ROWS,
    Episode,
    EpisodeError,
    EpisodeLog,
    episodes_of,
    stored,
    write_json,
)
from flowstill_evaluator.suites.graphics import choose_library
from flowstill_evaluator.suites.interface import Suite, View
from flowstill_evaluator.suites.registry import suite_of
from flowstill_evaluator.views import drawn, view_of


@dataclass
class Session:
    """One attempt at a rollouts task: what to run, and the work folder with what is already done."""

    task: RolloutsTask
    context: ChildContext
    references: References
    comparison: Comparison
    provider: Provider
    suite: Suite
    instructions: dict[str, str]
    folder: Path
    episodes: list[Episode]
    log: EpisodeLog
    errors: list[tuple[str, EpisodeError]] = field(default_factory=list)

    @property
    def seed(self) -> int:
        """Of the evaluation."""
        return self.task.evaluation.seed

    @property
    def rename_map(self) -> dict[str, str]:
        """The environment's feature names → the policy's."""
        return dict(self.task.evaluation.rename_map)

    def check_stop(self) -> None:
        """Raise when somebody asked this process to stop."""
        if self.context.stop.is_set():
            raise Interrupted("the evaluation was asked to stop; the next attempt goes on from here")

    def tell(self, activity: str) -> None:
        """Report progress, in episodes of all arms; stop when asked to."""
        self.tell_steps(len(self.log.episodes), len(self.comparison.arms) * len(self.episodes), activity)

    def tell_steps(self, done: int, total: int, activity: str) -> None:
        """Report progress of something that is counted otherwise; stop when asked to."""
        self.check_stop()
        self.context.progress.update(done, total, activity)


def run(task: RolloutsTask, context: ChildContext) -> Result:
    """Evaluate a student and publish the records.

    Raises:
        UserError: an artifact, a task or an arm cannot work.
        Interrupted: asked to stop; what was done is kept.
    """
    references = resolve(task)
    comparison = compare(task, references)
    suite = suite_of(task.evaluation.suite, task.evaluation.custom)
    sentences = suite.preflight(task.evaluation.tasks)
    folder = work_folder(context.work, task)
    if done := published(folder):
        return _result(references, done, "the records of this evaluation were already published")
    evaluation = task.evaluation
    session = Session(
        task=task,
        context=context,
        references=references,
        comparison=comparison,
        provider=pick_provider(),
        suite=suite,
        instructions=sentences,
        folder=folder,
        episodes=episodes_of(evaluation.tasks, evaluation.episodes_per_task, evaluation.seed),
        log=EpisodeLog(folder / "episodes.jsonl"),
    )
    observations = simulate(session)
    _once(folder / "latency.json", lambda: measure_latency(session, observations))
    _once(folder / "memory.json", lambda: measure_memory(session))
    _once(folder / "fidelity.json", lambda: measure_fidelity(session, observations))
    ref = publish_rollouts(session)
    write_json(folder / "published.json", ref.model_dump())
    failed = f", {len(session.errors)} given up for errors of the simulator" if session.errors else ""
    return _result(references, ref, f"{len(session.log.episodes)} episodes of {len(comparison.arms)} arms{failed}")


def work_folder(work: Path, task: RolloutsTask) -> Path:
    """The folder of this very evaluation; what another one left in its place is removed."""
    folder = work / "rollouts"
    key = json_digest(task.model_dump(mode="json", exclude={"resource", "uid", "work"}))
    name = folder / "evaluation.json"
    if folder.exists() and (not name.exists() or json.loads(name.read_text()) != {"digest": key}):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(name, {"digest": key})
    return folder


def published(folder: Path) -> StatusRef | None:
    """What an earlier attempt published, when it is still whole."""
    path = folder / "published.json"
    if not path.exists():
        return None
    ref = StatusRef.model_validate_json(path.read_text())
    try:
        fetch(ref, "rollouts")
    except ArtifactError:
        path.unlink()
        return None
    return ref


def simulate(session: Session) -> Batch:
    """Run what is missing of every arm, and collect held-out observations."""
    path = session.folder / "observations.npz"
    with closing(Simulators(session)) as simulators:
        for arm in session.comparison.arms:
            if missing := session.log.missing(arm.name, session.episodes):
                run_arm(session, arm, missing, simulators)
        if not path.exists():
            held_out(session, simulators).save(path)
    return Batch.load(path)


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
        workers, width = pool_size(len(self._session.episodes))
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
    note_arm(session, arm, runner)
    pool = simulators.seen_by(runner, arm.name)
    policy = policy_of(session, runner, arm.name, pool.width)
    rows = max(1, MAX_VELOCITY_ROWS // len(session.episodes))
    suite = session.task.evaluation.suite

    def heard(answer: Round) -> None:
        session.log.append(stored(outcome, suite, arm.name, rows) for outcome in answer.outcomes)
        session.errors.extend((arm.name, error) for error in answer.errors)
        session.tell(f"running {arm.name}")

    pool.run(missing, policy, heard)
    note_arm(session, arm, runner, seconds=round(time.monotonic() - started, 1))


def policy_of(session: Session, runner: Runner, arm: str, width: int) -> BatchedPolicy:
    """A runner as the policy of this evaluation."""
    return BatchedPolicy(
        runner,
        arm,
        seed=session.seed,
        action_steps=session.comparison.action_steps,
        width=width,
        instructions=session.instructions,
        rename_map=session.rename_map,
    )


def held_out(session: Session, simulators: Simulators) -> Batch:
    """Observations of the teacher's episodes after the last that is scored: nothing was trained on them."""
    session.tell("collecting held-out observations")
    evaluation = session.task.evaluation
    runner = reference_arm(session.references).open(session.provider, policy_threads())
    pool = simulators.seen_by(runner, "teacher")
    return on_the_way(
        pool,
        policy_of(session, runner, "teacher", pool.width),
        session.instructions,
        session.rename_map,
        count=session.task.gates.p4.observations,
        seed=session.seed,
        first=evaluation.episodes_per_task,
    )


def measure_latency(session: Session, observations: Batch) -> dict[str, Any]:
    """``latency.json``."""
    arms = _served_arms(session)
    calls = session.task.gates.p2.min_calls
    session.tell_steps(0, calls, "measuring latency")
    runners = {arm.name: arm.open(session.provider, threads=latency.THREADS) for arm in arms}
    times = latency.measure(
        runners,
        observations,
        calls=calls,
        seed=session.seed,
        heard=lambda done: session.tell_steps(done, calls, "measuring latency"),
    )
    return {arm: {"calls": len(values), "milliseconds": values} for arm, values in times.items()}


def measure_memory(session: Session) -> dict[str, list[int]]:
    """``memory.json``."""
    return memory.measure(
        _served_arms(session),
        session.folder / "observations.npz",
        processes=session.task.gates.p3.processes,
        provider=session.provider,
        threads=latency.THREADS,
        at_once=min(2, usable_cores()),
        heard=lambda: session.tell("measuring memory"),
    )


def measure_fidelity(session: Session, observations: Batch) -> dict[str, Any]:
    """``fidelity.json``."""
    session.tell("measuring fidelity")
    teacher = reference_arm(session.references).open(session.provider, policy_threads(), draws=fidelity.CHUNKS)
    student = one_draw_arm(session.task, session.references).open(session.provider, policy_threads())
    generator = np.random.default_rng([session.seed, 4])

    def chunks(runner: Runner) -> fidelity.Doubles:
        steps = session.comparison.action_steps
        return fidelity.sample(runner, observations, steps, generator, session.check_stop)

    reference, fresh, distilled = chunks(teacher), chunks(teacher), chunks(student)
    return fidelity.compare(reference, fresh, distilled)


def note_arm(session: Session, arm: Arm, runner: Runner, seconds: float | None = None) -> None:
    """Keep what an arm really ran with, and for how long in all attempts."""
    path = session.folder / "arms.json"
    notes = json.loads(path.read_text()) if path.exists() else {}
    info = runner.info
    before = notes.get(arm.name, {}).get("seconds", 0.0)
    notes[arm.name] = {
        **asdict(arm),
        "steps": info.steps,
        "draws": info.draws,
        "runtime": info.runtime,
        "providers": list(info.providers),
        "seconds": round(before + (seconds or 0.0), 1),
    }
    write_json(path, notes)


def _served_arms(session: Session) -> list[Arm]:
    comparison = session.comparison
    return [comparison[comparison.baseline], comparison[comparison.served]]


def _once(path: Path, measure: Callable[[], Any]) -> None:
    if not path.exists():
        write_json(path, measure())


def _result(references: References, ref: StatusRef, message: str) -> Result:
    return Result(
        kind="Rollouts",
        outcome="Succeeded",
        reason="RolloutsPublished",
        message=message,
        student=references.student,
        teacher=references.teacher,
        baseline=references.baseline,
        rollouts=ref,
    )
