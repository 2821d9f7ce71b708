"""The literal profile: nine comparisons of point estimates with fixed numbers, without margins for chance.

They are there to be compared with, and for those who are bound to them. An equal student passes P1 half the
time at best, and the other gates less the more tasks there are (docs/gates.md has the figures). What is
missing, short or not finite is Inconclusive here as well; everything else is decided at the first look.
"""

import numpy as np

from flowstill.api.gates import LITERAL_SAFETY, GateName, Gates
from flowstill.api.studentrollout import GateResult
from flowstill_evaluator.evidence import MIN_VELOCITY_ROWS, Evidence, Gap, Pairs
from flowstill_evaluator.gates.base import decided, inconclusive, percent, points, usable
from flowstill_evaluator.gates.p2_latency import PERCENTILE
from flowstill_evaluator.gates.p4_fidelity import measured_fidelity
from flowstill_evaluator.gates.s2_velocity import joint_distances
from flowstill_evaluator.gates.tasks import TaskComparison, compare_tasks, paired
from flowstill_evaluator.statistics import PairCounts, count_pairs, percentile_value, wilson

CLAMP_RATIO = 1.1
CLAMPS_PER_HUNDRED = LITERAL_SAFETY["s1"]
VELOCITY_DISTANCE = LITERAL_SAFETY["s2"]
TASK_DROP = LITERAL_SAFETY["s3"]
TASK_BOUND_DROP = 0.03
LATENCY_RATIO = 1.10
MEMORY_RATIO = 1.0
COSINE = 0.85

_ROUNDING = 1e-9


def literal_gates(evidence: Evidence, gates: Gates) -> list[GateResult]:
    """All nine, in their usual order; of ``gates`` only how much had to be measured counts."""
    pairs = paired(evidence)
    return [
        s1_literal(pairs),
        s2_literal(evidence),
        s3_literal(pairs),
        p1_literal(pairs),
        p2_literal(evidence, gates.p2.min_calls),
        p3_literal(evidence, gates.p3.processes),
        p4_literal(evidence, gates),
        p5_literal(pairs),
        p6_literal(pairs),
    ]


def s1_literal(pairs: Pairs | Gap) -> GateResult:
    """Episodes with a clamped action: at most 2 per 100, and at most 1.1 times the baseline's."""
    if isinstance(pairs, Gap):
        return inconclusive("S1", pairs, CLAMPS_PER_HUNDRED)
    counts = count_pairs(pairs.student_clamped, pairs.baseline_clamped)
    limit = min(CLAMPS_PER_HUNDRED, CLAMP_RATIO * _per_hundred(counts.baseline, counts))
    return _rate("S1", counts, limit, "clamped an action")


def s2_literal(evidence: Evidence) -> GateResult:
    """The joint that shifted most, by Wasserstein-1 in units of the baseline's spread."""
    velocity = usable(evidence.velocity, MIN_VELOCITY_ROWS, "samples of the joints")
    if isinstance(velocity, Gap):
        return inconclusive("S2", velocity, VELOCITY_DISTANCE)
    joint, distance = max(joint_distances(velocity).items(), key=lambda item: item[1])
    saying = f"Largest shift: {joint}, {distance:.3f} of the baseline's spread"
    return _at_most("S2", distance, VELOCITY_DISTANCE, saying, len(velocity.student))


def s3_literal(pairs: Pairs | Gap) -> GateResult:
    """No task's success drops by more than 5 points."""
    if isinstance(pairs, Gap):
        return inconclusive("S3", pairs, -TASK_DROP)
    worst = min(compare_tasks(pairs), key=lambda task: task.counts.difference)
    saying = f"{worst.task}: {points(worst.counts.difference)} points"
    return _at_least("S3", worst.counts.difference, -TASK_DROP, saying, len(pairs))


def p1_literal(pairs: Pairs | Gap) -> GateResult:
    """The Wilson lower bound of aggregate success is not below the baseline's."""
    if isinstance(pairs, Gap):
        return inconclusive("P1", pairs, 0.0)
    counts = pairs.success()
    saying = f"{percent(counts.student, counts.pairs)} succeed, the baseline {percent(counts.baseline, counts.pairs)}"
    return _at_least("P1", _bound_difference(counts), 0.0, f"{saying}: difference of lower bounds", counts.pairs)


def p2_literal(evidence: Evidence, calls: int) -> GateResult:
    """Ratio of p99 latencies."""
    latency = usable(evidence.latency, calls, "timed calls")
    if isinstance(latency, Gap):
        return inconclusive("P2", latency, LATENCY_RATIO)
    ratio = percentile_value(latency.student, PERCENTILE) / percentile_value(latency.baseline, PERCENTILE)
    return _at_most("P2", ratio, LATENCY_RATIO, f"p99 is {ratio:.3g} times the baseline's", len(latency.student))


def p3_literal(evidence: Evidence, processes: int) -> GateResult:
    """Ratio of medians of resident memory."""
    memory = usable(evidence.memory, processes, "measured processes")
    if isinstance(memory, Gap):
        return inconclusive("P3", memory, MEMORY_RATIO)
    ratio = float(np.median(memory.student) / np.median(memory.baseline))
    return _at_most("P3", ratio, MEMORY_RATIO, f"Memory is {ratio:.3g} times the baseline's", len(memory.student))


def p4_literal(evidence: Evidence, gates: Gates) -> GateResult:
    """Mean cosine to the nearest teacher chunk."""
    fidelity = measured_fidelity(evidence, gates.p4)
    if isinstance(fidelity, Gap):
        return inconclusive("P4", fidelity, COSINE)
    mean = float(np.mean(fidelity.cosine))
    return _at_least("P4", mean, COSINE, f"Cosine to the nearest teacher chunk {mean:.3f}", len(fidelity.cosine))


def p5_literal(pairs: Pairs | Gap) -> GateResult:
    """No task's Wilson lower bound is more than 3 points below the baseline's."""
    if isinstance(pairs, Gap):
        return inconclusive("P5", pairs, -TASK_BOUND_DROP)

    def drop(task: TaskComparison) -> float:
        return _bound_difference(task.counts)

    worst = min(compare_tasks(pairs), key=drop)
    saying = f"{worst.task}: {points(drop(worst))} points between the lower bounds"
    return _at_least("P5", drop(worst), -TASK_BOUND_DROP, saying, len(pairs))


def p6_literal(pairs: Pairs | Gap) -> GateResult:
    """Episodes that both failed and clamped: no more than the baseline's."""
    if isinstance(pairs, Gap):
        return inconclusive("P6", pairs, 0.0)
    counts = count_pairs(
        pairs.student_clamped & ~pairs.student_success, pairs.baseline_clamped & ~pairs.baseline_success
    )
    return _rate("P6", counts, _per_hundred(counts.baseline, counts), "both failed and clamped")


def _bound_difference(counts: PairCounts) -> float:
    return wilson(counts.student, counts.pairs).low - wilson(counts.baseline, counts.pairs).low


def _per_hundred(events: int, counts: PairCounts) -> float:
    return 100.0 * events / counts.pairs


def _rate(name: GateName, counts: PairCounts, limit: float, what: str) -> GateResult:
    saying = f"{counts.student} of {counts.pairs} episodes {what}, the baseline's {counts.baseline}"
    return _at_most(name, _per_hundred(counts.student, counts), limit, saying, counts.pairs)


def _at_most(name: GateName, measured: float, limit: float, saying: str, samples: int) -> GateResult:
    return _compared(name, measured <= limit + _ROUNDING, measured, limit, f"{saying}; at most", samples)


def _at_least(name: GateName, measured: float, limit: float, saying: str, samples: int) -> GateResult:
    return _compared(name, measured >= limit - _ROUNDING, measured, limit, f"{saying}; at least", samples)


def _compared(name: GateName, holds: bool, measured: float, limit: float, saying: str, samples: int) -> GateResult:
    message = f"{saying} {limit:.4g} is asked for, as a point estimate."
    return decided(name, "Pass" if holds else "Fail", message, measured=measured, threshold=limit, samples=samples)
