"""P4: on observations nobody trained on, the student does what the teacher might do, in as many ways."""

import numpy as np

from flowstill.api.gates import FidelityLimits
from flowstill.api.studentrollout import GateResult
from flowstill_evaluator.evidence import Evidence, FidelityRecord, Gap
from flowstill_evaluator.gates.base import decided, inconclusive
from flowstill_evaluator.statistics import mean_interval


def p4_fidelity(evidence: Evidence, limits: FidelityLimits) -> GateResult:
    """Mean cosine to the nearest teacher chunk, and spread: a collapsed student passes the cosine alone."""
    return judge_fidelity(measured_fidelity(evidence, limits), limits)


def judge_fidelity(fidelity: FidelityRecord | Gap, limits: FidelityLimits) -> GateResult:
    """The same of figures that need not be those of an evaluation."""
    if isinstance(fidelity, Gap):
        return inconclusive("P4", fidelity, limits.min_cosine)
    cosine_N = np.array(fidelity.cosine)
    bounds, mean = mean_interval(cosine_N), float(cosine_N.mean())
    own = (
        f" (teacher on fresh noise {np.mean(fidelity.teacher_self_cosine):.3f})" if fidelity.teacher_self_cosine else ""
    )
    saying = (
        f"Cosine to the nearest teacher chunk {mean:.3f}{own}, {bounds.low:.3f} to {bounds.high:.3f}; "
        f"draws spread {fidelity.spread_ratio:.2f} of the teacher's"
    )
    if fidelity.spread_ratio < limits.min_spread_ratio:
        verdict, ending = "Fail", f"collapsed, {limits.min_spread_ratio:g} is the least."
    elif bounds.low >= limits.min_cosine:
        verdict, ending = "Pass", f"at least {limits.min_cosine:g} and {limits.min_spread_ratio:g}."
    elif bounds.high < limits.min_cosine:
        verdict, ending = "Fail", f"the cosine is below {limits.min_cosine:g}."
    else:
        verdict, ending = (
            "Inconclusive",
            f"the interval spans {limits.min_cosine:g}; raise gates.P4.observations.",
        )
    return decided(
        "P4",
        verdict,  # type: ignore[arg-type]
        f"{saying}: {ending}",
        measured=mean,
        threshold=limits.min_cosine,
        samples=len(cosine_N),
        bounds=bounds,
    )


def measured_fidelity(evidence: Evidence, limits: FidelityLimits) -> FidelityRecord | Gap:
    """What was measured, when it is on enough observations and made of finite numbers."""
    fidelity = evidence.fidelity
    if isinstance(fidelity, Gap):
        return fidelity
    if len(fidelity.cosine) < limits.observations:
        return Gap(f"{len(fidelity.cosine)} held-out observations, {limits.observations} are asked for")
    if not np.isfinite([*fidelity.cosine, fidelity.spread_ratio]).all():
        return Gap("some measures of fidelity are not finite numbers")
    return fidelity
