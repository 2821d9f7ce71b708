"""What the teacher computes must be numbers: refused where it is made, before anything learns from it or keeps it."""

from torch import Tensor

from flowstill.errors import TeacherRejected
from flowstill_trainer.data import Frames


def check_chunks(chunk_BX: Tensor, index_B: Tensor, frames: Frames, *, bf16: bool) -> None:
    """That the teacher's chunks on these frames are finite; ``bf16``: they were computed in it.

    Raises:
        TeacherRejected: naming the first frame that has another one, and what to do.
    """
    bad_B = chunk_BX.flatten(1).isfinite().all(1).logical_not()
    if not bool(bad_B.any()):
        return
    repair = "repair the checkpoint: its weights, or the statistics of its processors"
    fix = f"set spec.training.precision to fp32, and if it is so there too {repair}" if bf16 else repair
    raise TeacherRejected(
        f"the teacher's chunk on the dataset's frame {int(frames.index_N[index_B[bad_B][0]])} is not finite, computed "
        f"in {'bf16' if bf16 else 'fp32'} ({int(bad_B.sum())} of {len(bad_B)} chunks); {fix}",
        field="spec.teacher",
    )
