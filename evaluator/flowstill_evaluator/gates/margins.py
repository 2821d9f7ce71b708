"""Paired non-inferiority against a margin: what P1 does once and S3 for every task."""

from flowstill.api.studentrollout import Verdict
from flowstill_evaluator.statistics import PairCounts, difference_interval, inferior_p, noninferior_p


def within_margin(counts: PairCounts, margin: float, level: float, claims: int = 1) -> Verdict:
    """Pass: a loss of ``margin`` is excluded. Fail: a loss beyond it is shown. Both at a one-sided ``level``.

    The score interval's true level is a little off when pairs are few, so the exact test decides with it
    (:func:`flowstill_evaluator.statistics.noninferior_p`).

    Args:
        counts: of the pairs.
        margin: the loss that would be too much, as a proportion of episodes.
        level: one-sided.
        claims: how many such failures could be claimed of the same evidence; the level is shared among
            them. A pass that needs all of them to pass needs no share.
    """
    if difference_interval(counts, level).low > -margin and noninferior_p(counts, margin) <= level:
        return "Pass"
    share = level / claims
    if difference_interval(counts, share).high < -margin and inferior_p(counts, margin) <= share:
        return "Fail"
    return "Inconclusive"
