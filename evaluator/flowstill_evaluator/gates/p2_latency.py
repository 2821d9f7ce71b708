"""P2: the served runtime answers in time, at the slow end."""

from flowstill.api.gates import LatencyLimits
from flowstill.api.studentrollout import GateResult
from flowstill_evaluator.evidence import Evidence, Gap
from flowstill_evaluator.gates.base import by_bounds, decided, inconclusive, usable
from flowstill_evaluator.statistics import percentile_ratio_interval, percentile_value

PERCENTILE = 0.99


def p2_latency(evidence: Evidence, limits: LatencyLimits) -> GateResult:
    """Upper 95 % bound of the ratio of p99 latencies."""
    latency = usable(evidence.latency, limits.min_calls, "timed calls")
    if isinstance(latency, Gap):
        return inconclusive("P2", latency, limits.max_ratio)
    calls = min(len(latency.student), len(latency.baseline))
    student = percentile_value(latency.student, PERCENTILE)
    baseline = percentile_value(latency.baseline, PERCENTILE)
    bounds = percentile_ratio_interval(latency.student, latency.baseline, PERCENTILE)
    verdict = by_bounds(bounds, limits.max_ratio)
    ending = {
        "Pass": f"the upper bound is within {limits.max_ratio:g}.",
        "Fail": f"beyond {limits.max_ratio:g}.",
        "Inconclusive": f"the interval spans {limits.max_ratio:g}; more timed calls would narrow it.",
    }[verdict]
    return decided(
        "P2",
        verdict,
        f"p99 {student:.3g} ms against {baseline:.3g} ms: {student / baseline:.3g} times the baseline's "
        f"({bounds.low:.3g} to {bounds.high:.3g}); {ending}",
        measured=student / baseline,
        threshold=limits.max_ratio,
        samples=calls,
        bounds=bounds,
    )
