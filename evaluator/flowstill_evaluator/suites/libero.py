"""The suite ``libero``: spatial, object, goal, 10 and 90, from their canonical initial states."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from flowstill.errors import UserError
from flowstill_evaluator.suites.graphics import choose_library
from flowstill_evaluator.suites.interface import Environment, Offer, View
from flowstill_evaluator.suites.libero_files import ASSETS_VARIABLE, assets, task_of
from flowstill_evaluator.suites.tasks import FIELD, once

STATE_DIM, ACTION_SIZE = 8, 7
CAMERAS = {"observation.images.image": "agentview", "observation.images.image2": "robot0_eye_in_hand"}
BLACK_CAMERA = "observation.images.black"
OFFER = Offer(
    states={STATE_DIM: "the gripper's xyz, its rotation as axis times angle, both fingers, as in LeRobot's LIBERO"},
    cameras=tuple(CAMERAS),
    black=(BLACK_CAMERA,),
    action_size=ACTION_SIZE,
)


@dataclass(frozen=True)
class Libero:
    """LIBERO as LeRobot shows it to a policy. Tasks are called ``libero_object/0`` or ``libero_object/NAME``."""

    name: str = "libero"
    most_environments: int = 16  # each takes 0.1 GB, and 0.2 to 0.5 GB with cameras

    def preflight(self, tasks: Sequence[str]) -> dict[str, str]:
        """The sentence of each task, once its scene could be put together.

        Raises:
            UserError: no such task; hf-libero or a graphics library is not installed; a file of the scene is missing.
        """
        found = {name: task_of(name) for name in tasks}
        once([f"{task.suite}/{task.index}" for task in map(task_of, tasks)])
        folder = assets()
        # robosuite loads a graphics library when it is imported, whether or not anything is drawn.
        os.environ["MUJOCO_GL"] = choose_library()
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
            for name, missing in zip(tasks, processes.map(missing_files, tasks), strict=True):
                if missing:
                    raise UserError(
                        f"the scene of {name} needs {', '.join(missing[:3])}"
                        f"{f' and {len(missing) - 3} more files' if len(missing) > 3 else ''}, which {folder} has not; "
                        f"complete it, or set {ASSETS_VARIABLE} to a folder that is whole",
                        field=FIELD,
                        reason="AssetsMissing",
                    )
        return {name: task.sentence for name, task in found.items()}

    def offer(self, task: str) -> Offer:
        """What that task's environments can show: the same for all."""
        return OFFER

    def environment(self, task: str, view: View | None = None) -> Environment:
        """Make the environment of one task; by default a policy sees its state and a black camera."""
        from flowstill_evaluator.suites.libero_env import LiberoEnv

        return LiberoEnv(task_of(task), view)


def missing_files(task: str) -> list[str]:
    """Files that the scene of a task needs and that are not there. To be called in a process of its own."""
    from flowstill_evaluator.suites.libero_env import scene_files

    return [str(path) for path in scene_files(task_of(task)) if not path.exists()]
