"""What an evaluation can decide with the episodes it may run, said before the first of them is run."""

import math
from dataclasses import dataclass

from flowstill.api.gates import GateName, Gates
from flowstill.api.studentrollout import Evaluation
from flowstill_evaluator.gates.rates import episodes_needed
from flowstill_evaluator.looks import level_of
from flowstill_evaluator.statistics import LEVEL, pairs_to_pass
from flowstill_evaluator.stopping import looks_of

POWER = 0.90
DISCORDANCE = 0.05
"""Share of pairs that end differently although the student is as good: what faithful students were measured to
have against a teacher that solves 83 to 97 % (docs/gates.md). Arms that share nothing have 2 p (1 − p)."""

LITERAL = (
    "spec.gates.profile literal judges point estimates: an equal student passes P1 about half the time, and all gates "
    "more seldom the more tasks there are, however many episodes are run"
)


@dataclass(frozen=True)
class Need:
    """Episodes of every task with which a gate passes an equal student as often as :data:`POWER` says."""

    gate: GateName
    limit: float
    episodes_per_task: int


def needs(tasks: int, gates: Gates, level: float = LEVEL, discordance: float = DISCORDANCE) -> list[Need]:
    """What every gate takes that asks for paired episodes, by the order of the gates.

    Args:
        tasks: their number. P1, S1 and P6 look at all episodes together; S3 at every task, and all of them have
            to pass.
        gates: the limits.
        level: one-sided level of the last look.
        discordance: share of pairs that end differently.
    """
    every_task = POWER ** (1.0 / tasks)
    return [
        Need("S1", gates.s1.max_per_hundred, _each(episodes_needed(gates.s1.max_per_hundred), tasks)),
        Need("S3", gates.s3.margin, pairs_to_pass(gates.s3.margin, discordance, every_task, level)),
        Need("P1", gates.p1.margin, _each(pairs_to_pass(gates.p1.margin, discordance, POWER, level), tasks)),
        Need("P6", gates.p6.max_per_hundred, _each(episodes_needed(gates.p6.max_per_hundred), tasks)),
    ]


def warning(evaluation: Evaluation, gates: Gates) -> str | None:
    """What the evaluation can probably not decide however good the student is, and what it would take; or None."""
    if gates.profile == "literal":
        return LITERAL
    tasks, most = len(set(evaluation.tasks)), evaluation.most_episodes_per_task
    looks = looks_of(evaluation)
    short = [n for n in needs(tasks, gates, level_of(looks, looks[-1], LEVEL)) if n.episodes_per_task > most]
    if not short:
        return None
    named = ", ".join(f"{n.gate} ({n.limit:g}) about {n.episodes_per_task:,}" for n in short)
    return (
        f"at most {most:,} episodes of each of {tasks} tasks are too few to be sure of a verdict, even of a student "
        f"that is as good: {named} a task, for {100 * POWER:g} % of such students and {100 * DISCORDANCE:g} % of pairs "
        "that differ; raise spec.evaluation.maxEpisodesPerTask or the margins"
    )


def _each(episodes: int, tasks: int) -> int:
    return math.ceil(episodes / tasks)
