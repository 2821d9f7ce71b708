"""S2: the joints move as fast as they do under the baseline."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from flowstill.api.gates import VelocityLimits
from flowstill.api.studentrollout import GateResult, Verdict
from flowstill_evaluator.evidence import MIN_VELOCITY_ROWS, Evidence, Gap, TwoSamples
from flowstill_evaluator.gates.base import decided, inconclusive, usable
from flowstill_evaluator.statistics import LEVEL, Bounds, Floats, wasserstein, wasserstein_error

STILL = 1e-6
"""The least unit: a joint that the baseline holds stiller than this must not be moved by the student."""


@dataclass(frozen=True)
class JointShift:
    """One joint's Wasserstein-1 distance in units of the baseline's spread."""

    joint: str
    distance: float
    bounds: Bounds


def joint_distances(velocity: TwoSamples) -> dict[str, float]:
    """Wasserstein-1 of each joint's velocity, in units of the baseline's spread."""
    student, baseline = _in_spreads(velocity)
    return {joint: wasserstein(student[:, index], baseline[:, index]) for index, joint in enumerate(velocity.labels)}


def _in_spreads(velocity: TwoSamples) -> tuple[Floats, Floats]:
    spread_J = np.maximum(np.std(velocity.baseline, axis=0), STILL)
    return velocity.student / spread_J, velocity.baseline / spread_J


def joint_shifts(velocity: TwoSamples, level: float = LEVEL) -> list[JointShift]:
    """One shift a joint, each with bounds of a one-sided ``level`` from a bootstrap standard error."""
    student, baseline = _in_spreads(velocity)
    half_J = float(stats.norm.isf(level)) * wasserstein_error(student, baseline)
    shifts = []
    for index, (joint, distance) in enumerate(joint_distances(velocity).items()):
        bounds = Bounds(max(distance - float(half_J[index]), 0.0), distance + float(half_J[index]))
        shifts.append(JointShift(joint, distance, bounds))
    return shifts


def s2_velocity(evidence: Evidence, limits: VelocityLimits) -> GateResult:
    """The joint that shifted most decides.

    The distance between two samples overstates that of what they were drawn from, so a measured distance
    within the limit passes as it is; one beyond it fails when its lower bound is beyond as well, at a level
    that the joints share: any of them can fail.
    """
    velocity, limit = usable(evidence.velocity, MIN_VELOCITY_ROWS, "samples of the joints"), limits.max_distance
    if isinstance(velocity, Gap):
        return inconclusive("S2", velocity, limit)
    level = evidence.expected.level(LEVEL)
    shifts = joint_shifts(velocity, level / max(len(velocity.labels), 1))
    beyond = [shift for shift in shifts if shift.bounds.low > limit]
    worst = max(beyond or shifts, key=lambda shift: shift.distance)
    verdict: Verdict = "Fail" if beyond else "Pass" if worst.distance <= limit else "Inconclusive"
    ending = {
        "Pass": f"every joint is within {limit:g}.",
        "Fail": f"beyond the limit of {limit:g}.",
        "Inconclusive": f"above {limit:g}, perhaps by chance; more episodes would tell.",
    }[verdict]
    return decided(
        "S2",
        verdict,
        f"Largest shift: {worst.joint}, {worst.distance:.3f} of the baseline's spread "
        f"({worst.bounds.low:.3f} to {worst.bounds.high:.3f}); {ending}",
        measured=worst.distance,
        threshold=limit,
        samples=len(velocity.student),
        bounds=worst.bounds,
    )
