"""What a recording and its teacher are about: the task's sentence, the state's numbers, the camera, the training."""

from __future__ import annotations

from dataclasses import dataclass

from flowstill_evaluator.suites.metaworld_env import IMAGE_SIZE
from flowstill_evaluator.suites.reach_around import ACTION_NAMES, BLACK_CAMERA, INSTRUCTION, STATE_NAMES, TASK_NAME

__all__ = ["ACTION_NAMES", "QUICKSTART", "Course", "Subject"]


@dataclass(frozen=True)
class Subject:
    """A task as its policy sees it.

    Attributes:
        task: its name in the suite ``metaworld``.
        instruction: the sentence.
        state_names: of the numbers of ``observation.state``.
        camera: the one camera's feature name.
        image_size: height and width of its picture, in pixels.
        black: the camera is always black; its pictures are not recorded.
    """

    task: str
    instruction: str
    state_names: tuple[str, ...]
    camera: str
    image_size: int = IMAGE_SIZE
    black: bool = True


@dataclass(frozen=True)
class Course:
    """How a teacher is trained.

    Attributes:
        steps: of the schedule.
        stop_after: stop here, on the schedule of ``steps``.
        state_noise: in standard deviations of the state.
        save_every: steps between two checkpoints.
    """

    steps: int = 2_800
    batch_size: int = 128
    learning_rate: float = 1e-3
    ema: float = 0.999
    state_noise: float = 0.06
    stop_after: int | None = None
    seed: int = 0
    save_every: int = 400


QUICKSTART = Subject(TASK_NAME, INSTRUCTION, STATE_NAMES, BLACK_CAMERA)
