"""What the teacher computes must be numbers: else it is refused, and nothing else is blamed.

What is kept is looked at where it is made. What a step makes afresh is looked at only when its loss is not finite, for
a look in every step would wait for the GPU.
"""

from torch import Tensor

from flowstill.errors import TeacherRejected
from flowstill_trainer.data import Frames

FRAMES_NAMED = 16
"""How many frames of a batch an error names."""


def check_teacher(value_BX: Tensor, index_B: Tensor, frames: Frames, *, bf16: bool, when: str = "") -> None:
    """That the teacher's chunks or velocities on these frames are finite; ``bf16``: they were computed in it.

    ``when`` is how the message begins.

    Raises:
        TeacherRejected: naming the frames on which they are not, and what to do.
    """
    bad_B = value_BX.flatten(1).isfinite().all(1).logical_not().to(index_B.device)
    if not bool(bad_B.any()):
        return
    repair = "repair the checkpoint: its weights, or the statistics of its processors"
    fix = f"set spec.training.precision to fp32, and if it is so there too {repair}" if bf16 else repair
    raise TeacherRejected(
        f"{when}what the teacher computes on the dataset's frames {few_frames(frames.index_N[index_B[bad_B]])} is not "
        f"finite in {'bf16' if bf16 else 'fp32'} ({int(bad_B.sum())} of {len(bad_B)} samples); {fix}",
        field="spec.teacher",
    )


def few_frames(index_B: Tensor) -> str:
    """The different numbers of a batch, the first of them when they are many."""
    frames = index_B.unique().tolist()
    more = f" and {len(frames) - FRAMES_NAMED} more" if len(frames) > FRAMES_NAMED else ""
    return ", ".join(map(str, frames[:FRAMES_NAMED])) + more
