"""Which step is published: of a training the one whose samples are nearest to the teacher's distribution.

Never by chunk error or loss: both fall when a student collapses to the mean of what its teacher would do. A refined
student is published whatever its distance, unless it collapsed: what is measured is the distance to the teacher's own
steps, and refinement aims at the flow that they approximate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from flowstill.artifacts.curve import Look
from flowstill_trainer.fidelity import standard_error

MIN_SPREAD = 0.5
"""A student whose draws spread less than this part of its teacher's is collapsed; gate P4 fails it too."""
ALL_COLLAPSED = (
    f"every look is collapsed: its draws spread less than {MIN_SPREAD:g} of the teacher's; the last is taken"
)


@dataclass(frozen=True)
class Choice:
    """The step whose weights are published, and why."""

    step: int
    reason: str


def nearest(looks: Sequence[Look]) -> Look | None:
    """The look with the smallest distance, collapsed ones left out, the later of equal ones; None when none is left."""
    usable = [look for look in looks if not _collapsed(look)]
    return min(reversed(usable), key=lambda look: look.distance, default=None)


def newest(looks: Sequence[Look]) -> Look | None:
    """The last look at a refinement that is not collapsed, else the training's choice; None when all are collapsed."""
    trained, refined = _phases(looks)
    usable = [look for look in refined if not _collapsed(look)]
    if usable:
        return usable[-1]
    if nearest(trained) is None:
        return None
    step = _of_training(trained).step
    return next(look for look in trained if look.step == step)


def choose(looks: Sequence[Look]) -> Choice:
    """What is published when no look follows: of a refinement :func:`newest`; the last when all are collapsed."""
    trained, refined = _phases(looks)
    return _of_refinement(trained, refined) if refined else _of_training(trained)


def _of_refinement(trained: Sequence[Look], refined: Sequence[Look]) -> Choice:
    before, last, found = _of_training(trained), refined[-1], newest([*trained, *refined])
    if found is None:
        return Choice(last.step, ALL_COLLAPSED)
    if found is last:
        return Choice(
            last.step, f"refined for {last.step - trained[-1].step} steps from step {before.step}, {before.reason}"
        )
    what = "the rest of the refinement" if found.phase == "refinement" else "the refinement"
    return Choice(found.step, f"{what} is left out: {_fell(last)}")


def _of_training(looks: Sequence[Look]) -> Choice:
    """The last look, unless an earlier one is nearer by more than noise explains.

    Noise is the standard error of the paired difference over observations: both looks saw the same ones, from the same
    noises.
    """
    last, found = looks[-1], nearest(looks)
    if found is None:
        return Choice(last.step, ALL_COLLAPSED)
    if found is last:
        return Choice(last.step, f"nearest to the teacher's distribution of {_counted(looks)}")
    if _collapsed(last):
        return Choice(found.step, _fell(last))
    difference_B = _distances(last) - _distances(found)
    gain, error = float(difference_B.mean()), standard_error(difference_B)
    figures = f"by {gain:.2g}, with a standard error of {error:.2g}"
    if gain > error:
        return Choice(found.step, f"nearer to the teacher's distribution than step {last.step} {figures}")
    return Choice(last.step, f"step {found.step} is not clearly nearer to the teacher's distribution: {figures}")


def _phases(looks: Sequence[Look]) -> tuple[list[Look], list[Look]]:
    return [x for x in looks if x.phase == "training"], [x for x in looks if x.phase == "refinement"]


def _collapsed(look: Look) -> bool:
    return look.spread < MIN_SPREAD


def _fell(look: Look) -> str:
    return f"at step {look.step} draws spread {look.spread:.2f} of the teacher's: the student collapsed"


def _distances(look: Look) -> torch.Tensor:
    return torch.tensor(look.distances, dtype=torch.float64)


def _counted(looks: Sequence[Look]) -> str:
    return "the only look" if len(looks) == 1 else f"{len(looks)} looks"
