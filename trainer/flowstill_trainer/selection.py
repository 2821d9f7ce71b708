"""Which step of the training is published: the one whose samples are nearest to the teacher's distribution.

Never by chunk error or loss: both fall when a student collapses to the mean of what its teacher would do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from flowstill.artifacts.curve import Look
from flowstill_trainer.fidelity import standard_error

MIN_SPREAD = 0.5
"""A student whose draws spread less than this part of its teacher's is collapsed; gate P4 fails it too."""


@dataclass(frozen=True)
class Choice:
    """The step whose weights are published, and why."""

    step: int
    reason: str


def nearest(looks: Sequence[Look]) -> Look | None:
    """The look with the smallest distance, collapsed ones left out, the later of equal ones; None when none is left."""
    usable = [look for look in looks if look.spread >= MIN_SPREAD]
    return min(reversed(usable), key=lambda look: look.distance, default=None)


def choose(looks: Sequence[Look]) -> Choice:
    """The last look, unless an earlier one is nearer by more than noise explains.

    Noise is the standard error of the paired difference over observations: both looks saw the same ones, from the same
    noises.
    """
    last, found = looks[-1], nearest(looks)
    if found is None:
        reason = (
            f"every look is collapsed: its draws spread less than {MIN_SPREAD:g} of the teacher's; the last is taken"
        )
        return Choice(last.step, reason)
    if found is last:
        return Choice(last.step, f"nearest to the teacher's distribution of {_counted(looks)}")
    if last.spread < MIN_SPREAD:
        return Choice(
            found.step, f"at step {last.step} draws spread {last.spread:.2f} of the teacher's: the student collapsed"
        )
    difference_B = _distances(last) - _distances(found)
    gain, error = float(difference_B.mean()), standard_error(difference_B)
    figures = f"by {gain:.2g}, with a standard error of {error:.2g}"
    if gain > error:
        return Choice(found.step, f"nearer to the teacher's distribution than step {last.step} {figures}")
    return Choice(last.step, f"step {found.step} is not clearly nearer to the teacher's distribution: {figures}")


def _distances(look: Look) -> torch.Tensor:
    return torch.tensor(look.distances, dtype=torch.float64)


def _counted(looks: Sequence[Look]) -> str:
    return "the only look" if len(looks) == 1 else f"{len(looks)} looks"
