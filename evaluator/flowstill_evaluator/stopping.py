"""Whether an evaluation is over, or how many episodes of every task it takes before the next look."""

from collections.abc import Collection

from flowstill.api.gates import GateName, Gates
from flowstill.api.studentrollout import Evaluation
from flowstill_evaluator.evidence import Evidence, Gap
from flowstill_evaluator.gates.chain import run_gates
from flowstill_evaluator.looks import schedule

GROWING = frozenset({"S1", "S2", "S3", "P1", "P5", "P6"})
"""Gates that more episodes can decide. Latency, memory and fidelity are measured apart, once."""


def looks_of(evaluation: Evaluation) -> tuple[int, ...]:
    """Numbers of episodes per task at which this evaluation is judged; ``Expected.looks`` of its evidence."""
    return schedule(evaluation.episodes_per_task, evaluation.most_episodes_per_task)


def wanted(evidence: Evidence, gates: Gates, overridden: Collection[GateName] = ()) -> int:
    """How many episodes of every task, in all, should have been run before the evidence is judged again.

    ``evidence`` is that of ``evidence.expected.episodes_per_task`` episodes per task, one of
    ``evidence.expected.looks``. The present number means: stop. So it is when a gate failed (that is final),
    when no growing gate is open that has something to judge, when the pairs have a gap (the same simulators
    would leave another), and at the last look. What was not measured yet, such as the latency, neither stops
    nor prolongs.

    Args:
        evidence: everything measured so far.
        gates: the limits to judge by.
        overridden: performance gates that somebody answers for; they neither stop nor prolong.

    Returns:
        The present number, or the next of the looks.
    """
    present = evidence.expected.episodes_per_task
    later = [look for look in evidence.expected.looks if look > present]
    if not later or isinstance(evidence.pairs, Gap):
        return present
    results = [result for result in run_gates(evidence, gates) if result.name not in overridden]
    if any(result.verdict == "Fail" for result in results):
        return present
    open_ = {result.name for result in results if result.verdict == "Inconclusive"} & GROWING
    if isinstance(evidence.velocity, Gap):
        open_ -= {"S2"}
    return later[0] if open_ else present
