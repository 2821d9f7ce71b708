"""The tasks of bench/teachers.py: what their policies see, who demonstrates them, and how long their teachers train."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAKE = Path(__file__).parents[1] / "examples" / "quickstart" / "make"
sys.path.insert(0, str(MAKE))

from record_demonstrations import FIRST_SEED, Demonstration  # noqa: E402
from subject import Course, Subject  # noqa: E402

from flowstill.policies.interface import STATE  # noqa: E402
from flowstill_evaluator.suites.expert import ExpertAction, Pushes, WayRoundExpert  # noqa: E402
from flowstill_evaluator.suites.interface import CameraView, View  # noqa: E402
from flowstill_evaluator.suites.metaworld_env import BLACK_CAMERA, FRAMES, WHOLE  # noqa: E402
from flowstill_evaluator.suites.reach_around import FRONT_CAMERA, INSTRUCTION, STATE_NAMES, WIDE_TASK_NAME  # noqa: E402
from flowstill_evaluator.suites.registry import METAWORLD  # noqa: E402

Act = Callable[[npt.NDArray[np.float32]], ExpertAction]
DISTURBANCE = 0.15  # of Meta-World's experts, in action units
LOOK_EVERY = 8  # actions: as often as a policy looks
WHOLE_NAMES = (
    "hand_x", "hand_y", "hand_z", "gripper", *(f"objects_{n}" for n in range(14)), "goal_x", "goal_y", "goal_z",
)  # fmt: skip


@dataclass(frozen=True)
class TeacherTask:
    """A task whose teacher is made here.

    Attributes:
        subject: what its policy sees.
        expert_dim: numbers of the state that its expert sees.
        demonstrations: for the teacher.
        shipped: the first so many are the dataset of the students; with a camera these have a picture of every frame,
            all others one every :data:`LOOK_EVERY` frames.
        course: how the teacher is trained.
    """

    subject: Subject
    expert_dim: int
    demonstrations: int
    shipped: int
    course: Course

    @property
    def view(self) -> View:
        """What the policy looks at."""
        size = self.subject.image_size
        return View(len(self.subject.state_names), (CameraView(self.subject.camera, size, size),))


def with_whole_state(name: str, instruction: str) -> TeacherTask:
    """A task of Meta-World for a policy that is told where everything is: 21 numbers, a black camera."""
    subject = Subject(name, instruction, WHOLE_NAMES, BLACK_CAMERA)
    return TeacherTask(subject, FRAMES, 300, 120, Course(steps=1200, batch_size=96, state_noise=0.02, save_every=300))


TASKS = {
    task.subject.task: task
    for task in (
        with_whole_state("drawer-open-v3", "Open a drawer"),
        TeacherTask(
            Subject(WIDE_TASK_NAME, INSTRUCTION, STATE_NAMES[:4], FRONT_CAMERA, image_size=64, black=False),
            len(STATE_NAMES), 500, 120, Course(steps=1600, save_every=400),
        ),
        with_whole_state("button-press-topdown-v3", "Press a button from the top"),
        with_whole_state("window-open-v3", "Push and open a window"),
    )
}  # fmt: skip
"""By name, in the order of use."""
assert len(WHOLE_NAMES) == WHOLE


def attempt_of(name: str) -> Callable[[int], Demonstration | None]:
    """What plays one episode of that task by its seed; it can be pickled."""
    return partial(demonstrate, name)


def demonstrate(name: str, seed: int) -> Demonstration | None:
    """Let the expert try the episode ``seed``; None when it failed."""
    task, environment = TASKS[name], _environment(name)
    look = looks(task, seed)
    environment.reset(seed)
    act = _expert(task, seed, _seen(environment, task.expert_dim))
    states, actions, pictures = [], [], {}
    while True:
        if look(len(states)):
            pictures[len(states)] = through(environment, task.view)[task.subject.camera]
        states.append(_seen(environment, task.view.state_dim))
        action = act(_seen(environment, task.expert_dim))
        actions.append(action.label.astype(np.float32))
        result = environment.step(action.executed)
        if result.done:
            return Demonstration(np.stack(states), np.stack(actions), pictures) if result.success else None


def looks(task: TeacherTask, seed: int) -> Callable[[int], bool]:
    """Of which frames of an episode there is a picture: the first, and each or every eighth from a drawn one on."""
    if task.subject.black:
        return lambda frame: False
    number = seed - FIRST_SEED
    if number < task.shipped:
        return lambda frame: True
    return lambda frame: frame == 0 or frame % LOOK_EVERY == number % LOOK_EVERY


def complete(task: TeacherTask, demonstration: Demonstration) -> bool:
    """Whether it can be in a dataset: every frame has its picture."""
    return task.subject.black or len(demonstration.pictures) == len(demonstration.state_TS)


class ScriptedExpert:
    """Meta-World's own script, with its actions clipped, and disturbed as they are executed."""

    def __init__(self, script: Any, pushes: Pushes) -> None:
        self._script, self._pushes = script, pushes

    def act(self, state: npt.NDArray[np.float32]) -> ExpertAction:
        """The next action, by Meta-World's own observation."""
        wanted = np.asarray(self._script.get_action(state.astype(np.float64)), dtype=np.float64)
        return self._pushes.disturb(np.clip(wanted, -1.0, 1.0))


def _expert(task: TeacherTask, seed: int, state: npt.NDArray[np.float32]) -> Act:
    generator = np.random.default_rng([seed, 1])
    if task.subject.task == WIDE_TASK_NAME:
        driver = WayRoundExpert(generator)
        driver.start(state)
        return driver.act
    from metaworld.policies import ENV_POLICY_MAP

    return ScriptedExpert(ENV_POLICY_MAP[task.subject.task](), Pushes(generator, DISTURBANCE)).act


@lru_cache(maxsize=1)
def _environment(name: str) -> Any:
    """One of this process; its view is changed for whoever looks."""
    return METAWORLD.environment(name)


def _seen(environment: Any, state_dim: int) -> npt.NDArray[np.float32]:
    """The state alone: nothing is drawn."""
    return through(environment, View(state_dim))[STATE]


def through(environment: Any, view: View) -> dict[str, npt.NDArray[Any]]:
    """What is seen now through that view."""
    environment.view = view
    return environment.observe()
