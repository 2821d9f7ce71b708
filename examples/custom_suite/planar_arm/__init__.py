"""A two-joint arm on a table: Gymnasium environments that Flowstill evaluates as ``suite: custom``.

``planar_arm:make_env`` is the entry point. Nothing here knows of Flowstill.
"""

from planar_arm.environment import TASKS, PlanarArm

__all__ = ["TASKS", "PlanarArm", "make_env"]


def make_env(task: str, camera: str = "0", max_steps: str = "100") -> PlanarArm:
    """Make the environment of one task. Flowstill gives ``spec.evaluation.custom.config`` as text.

    Args:
        task: ``reach`` or ``reach-past-post``.
        camera: height and width of the picture ``top`` in pixels; 0: no picture.
        max_steps: actions of an episode.

    Raises:
        ValueError: no such task, or a number that is none.
    """
    if task not in TASKS:
        raise ValueError(f"there is no task {task!r}; use one of {', '.join(TASKS)}")
    return PlanarArm(task, camera=int(camera), max_steps=int(max_steps))
