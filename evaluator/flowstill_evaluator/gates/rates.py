"""A rate of bad episodes, against an absolute limit and against the baseline's: what S1 and P6 do."""

import math

import numpy as np
import numpy.typing as npt

from flowstill.api.studentrollout import GateName, GateResult
from flowstill_evaluator.evidence import Gap
from flowstill_evaluator.gates.base import decided, inconclusive
from flowstill_evaluator.statistics import LEVEL, Bounds, count_pairs, mcnemar_greater, wilson

_MOST_NEEDED = 200


def judge_rate(
    name: GateName,
    student_N: npt.NDArray[np.bool_],
    baseline_N: npt.NDArray[np.bool_],
    limit: float,
    what: str,
) -> GateResult:
    """Fail above ``limit`` per 100 episodes, or when a paired one-sided test shows more than the baseline's.

    With so few episodes that a single bad one would exceed the limit, none at all says little: Inconclusive.
    """
    counts = count_pairs(student_N, baseline_N)
    if counts.pairs == 0:
        return inconclusive(name, Gap("there are no paired episodes"), limit)
    rate = 100.0 * counts.student / counts.pairs
    proportion = wilson(counts.student, counts.pairs, confidence=1.0 - 2.0 * LEVEL)
    p_value = mcnemar_greater(counts.gained, counts.lost)
    needed = episodes_needed(limit)
    saying = f"{counts.student} of {counts.pairs} episodes {what}, the baseline's {counts.baseline}"
    if rate > limit:
        verdict, message = "Fail", f"{saying}: {rate:.2g} per 100, above the limit of {limit:g}."
    elif p_value <= LEVEL:
        verdict, message = "Fail", f"{saying}: more than the baseline (exact paired test, p = {p_value:.3f})."
    elif counts.pairs < needed:
        verdict, message = (
            "Inconclusive",
            f"{saying}: too few to show {limit:g} per 100; it takes {needed} episodes.",
        )
    else:
        verdict, message = (
            "Pass",
            f"{saying}: within {limit:g} per 100, not shown to be more (p = {p_value:.2f}).",
        )
    return decided(
        name,
        verdict,  # type: ignore[arg-type]
        message,
        measured=rate,
        threshold=limit,
        samples=counts.pairs,
        bounds=Bounds(100.0 * proportion.low, 100.0 * proportion.high),
    )


def episodes_needed(limit: float) -> int:
    """Episodes among which a single bad one is within ``limit`` per 100; at most 200, for limits near 0."""
    return _MOST_NEEDED if limit * _MOST_NEEDED < 100.0 else math.ceil(100.0 / limit)
