"""Meta-World tasks behind the interface of every suite.

Physics needs no graphics library; the first look through a camera makes a renderer.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from flowstill.policies.interface import STATE
from flowstill_evaluator.suites.drawing import Camera, Drawer
from flowstill_evaluator.suites.interface import CameraView, Observation, Offer, StepResult, View, checked_action

BLACK_CAMERA = "observation.images.black"
LEROBOT_CAMERA = "observation.image"
IMAGE_SIZE = 32
ACTION_SIZE = 4
ARM_JOINTS = 7
CONTROL_HZ = 80  # Meta-World: 5 substeps of 2.5 ms for each action
DEFAULT_MAX_STEPS = 300  # the scripted experts need at most about 200; Meta-World's own limit is 500
FILM_SIZE = 160

HAND, WHOLE, FRAMES = 4, 21, 39
"""Sizes of Meta-World's states."""
SCENE_CAMERAS = {f"observation.images.{name}": name for name in ("topview", "corner", "corner3", "gripperPOV")}
OFFER = Offer(
    states={
        HAND: "hand xyz and gripper opening, as LeRobot's Meta-World gives them",
        WHOLE: "hand xyz, gripper opening, 14 numbers of the objects, goal xyz",
        FRAMES: "Meta-World's own observation: this frame's and the one's before, with the goal",
    },
    cameras=(LEROBOT_CAMERA, *SCENE_CAMERAS),
    black=(BLACK_CAMERA,),
    action_size=ACTION_SIZE,
)
_LEROBOT_POSITION = (0.75, 0.075, 0.7)  # of corner2, which LeRobot moves


class SawyerTask:
    """One simulated Sawyer episode at a time, deterministic in (seed, actions).

    Subclasses say how an episode starts (``_place``), what the policy sees (``_state``, ``_picture``) and, if
    anything, what ends an episode as a failure (``_failed``).
    """

    offer: Offer
    control_hz: float = CONTROL_HZ
    film_camera: Camera = "corner2"

    def __init__(self, sim: SawyerXYZEnv, max_steps: int, view: View) -> None:
        self.sim = sim
        self.max_steps = max_steps
        self.view = view
        self._steps = 0
        self._done = True
        self._own: npt.NDArray[np.float64] = np.empty(0)
        self._drawer = Drawer(sim.model)

    def reset(self, seed: int) -> Observation:
        """Start the episode that belongs to ``seed``.

        Args:
            seed: a non-negative integer; the same seed gives the same floats.

        Returns:
            What :meth:`observe` gives.
        """
        if seed < 0:
            raise ValueError(f"seed: {seed} is negative; use an integer from 0 on")
        self._place(seed)
        self._steps = 0
        self._done = False
        return self.observe()

    def step(self, action: npt.ArrayLike) -> StepResult:
        """Apply one action (dx, dy, dz, gripper effort), each meant to lie in [-1, 1].

        Args:
            action: shape (4,); one unit of dx, dy, dz moves the hand's target by 1 cm.

        Raises:
            ValueError: wrong shape, or a number that is not finite.
            RuntimeError: the episode is over; call ``reset`` first.
        """
        action_D = checked_action(action, ACTION_SIZE, over=self._done)
        clipped_D = np.clip(action_D, -1.0, 1.0)
        self._own, reward, _, _, info = self.sim.step(clipped_D.astype(np.float32))
        self._steps += 1
        touched = self._failed()
        success = bool(info["success"]) and not touched
        self._done = success or touched or self._steps >= self.max_steps
        return StepResult(
            success=success,
            done=self._done,
            reward=float(reward),
            clamped=bool((clipped_D != action_D).any()),
            joint_velocity=self.sim.data.qvel[:ARM_JOINTS].copy(),
            touched=touched,
        )

    def observe(self) -> Observation:
        """``observation.state`` float32 (S,), and each camera of the view as uint8 (height, width, 3)."""
        seen: Observation = {STATE: self._state().astype(np.float32)}
        for camera in self.view.cameras:
            size = camera.height, camera.width
            black = camera.name in self.offer.black
            seen[camera.name] = np.zeros((*size, 3), np.uint8) if black else self._picture(camera)
        return seen

    def render(self) -> npt.NDArray[np.uint8]:
        """Draw the scene for a film, uint8 (160, 160, 3)."""
        return self._drawer.draw(self.sim.data, self.film_camera, FILM_SIZE, FILM_SIZE, shadows=False)

    def close(self) -> None:
        """Free every graphics context."""
        self._drawer.close()

    def _place(self, seed: int) -> None:
        raise NotImplementedError

    def _state(self) -> npt.NDArray[np.float64]:
        raise NotImplementedError

    def _picture(self, camera: CameraView) -> npt.NDArray[np.uint8]:
        raise NotImplementedError

    def _failed(self) -> bool:
        return False


class MetaWorldEnv(SawyerTask):
    """A plain Meta-World 3 task with its goal visible; :data:`OFFER` says what it can show."""

    offer = OFFER

    def __init__(self, task_name: str, view: View | None = None, max_steps: int = DEFAULT_MAX_STEPS) -> None:
        """Load the scene.

        Args:
            task_name: such as ``drawer-open-v3``.
            view: what the policy looks at; default: the whole state and a black camera.
            max_steps: an episode without success ends as a failure after so many steps (1 to 500).

        Raises:
            ValueError: Meta-World has no such task, or refuses such a limit.
        """
        if task_name not in ALL_V3_ENVIRONMENTS:
            raise ValueError(
                f"task: Meta-World has no task {task_name!r}; it has {', '.join(sorted(ALL_V3_ENVIRONMENTS))}"
            )
        if not 1 <= max_steps <= SawyerXYZEnv.max_path_length:
            raise ValueError(f"max_steps: {max_steps} is outside 1 to {SawyerXYZEnv.max_path_length}")
        super().__init__(prepare(ALL_V3_ENVIRONMENTS[task_name]()), max_steps, view or states_only(WHOLE, BLACK_CAMERA))
        self.task_name = task_name
        # The films' camera too: the pose that LeRobot's policies look from.
        self.sim.model.camera(self.film_camera).pos = _LEROBOT_POSITION

    def _place(self, seed: int) -> None:
        self.sim.seed(seed)
        self._own, _ = self.sim.reset()

    def _state(self) -> npt.NDArray[np.float64]:
        if self.view.state_dim == FRAMES:
            return self._own
        current = self.sim._get_curr_obs_combined_no_goal()
        return current[:HAND] if self.view.state_dim == HAND else np.concatenate([current, self.sim._get_pos_goal()])

    def _picture(self, camera: CameraView) -> npt.NDArray[np.uint8]:
        size = camera.height, camera.width
        if camera.name == LEROBOT_CAMERA:
            # The camera hangs upside down; LeRobot turns its pictures round.
            return np.ascontiguousarray(self._drawer.draw(self.sim.data, self.film_camera, *size)[::-1, ::-1])
        return self._drawer.draw(self.sim.data, SCENE_CAMERAS[camera.name], *size)


def states_only(state_dim: int, black: str) -> View:
    """A state, and the black camera that SmolVLA insists on."""
    return View(state_dim, (CameraView(black, IMAGE_SIZE, IMAGE_SIZE),))


def prepare(sim: SawyerXYZEnv) -> SawyerXYZEnv:
    """Let ``sim`` draw its episodes from its own seed, goal visible, without a benchmark's task object."""
    sim._set_task_called = True
    sim._freeze_rand_vec = False
    sim.seeded_rand_vec = True
    sim._partially_observable = False
    sim.__dict__.pop("sawyer_observation_space", None)  # cached while the goal was still hidden
    return sim
