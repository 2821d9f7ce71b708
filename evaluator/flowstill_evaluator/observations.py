"""Observations that no arm was scored on: for parity, fidelity, latency and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowstill.errors import FlowstillError
from flowstill_evaluator.lockstep import Policy, Round, WorkerPool, stacked
from flowstill_evaluator.records import Episode, episodes_of
from flowstill_evaluator.suites.interface import Environment, Observation, Suite, View
from flowstill_evaluator.suites.registry import rename

_PER_EPISODE = 4
_STEPS_BETWEEN = 5


@dataclass(frozen=True)
class Batch:
    """N observations by the policy's names, and the sentence of each."""

    features: dict[str, npt.NDArray[Any]]
    sentences: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sentences)

    def rows(self, index: Sequence[int] | npt.NDArray[np.int64]) -> dict[str, Any]:
        """Some of them, as a runner takes them."""
        chosen = np.asarray(index)
        picked: dict[str, Any] = {name: value[chosen] for name, value in self.features.items()}
        return {**picked, "task": [self.sentences[i] for i in chosen]}

    def save(self, path: Path) -> None:
        """Write an npz file, whole or not at all."""
        temporary = path.with_name(path.name + ".part.npz")
        np.savez(temporary, sentences=np.array(self.sentences), **self.features)  # type: ignore[arg-type]
        temporary.replace(path)

    @staticmethod
    def load(path: Path) -> Batch:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            features = {name: stored[name] for name in stored.files if name != "sentences"}
            return Batch(features, tuple(str(s) for s in stored["sentences"]))


def near_resets(
    suite: Suite,
    instructions: Mapping[str, str],
    rename_map: Mapping[str, str],
    *,
    view: View | None = None,
    count: int,
    seed: int,
    first: int,
) -> Batch:
    """Initial observations, and some a few random actions later.

    Args:
        suite: of the environments.
        instructions: sentence of each task; the tasks take turns.
        rename_map: the environment's feature names → the policy's.
        view: what the policy looks at; default: each task's whole state and a black camera.
        count: observations.
        seed: of the evaluation.
        first: index of the first episode to use.
    """
    environments = {
        task: suite.environment(task, view) for task in list(instructions)[: min(count, suite.most_environments)]
    }
    rows: list[tuple[Observation, str]] = []
    generator = np.random.default_rng([seed, first])
    index = first
    while len(rows) < count:
        for episode in episodes_of(list(environments), 1, seed, index):
            seen = _walk(environments[episode.task], episode.seed, generator)
            rows.extend((rename(one, rename_map), instructions[episode.task]) for one in seen)
        index += 1
    for environment in environments.values():
        environment.close()
    rows = [rows[i] for i in _spread(len(rows), count)]
    return Batch(stacked([seen for seen, _ in rows]), tuple(sentence for _, sentence in rows))


def _walk(environment: Environment, seed: int, generator: np.random.Generator) -> list[Observation]:
    seen = [environment.reset(seed)]
    for _ in range(_PER_EPISODE - 1):
        action = environment.offer.random_action(generator)
        for _ in range(_STEPS_BETWEEN):
            step = environment.step(action)
            if step.done:
                return seen
        seen.append(environment.observe())
    return seen


def on_the_way(
    pool: WorkerPool,
    policy: Policy,
    instructions: Mapping[str, str],
    rename_map: Mapping[str, str],
    *,
    count: int,
    seed: int,
    first: int,
) -> Batch:
    """Observations at which a policy asks for a chunk, from episodes of its own (``first`` on).

    As many episodes are run as it takes: a policy that executes long chunks asks once or twice in each.

    Raises:
        FlowstillError: there are too few, for environments broke.
    """
    tasks = list(instructions)
    per_task = -(-count // (len(tasks) * _PER_EPISODE))
    seen: dict[tuple[Episode, int], Observation] = {}
    failures: list[str] = []

    def listen(answer: Round) -> None:
        failures.extend(error.message for error in answer.errors)
        for row, key in enumerate(answer.waiting):
            seen[key] = {name: value[row] for name, value in answer.observations.items()}

    end = first + count  # every episode has an observation, its first
    while len(seen) < count and first < end:
        more = min(per_task, end - first)
        pool.run(episodes_of(tasks, more, seed, first), policy, listen)
        first += more
    keys = sorted(seen, key=lambda key: (key[0].task, key[0].index, key[1]))
    if len(keys) < count:
        why = f"; the simulator says: {failures[0]}" if failures else ""
        raise FlowstillError(f"only {len(keys)} of {count} held-out observations could be made{why}")
    keys = [keys[i] for i in _spread(len(keys), count)]
    sentences = tuple(instructions[episode.task] for episode, _ in keys)
    return Batch(stacked([rename(seen[key], rename_map) for key in keys]), sentences)


def _spread(available: int, count: int) -> list[int]:
    return [int(i) for i in np.linspace(0, available - 1, min(count, available)).round()]
