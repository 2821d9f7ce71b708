"""A rate of bad episodes, against an absolute limit and against the baseline's: what S1 and P6 do."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flowstill.api.gates import GateName
from flowstill.api.studentrollout import GateResult, Verdict
from flowstill_evaluator.evidence import Expected
from flowstill_evaluator.gates.base import decided
from flowstill_evaluator.statistics import (
    LEVEL,
    Bounds,
    PairCounts,
    count_pairs,
    mcnemar_greater,
    proportion_bounds,
    rate_above_p,
)

_MOST_NEEDED = 200


@dataclass(frozen=True)
class Look:
    """What the present look may spend of the level, and whether another can follow."""

    level: float
    last: bool

    @classmethod
    def of(cls, expected: Expected) -> "Look":
        """The present look of an evaluation."""
        return cls(expected.level(LEVEL), expected.last_look)


def judge_rate(
    name: GateName,
    student_N: npt.NDArray[np.bool_],
    baseline_N: npt.NDArray[np.bool_],
    limit: float,
    what: str,
    look: Look,
) -> GateResult:
    """Fail above ``limit`` per 100 episodes, or when a paired one-sided test shows more than the baseline's.

    While more episodes can follow, a rate above the limit fails when it is shown (exact binomial test) and is
    open otherwise. With so few episodes that a single bad one would exceed the limit, none at all says
    little: Inconclusive.
    """
    counts = count_pairs(student_N, baseline_N)
    verdict, ending = _judged(counts, limit, look)
    bounds = proportion_bounds(counts.student, counts.pairs, look.level)
    return decided(
        name,
        verdict,
        f"{counts.student} of {counts.pairs} episodes {what}, the baseline's {counts.baseline}: {ending}",
        measured=100.0 * counts.student / counts.pairs,
        threshold=limit,
        samples=counts.pairs,
        bounds=Bounds(100.0 * bounds.low, 100.0 * bounds.high),
    )


def _judged(counts: PairCounts, limit: float, look: Look) -> tuple[Verdict, str]:
    rate, needed = 100.0 * counts.student / counts.pairs, episodes_needed(limit)
    more = mcnemar_greater(counts.gained, counts.lost)
    if more <= look.level:
        return "Fail", f"more than the baseline (exact paired test, p = {more:.2g})."
    if rate > limit:
        shown = rate_above_p(counts.student, counts.pairs, limit / 100.0) <= look.level
        if look.last or shown:
            return "Fail", f"{rate:.2g} per 100, above the limit of {limit:g}."
        return "Inconclusive", f"{rate:.2g} per 100, above the limit of {limit:g}, perhaps by chance."
    if counts.pairs < needed:
        return "Inconclusive", f"too few to show {limit:g} per 100; it takes {needed} episodes."
    return "Pass", f"within {limit:g} per 100, not shown to be more (p = {more:.2f})."


def episodes_needed(limit: float) -> int:
    """Episodes among which a single bad one is within ``limit`` per 100; at most 200, for limits near 0."""
    return _MOST_NEEDED if limit * _MOST_NEEDED < 100.0 else math.ceil(100.0 / limit)
