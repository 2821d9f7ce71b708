"""Paired non-inferiority against a margin: what P1 does once and S3 for every task."""

from flowstill.api.studentrollout import Verdict
from flowstill_evaluator.statistics import LEVEL, Bounds, PairCounts, noninferior_p


def within_margin(counts: PairCounts, bounds: Bounds, margin: float) -> Verdict:
    """Pass: lower bound and exact test exclude a loss of ``margin``. Fail: the upper bound is beyond it.

    The score interval's true level is a little off when pairs are few, so up to 400 of them a pass needs
    the exact test as well (:func:`flowstill_evaluator.statistics.noninferior_p`).
    """
    if bounds.low > -margin and noninferior_p(counts, margin) <= LEVEL:
        return "Pass"
    return "Fail" if bounds.high < -margin else "Inconclusive"
