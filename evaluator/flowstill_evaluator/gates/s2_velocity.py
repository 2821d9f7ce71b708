"""S2: the joints move as fast as they do under the baseline."""

from dataclasses import dataclass

import numpy as np

from flowstill.api.studentrollout import GateResult, VelocityLimits
from flowstill_evaluator.evidence import Evidence, Gap, TwoSamples
from flowstill_evaluator.gates.base import by_bounds, decided, inconclusive
from flowstill_evaluator.statistics import Bounds, wasserstein, wasserstein_deviation

STILL = 1e-6
"""The least unit: a joint that the baseline holds stiller than this must not be moved by the student."""


@dataclass(frozen=True)
class JointShift:
    """One joint's Wasserstein-1 distance in units of the baseline's spread."""

    joint: str
    distance: float
    bounds: Bounds


def joint_shifts(velocity: TwoSamples) -> list[JointShift]:
    """One shift a joint, each with its bootstrap interval (one-sided 95 % bounds)."""
    spread_J = np.maximum(np.std(velocity.baseline, axis=0), STILL)
    student, baseline = velocity.student / spread_J, velocity.baseline / spread_J
    below_J, above_J = wasserstein_deviation(student, baseline)
    shifts = []
    for index, joint in enumerate(velocity.labels):
        distance = wasserstein(student[:, index], baseline[:, index])
        bounds = Bounds(max(distance + float(below_J[index]), 0.0), distance + float(above_J[index]))
        shifts.append(JointShift(joint, distance, bounds))
    return shifts


def s2_velocity(evidence: Evidence, limits: VelocityLimits) -> GateResult:
    """The joint that shifted most decides."""
    velocity = evidence.velocity
    if isinstance(velocity, Gap):
        return inconclusive("S2", velocity, limits.max_distance)
    shifts = joint_shifts(velocity)
    worst = max(shifts, key=lambda shift: shift.bounds.high)
    verdict = by_bounds(worst.bounds, limits.max_distance)
    beyond = [s for s in shifts if s.bounds.low > limits.max_distance]
    if beyond:
        worst, verdict = max(beyond, key=lambda shift: shift.bounds.low), "Fail"
    saying = (
        f"Largest shift: {worst.joint}, {worst.distance:.3f} of the baseline's spread "
        f"({worst.bounds.low:.3f} to {worst.bounds.high:.3f})"
    )
    ending = {
        "Pass": f"every joint is within {limits.max_distance:g}.",
        "Fail": f"beyond the limit of {limits.max_distance:g}.",
        "Inconclusive": f"the interval spans the limit of {limits.max_distance:g}; more episodes narrow it.",
    }[verdict]
    return decided(
        "S2",
        verdict,
        f"{saying}; {ending}",
        measured=worst.distance,
        threshold=limits.max_distance,
        samples=len(velocity.student),
        bounds=worst.bounds,
    )
