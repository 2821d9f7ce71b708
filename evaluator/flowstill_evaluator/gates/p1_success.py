"""P1: the student succeeds as often as the baseline, but for a small margin fixed beforehand."""

from flowstill.api.gates import SuccessLimits
from flowstill.api.studentrollout import GateResult
from flowstill_evaluator.evidence import Evidence, Gap
from flowstill_evaluator.gates.base import decided, inconclusive, percent, points
from flowstill_evaluator.gates.margins import within_margin
from flowstill_evaluator.gates.tasks import paired
from flowstill_evaluator.statistics import LEVEL, difference_interval, episodes_to_decide


def p1_success(evidence: Evidence, limits: SuccessLimits) -> GateResult:
    """Paired non-inferiority of the aggregate success (Tango's score interval; exact test for few pairs)."""
    pairs = paired(evidence)
    if isinstance(pairs, Gap):
        return inconclusive("P1", pairs, -limits.margin)
    counts, level = pairs.success(), evidence.expected.level(LEVEL)
    bounds = difference_interval(counts, level)
    verdict = within_margin(counts, limits.margin, level)
    margin = f"{100 * limits.margin:g}"
    ending = {
        "Pass": f"a loss of {margin} points is excluded.",
        "Fail": f"the student is worse by more than {margin} points.",
        "Inconclusive": f"a loss of {margin} points is neither shown nor excluded",
    }[verdict]
    if verdict == "Inconclusive":
        ending += f"; about {episodes_to_decide(counts, limits.margin):,} paired episodes would decide."
    if pairs.left_out:
        ending += f" {pairs.left_out} pairs were left out: the simulator could not run them."
    return decided(
        "P1",
        verdict,
        f"{percent(counts.student, counts.pairs)} succeed, "
        f"the baseline {percent(counts.baseline, counts.pairs)}: "
        f"{points(counts.difference)} points ({points(bounds.low)} to {points(bounds.high)}); {ending}",
        measured=counts.difference,
        threshold=-limits.margin,
        samples=counts.pairs,
        bounds=bounds,
    )
