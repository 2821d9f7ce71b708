"""What the gates share: how a result is made, and how numbers are said."""

import math
from typing import Literal

import numpy as np

from flowstill.api.gates import GateName
from flowstill.api.studentrollout import GateResult, Interval, Verdict
from flowstill_evaluator.evidence import Gap, TwoSamples
from flowstill_evaluator.statistics import Bounds

MAX_MESSAGE = 512


def decided(
    name: GateName,
    verdict: Verdict,
    message: str,
    *,
    measured: float,
    threshold: float,
    samples: int,
    bounds: Bounds | None = None,
) -> GateResult:
    """A gate's result. What is not finite was not measured, and what was not measured never passes."""
    numbers = [measured, threshold, *((bounds.low, bounds.high) if bounds else ())]
    if not all(math.isfinite(number) for number in numbers):
        return inconclusive(name, Gap("the measurement is not a finite number; look at the records"), threshold)
    return GateResult(
        name=name,
        gate_class=_gate_class(name),
        verdict=verdict,
        measured=significant(measured),
        threshold=significant(threshold),
        interval=Interval(low=significant(bounds.low), high=significant(bounds.high)) if bounds else None,
        samples=samples,
        message=shortened(message, MAX_MESSAGE),
    )


def inconclusive(name: GateName, gap: Gap, threshold: float, samples: int = 0) -> GateResult:
    """A gate that has nothing to judge. Missing evidence is never a pass."""
    return GateResult(
        name=name,
        gate_class=_gate_class(name),
        verdict="Inconclusive",
        threshold=significant(threshold),
        samples=samples,
        message=shortened(f"Not judged: {gap.why}.", MAX_MESSAGE),
    )


def usable(samples: TwoSamples | Gap, least: int, what: str) -> TwoSamples | Gap:
    """The samples when each arm has at least ``least`` finite ones, else why not."""
    if isinstance(samples, Gap):
        return samples
    have = min(len(samples.student), len(samples.baseline))
    if have < least:
        return Gap(f"{have:,} {what} of an arm, {least:,} are asked for")
    if not (np.isfinite(samples.student).all() and np.isfinite(samples.baseline).all()):
        return Gap(f"some {what} are not finite numbers")
    return samples


def by_bounds(bounds: Bounds, limit: float) -> Verdict:
    """Pass when the upper bound is within the limit, Fail when the lower one is beyond it."""
    if bounds.high <= limit:
        return "Pass"
    return "Fail" if bounds.low > limit else "Inconclusive"


def _gate_class(name: GateName) -> Literal["safety", "performance"]:
    return "safety" if name.startswith("S") else "performance"


def significant(number: float) -> float:
    """Rounded to five significant digits: a status is read by people and is short of room."""
    return float(f"{number:.5g}")


def shortened(text: str, limit: int) -> str:
    """The text, cut at a word with an ellipsis when it is longer than ``limit`` characters."""
    if len(text) <= limit:
        return text
    if limit < 2:
        return ""
    cut = text[: limit - 1]
    return (cut.rsplit(" ", 1)[0] if " " in cut[limit // 2 :] else cut) + "…"


def points(proportion: float) -> str:
    """A difference of proportions in percentage points, signed, with a real minus."""
    rounded = round(100.0 * proportion, 1)
    return f"{rounded:+.1f}".replace("-", "−") if rounded else "0.0"


def percent(successes: int, trials: int) -> str:
    """Such as ``175 of 200 (87.5 %)``."""
    return f"{successes} of {trials} ({100.0 * successes / trials:.1f} %)"
