"""S1: the student does not run into action limits more often than the baseline."""

from flowstill.api.gates import ClampLimits
from flowstill.api.studentrollout import GateResult
from flowstill_evaluator.evidence import Evidence, Gap
from flowstill_evaluator.gates.base import inconclusive
from flowstill_evaluator.gates.rates import Look, judge_rate
from flowstill_evaluator.gates.tasks import with_clamps


def s1_clamp(evidence: Evidence, limits: ClampLimits) -> GateResult:
    """Episodes with a clamped action, per 100; an episode counts once however often it clamped."""
    pairs = with_clamps(evidence)
    if isinstance(pairs, Gap):
        return inconclusive("S1", pairs, limits.max_per_hundred)
    look = Look.of(evidence.expected)
    return judge_rate(
        "S1", pairs.student_clamped, pairs.baseline_clamped, limits.max_per_hundred, "clamped an action", look
    )
