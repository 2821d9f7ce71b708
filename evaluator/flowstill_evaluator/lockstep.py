"""Many environments in lockstep: each runs its chunk to the end, then all of them ask the policy at once.

A *slot* holds one environment. When its episode ends it starts the next one at once, so that batches stay
full. Environments live in worker processes; while one worker simulates, the policy answers another.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from flowstill.child.threads import usable_cores
from flowstill.errors import FlowstillError, UserError
from flowstill_evaluator.records import Episode, EpisodeError, Failure, Floats, Outcome
from flowstill_evaluator.suites.interface import Environment, Observation, StepResult, Suite, View

ATTEMPTS = 3  # of an episode whose environment breaks
HOPELESS = 4  # episodes given up before any other ended: no simulator works here
MAX_WORKERS = 8
BATCH = 16  # rows of every call of a policy, and the most slots of a worker
SILENCE_SECONDS = 1800.0  # of a worker's environments, all slots in turn; LIBERO's slowest take about a minute
IDLE_SPEED = 0.05  # rad/s; the arm's joints move at about 0.5 to 2 rad/s when it works


@dataclass(frozen=True)
class Round:
    """What a worker says when all its slots wait for a chunk. W waiting slots.

    Attributes:
        waiting: episode and chunk index of each row of ``observations``; empty when the worker is done.
        observations: stacked, (W, …) each.
        outcomes: episodes that ended in this round.
        errors: episodes given up in this round.
    """

    waiting: tuple[tuple[Episode, int], ...]
    observations: Observation
    outcomes: tuple[Outcome, ...] = ()
    errors: tuple[EpisodeError, ...] = ()


Policy = Callable[[Round], Floats]
"""Actions (W, A, D) for the waiting slots of a round."""


@dataclass
class _Slot:
    environment: Environment | None = None
    task: str = ""
    episode: Episode | None = None
    observation: Observation = field(default_factory=dict)
    attempt: int = 0
    chunks: int = 0
    idle_chunks: int = 0
    clamped_steps: int = 0
    reward: float = 0.0
    actions: list[Floats] = field(default_factory=list)
    velocities: list[npt.NDArray[np.float64]] = field(default_factory=list)


class Slots:
    """The environments of one worker."""

    def __init__(self, make: Callable[[str], Environment], width: int) -> None:
        self._make = make
        self._slots = [_Slot() for _ in range(width)]
        self._queue: deque[Episode] = deque()
        self._outcomes: list[Outcome] = []
        self._errors: list[EpisodeError] = []

    def begin(self, episodes: Sequence[Episode]) -> Round:
        """Start on these episodes; what ran before is dropped."""
        self._queue = deque(episodes)
        self._outcomes, self._errors = [], []
        for slot in self._slots:
            self._next_episode(slot)
        return self._round()

    def advance(self, actions_WAD: Floats) -> Round:
        """Run one chunk in every waiting slot, in the order of the last round's rows."""
        busy = [slot for slot in self._slots if slot.episode is not None]
        for slot, actions_AD in zip(busy, actions_WAD, strict=True):
            try:
                self._run_chunk(slot, actions_AD)
            except Exception as error:
                self._broke(slot, error)
        return self._round()

    def _run_chunk(self, slot: _Slot, actions_AD: Floats) -> None:
        assert slot.environment is not None
        slot.chunks += 1
        fastest = 0.0
        for action_D in actions_AD:
            step = slot.environment.step(action_D)
            slot.actions.append(action_D)
            slot.velocities.append(step.joint_velocity)
            slot.reward += step.reward
            slot.clamped_steps += step.clamped
            fastest = max(fastest, float(np.abs(step.joint_velocity).max(initial=0.0)))
            if step.done:
                break
        slot.idle_chunks += step.joint_velocity.size > 0 and fastest < IDLE_SPEED
        if not step.done:
            slot.observation = slot.environment.observe()
            return
        self._finish(slot, step.success, None if step.success else _failure(step))

    def _finish(self, slot: _Slot, success: bool, failure: Failure | None) -> None:
        assert slot.episode is not None
        self._outcomes.append(
            Outcome(
                episode=slot.episode,
                success=success,
                failure=failure,
                steps=len(slot.actions),
                reward=slot.reward,
                clamped_steps=slot.clamped_steps,
                idle_chunks=slot.idle_chunks,
                chunks=slot.chunks,
                actions_TD=np.asarray(slot.actions, dtype=np.float32),
                velocity_TJ=np.asarray(slot.velocities, dtype=np.float32),
            )
        )
        self._next_episode(slot)

    def _next_episode(self, slot: _Slot) -> None:
        slot.episode = self._queue.popleft() if self._queue else None
        slot.attempt = 0
        if slot.episode is not None:
            self._start(slot)

    def _start(self, slot: _Slot) -> None:
        assert slot.episode is not None
        slot.chunks = slot.idle_chunks = slot.clamped_steps = 0
        slot.reward = 0.0
        slot.actions, slot.velocities = [], []
        try:
            if slot.environment is None or slot.task != slot.episode.task:
                _discard(slot)
                slot.environment, slot.task = self._make(slot.episode.task), slot.episode.task
            slot.observation = slot.environment.reset(slot.episode.seed)
        except UserError:
            raise
        except Exception as error:
            self._broke(slot, error)

    def _broke(self, slot: _Slot, error: Exception) -> None:
        """Try the episode again in a new environment, or report it."""
        assert slot.episode is not None
        _discard(slot)
        slot.attempt += 1
        if slot.attempt < ATTEMPTS:
            self._start(slot)
            return
        ours = isinstance(error, FlowstillError)
        self._errors.append(EpisodeError(slot.episode, str(error) if ours else f"{type(error).__name__}: {error}"))
        self._next_episode(slot)

    def _round(self) -> Round:
        busy = [slot for slot in self._slots if slot.episode is not None]
        waiting = tuple((slot.episode, slot.chunks) for slot in busy if slot.episode is not None)
        names = busy[0].observation if busy else {}
        observations = {name: np.stack([slot.observation[name] for slot in busy]) for name in names}
        outcomes, errors = tuple(self._outcomes), tuple(self._errors)
        self._outcomes, self._errors = [], []
        return Round(waiting, observations, outcomes, errors)


def _failure(step: StepResult) -> Failure:
    return "contact" if step.touched else "ended" if step.ended else "timeout"


def _discard(slot: _Slot) -> None:
    if slot.environment is not None:
        slot.environment.close()
        slot.environment = None


def serve(connection: Connection, suite: Suite, view: View | None, width: int) -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    answer(connection, Slots(lambda task: suite.environment(task, view), width))


def answer(connection: Connection, slots: Slots) -> None:
    """Answer ``begin`` and ``advance`` until the other end closes; the user's error is the last answer."""
    while True:
        try:
            request: Sequence[Episode] | Floats = connection.recv()
        except EOFError:
            return
        try:
            said = slots.advance(request) if isinstance(request, np.ndarray) else slots.begin(request)
        except UserError as error:
            connection.send(error)
            return
        connection.send(said)


@dataclass
class _Worker:
    """A process, what it has still to run, and what was in its slots when it was last heard.

    Attributes:
        asked: when it was last told something (monotonic seconds).
    """

    process: BaseProcess
    connection: Connection
    remaining: dict[Episode, None] = field(default_factory=dict)
    active: list[Episode] = field(default_factory=list)
    asked: float = 0.0


class WorkerPool:
    """Worker processes that run episodes for a policy. A context manager.

    When a process dies nobody knows which of its environments killed it. Each of their episodes then runs alone in a
    process, so that a simulator that always dies takes no episode but its own along.
    """

    def __init__(
        self, suite: Suite, workers: int, width: int, view: View | None = None, silence: float = SILENCE_SECONDS
    ) -> None:
        """Start the workers.

        Args:
            suite: the suite of all episodes.
            workers: processes.
            width: slots of each; fewer where the suite's environments are large.
            view: what the policies look at; default: each task's whole state and a black camera.
            silence: seconds after which a worker that does not answer is killed: its simulator hangs.
        """
        self.width = width_of(suite, workers, width)
        self._silence = silence
        self._suite, self._view = suite, view
        self._context = multiprocessing.get_context("spawn")
        self._workers = [self._spawn() for _ in range(workers)]
        self._suspects: set[Episode] = set()
        self._crashes: Counter[Episode] = Counter()
        self._ended = self._given_up = 0

    def run(self, episodes: Sequence[Episode], policy: Policy, heard: Callable[[Round], None]) -> None:
        """Run episodes to their end.

        Which episodes share a batch depends on ``episodes`` alone, never on how fast a worker is.

        Args:
            episodes: each at most once.
            policy: asked once for every round of a worker.
            heard: told of every round, before the policy. It may raise to stop; the pool is of no use then.

        Raises:
            UserError: a worker says that this task cannot be run.
            FlowstillError: every simulator dies.
        """
        self._suspects.clear()
        self._crashes.clear()
        self._ended = self._given_up = 0
        for number, worker in enumerate(self._workers):
            worker.remaining = dict.fromkeys(episodes[number :: len(self._workers)])
            self._begin(worker)
        while busy := {w.connection: w for w in self._workers if w.remaining}:
            ready = wait(list(busy), timeout=self._silence)
            for connection in ready:
                worker = busy[connection]  # type: ignore[index]
                try:
                    answer: Round | UserError = worker.connection.recv()
                except (EOFError, ConnectionResetError):
                    heard(self._recover(worker))
                    continue
                if isinstance(answer, UserError):
                    raise answer
                self._take(worker, answer, policy, heard)
            for worker in busy.values():
                if time.monotonic() - worker.asked > self._silence:
                    worker.process.kill()  # that it died is heard as of any other

    def _take(self, worker: _Worker, answer: Round, policy: Policy, heard: Callable[[Round], None]) -> None:
        for outcome in answer.outcomes:
            worker.remaining.pop(outcome.episode)
            self._ended += 1
        for error in answer.errors:
            worker.remaining.pop(error.episode)
        worker.active = [episode for episode, _ in answer.waiting]
        heard(answer)
        if answer.waiting:
            _send(worker, policy(answer))
        else:
            self._begin(worker)

    def _begin(self, worker: _Worker) -> None:
        """Let it run what remains: first each suspect alone, then all others."""
        alone = next((episode for episode in worker.remaining if episode in self._suspects), None)
        episodes = list(worker.remaining) if alone is None else [alone]
        worker.active = episodes[: self.width]
        if episodes:
            _send(worker, episodes)

    def _recover(self, worker: _Worker) -> Round:
        """A worker died (a simulator can): replace it; give up the episode that was alone in it too often."""
        worker.process.join()
        message = f"the simulator's process ended with {worker.process.exitcode}"
        lost: tuple[Episode, ...] = ()
        self._suspects.update(worker.active)
        if len(worker.active) == 1:
            [culprit] = worker.active
            self._crashes[culprit] += 1
            if self._crashes[culprit] >= ATTEMPTS:
                worker.remaining.pop(culprit)
                lost = (culprit,)
                self._given_up += 1
        if self._given_up >= HOPELESS and not self._ended:
            raise FlowstillError(f"{self._given_up} episodes were tried {ATTEMPTS} times each, and {message}")
        fresh = self._spawn()
        worker.process, worker.connection = fresh.process, fresh.connection
        self._begin(worker)
        return Round((), {}, errors=tuple(EpisodeError(episode, message) for episode in lost))

    def _spawn(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs, self._suite, self._view, self.width), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.connection.close()
            worker.process.terminate()
            worker.process.join()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _send(worker: _Worker, request: Sequence[Episode] | Floats) -> None:
    worker.asked = time.monotonic()
    # To a worker that died meanwhile nothing can be said; that it died is heard when its answer is awaited.
    with suppress(BrokenPipeError, ConnectionResetError):
        worker.connection.send(request)


def policy_threads() -> int:
    """Threads of a policy on the CPU: half the cores, for simulators use the other half meanwhile."""
    return max(1, usable_cores() // 2)


def pool_size(episodes: int, suite: Suite) -> tuple[int, int]:
    """Worker processes for so many episodes of a suite, and slots of each."""
    workers = max(1, min(usable_cores(), MAX_WORKERS, episodes))
    return workers, width_of(suite, workers, min(BATCH, -(-episodes // workers)))


def width_of(suite: Suite, workers: int, width: int) -> int:
    """Slots of each of so many workers: ``width``, or fewer where the suite's environments are large."""
    return max(1, min(width, suite.most_environments // workers))


def stacked(rows: Sequence[dict[str, Any]]) -> Observation:
    """Observations of single environments as one batch."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
