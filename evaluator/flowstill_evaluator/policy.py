"""A runner as the policy of a lockstep round: names, noise and batch as every arm gets them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flowstill.errors import UserError
from flowstill.policies.interface import Runner
from flowstill.policies.noise import episode_noise
from flowstill_evaluator.lockstep import Round
from flowstill_evaluator.records import Floats
from flowstill_evaluator.suites.registry import rename


class BatchedPolicy:
    """One call of the runner for all waiting slots of a round."""

    def __init__(
        self,
        runner: Runner,
        arm: str,
        *,
        seed: int,
        action_steps: int,
        width: int,
        instructions: Mapping[str, str],
        rename_map: Mapping[str, str],
    ) -> None:
        """Prepare a policy.

        Args:
            runner: what acts.
            arm: its name, for messages.
            seed: of the evaluation.
            action_steps: steps of a chunk to execute, A.
            width: rows of every call, at least the slots of a worker. Batches are filled up to it, because a matrix
                product may round a row differently in a batch of another size: an episode must not depend on how many
                run beside it.
            instructions: sentence of each task.
            rename_map: the environment's feature names → the policy's.
        """
        self._runner, self._arm = runner, arm
        self._seed, self._action_steps, self._width = seed, action_steps, width
        self._instructions, self._rename_map = instructions, rename_map

    def __call__(self, waiting: Round) -> Floats:
        """Actions (W, A, D) in the environment's units.

        Raises:
            UserError: the policy gave a number that is not finite, or too few action dimensions or steps.
        """
        info = self._runner.info
        count = len(waiting.waiting)
        rows = np.resize(np.arange(count), max(self._width, count))
        noise = np.stack(
            [
                episode_noise(self._seed, e.task, e.index, chunk, info.draws, info.chunk_size, info.padded_action_dim)
                for e, chunk in waiting.waiting
            ]
        )
        sentences = [self._instructions[episode.task] for episode, _ in waiting.waiting]
        seen = {name: value[rows] for name, value in rename(waiting.observations, self._rename_map).items()}
        chunks = self._runner.act({**seen, "task": [sentences[row] for row in rows]}, noise[rows])
        actions: Floats = chunks.actions_BHA[:count, : self._action_steps].astype(np.float32, copy=False)
        if not np.isfinite(actions).all():
            episode, chunk = waiting.waiting[int(np.argwhere(~np.isfinite(actions))[0, 0])]
            raise UserError(
                f"arm {self._arm} gave an action that is not finite (task {episode.task}, "
                f"episode {episode.index}, chunk {chunk}); this policy cannot be used",
                reason="NonFiniteActions",
            )
        return actions
