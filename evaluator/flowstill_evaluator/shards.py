"""Which episodes a shard runs: every N-th of the list, so that each shard has some of every task.

An episode comes out the same in whatever shard it runs: its seed and its noise are keyed by its own name
(:mod:`flowstill.policies.noise`), and policies are called with as many rows however many episodes there are
(:data:`flowstill_evaluator.lockstep.BATCH`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flowstill.api.children import RolloutsTask
from flowstill.errors import UserError
from flowstill_evaluator.records import Episode, episodes_of

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""What Kubernetes tells each pod of an Indexed Job."""


@dataclass(frozen=True)
class Shard:
    """One of ``of`` shards; ``index`` from 0."""

    index: int = 0
    of: int = 1

    def slice(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Its share of all episodes."""
        return list(episodes[self.index :: self.of])


def shard_of(task: RolloutsTask, environment: Mapping[str, str]) -> Shard:
    """The shard that this process is.

    Raises:
        UserError: there are several, and nobody said which.
    """
    of = task.shards
    if of == 1:
        return Shard()
    text = environment.get(INDEX_VARIABLE, "")
    if not text.isdecimal() or int(text) >= of:
        raise UserError(
            f"this evaluation has {of} shards, and {INDEX_VARIABLE} is {text!r}: set it to the number of this shard, "
            f"0 to {of - 1}, as an Indexed Job does",
            reason="NoShard",
        )
    return Shard(int(text), of)


def episodes_in_round(task: RolloutsTask) -> list[Episode]:
    """All episodes of a round, of which shards take their shares."""
    evaluation = task.evaluation
    return episodes_of(evaluation.tasks, task.episodes_per_task, evaluation.seed, task.first_episode)
