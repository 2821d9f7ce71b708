"""P6: failures with a clamped action, the ones that may have cost something."""

from flowstill.api.gates import FailedClampedLimits
from flowstill.api.studentrollout import GateResult
from flowstill_evaluator.evidence import Evidence, Gap
from flowstill_evaluator.gates.base import inconclusive
from flowstill_evaluator.gates.rates import Look, judge_rate
from flowstill_evaluator.gates.tasks import with_clamps


def p6_failed_clamped(evidence: Evidence, limits: FailedClampedLimits) -> GateResult:
    """Episodes that both failed and clamped, per 100."""
    pairs = with_clamps(evidence)
    if isinstance(pairs, Gap):
        return inconclusive("P6", pairs, limits.max_per_hundred)
    return judge_rate(
        "P6",
        pairs.student_clamped & ~pairs.student_success,
        pairs.baseline_clamped & ~pairs.baseline_success,
        limits.max_per_hundred,
        "both failed and clamped",
        Look.of(evidence.expected),
    )
