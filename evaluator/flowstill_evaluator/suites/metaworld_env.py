"""Meta-World tasks behind the small interface that rollouts use: seeded reset, step, render.

Physics needs no graphics library; a renderer is created by the first ``render()`` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv

Observation = dict[str, npt.NDArray[Any]]

STATE_KEY = "observation.state"
IMAGE_KEY = "observation.images.top"
IMAGE_SIZE = 32
ACTION_SIZE = 4
ARM_JOINTS = 7
CONTROL_HZ = 80  # Meta-World: 5 substeps of 2.5 ms for each action
DEFAULT_MAX_STEPS = 300  # the scripted experts need at most about 200; Meta-World's own limit is 500
RENDER_SIZE = 160


@dataclass(frozen=True)
class StepResult:
    """What one action did.

    Attributes:
        observation: the next observation.
        success: the task's own criterion holds after this step.
        done: the episode is over (success, failure or step limit).
        reward: Meta-World's dense reward.
        clamped: the action had left [-1, 1] before it was clipped.
        joint_velocity: rad/s of the seven arm joints, shape (7,).
        touched: the robot touched something that ends the episode as a failure.
    """

    observation: Observation
    success: bool
    done: bool
    reward: float
    clamped: bool
    joint_velocity: npt.NDArray[np.float64]
    touched: bool


class SawyerTask:
    """One simulated Sawyer episode at a time, deterministic in (seed, actions).

    Subclasses say how an episode starts (``_place``), what the policy sees (``_state``) and, if
    anything, what ends an episode as a failure (``_failed``).
    """

    camera: str | mujoco.MjvCamera = "corner2"

    def __init__(self, sim: SawyerXYZEnv, max_steps: int) -> None:
        self.sim = sim
        self.max_steps = max_steps
        self._steps = 0
        self._done = True
        self._renderer: mujoco.Renderer | None = None

    def reset(self, seed: int) -> Observation:
        """Start the episode that belongs to ``seed``.

        Args:
            seed: a non-negative integer; the same seed gives the same floats.

        Returns:
            ``observation.state`` float32 (S,) and ``observation.images.top`` uint8 (32, 32, 3), black:
            the policies of these suites see states only, and SmolVLA insists on a camera.
        """
        if seed < 0:
            raise ValueError(f"seed: {seed} is negative; use an integer from 0 on")
        self._place(seed)
        self._steps = 0
        self._done = False
        return self._observation()

    def step(self, action: npt.ArrayLike) -> StepResult:
        """Apply one action (dx, dy, dz, gripper effort), each meant to lie in [-1, 1].

        Args:
            action: shape (4,); one unit of dx, dy, dz moves the hand's target by 1 cm.

        Raises:
            ValueError: wrong shape, or a number that is not finite.
            RuntimeError: the episode is over; call ``reset`` first.
        """
        action_D = np.asarray(action, dtype=np.float64)
        if action_D.shape != (ACTION_SIZE,) or not np.isfinite(action_D).all():
            raise ValueError(f"action: expected {ACTION_SIZE} finite numbers, got {action_D!r}")
        if self._done:
            raise RuntimeError("this episode is over: call reset(seed) before the next step")
        clipped_D = np.clip(action_D, -1.0, 1.0)
        _, reward, _, _, info = self.sim.step(clipped_D.astype(np.float32))
        self._steps += 1
        touched = self._failed()
        success = bool(info["success"]) and not touched
        self._done = success or touched or self._steps >= self.max_steps
        return StepResult(
            observation=self._observation(),
            success=success,
            done=self._done,
            reward=float(reward),
            clamped=bool((clipped_D != action_D).any()),
            joint_velocity=self.sim.data.qvel[:ARM_JOINTS].copy(),
            touched=touched,
        )

    def render(self) -> npt.NDArray[np.uint8]:
        """Draw the scene as uint8 (160, 160, 3).

        Raises:
            RuntimeError: no off-screen graphics; the message says what to install.
        """
        if self._renderer is None:
            self._renderer = self._make_renderer()
        self._renderer.update_scene(self.sim.data, camera=self.camera)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = 0
        frame: npt.NDArray[np.uint8] = self._renderer.render()
        return frame

    def close(self) -> None:
        """Free the renderer, if there is one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _make_renderer(self) -> mujoco.Renderer:
        # Meta-World asks for a 4096 shadow map and 4x multisampling, which software GL pays for
        # in every frame: 6 frames/s with them, about 90 without.
        self.sim.model.vis.quality.offsamples = 0
        self.sim.model.vis.quality.shadowsize = 0
        try:
            return mujoco.Renderer(self.sim.model, height=RENDER_SIZE, width=RENDER_SIZE)
        except Exception as error:
            raise RuntimeError(
                f"no off-screen rendering ({error}): set MUJOCO_GL=egl or MUJOCO_GL=osmesa before "
                "Python starts, and install libegl1 and libgl1-mesa-dri (or libosmesa6)"
            ) from error

    def _observation(self) -> Observation:
        return {
            STATE_KEY: self._state().astype(np.float32),
            IMAGE_KEY: np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8),
        }

    def _place(self, seed: int) -> None:
        raise NotImplementedError

    def _state(self) -> npt.NDArray[np.float64]:
        raise NotImplementedError

    def _failed(self) -> bool:
        return False


class MetaWorldEnv(SawyerTask):
    """A plain Meta-World 3 task with its goal visible.

    The state has 21 numbers: hand xyz, gripper opening, 14 numbers of the objects (position and
    quaternion of up to two), goal xyz. It is Meta-World's observation without the previous frame.
    """

    def __init__(self, task_name: str, max_steps: int = DEFAULT_MAX_STEPS) -> None:
        """Load the scene.

        Args:
            task_name: such as ``drawer-open-v3``.
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
        super().__init__(prepare(ALL_V3_ENVIRONMENTS[task_name]()), max_steps)
        self.task_name = task_name

    def _place(self, seed: int) -> None:
        self.sim.seed(seed)
        self.sim.reset()

    def _state(self) -> npt.NDArray[np.float64]:
        current = self.sim._get_curr_obs_combined_no_goal()
        return np.concatenate([current, self.sim._get_pos_goal()])


def prepare(sim: SawyerXYZEnv) -> SawyerXYZEnv:
    """Let ``sim`` draw its episodes from its own seed, goal visible, without a benchmark's task object."""
    sim._set_task_called = True
    sim._freeze_rand_vec = False
    sim.seeded_rand_vec = True
    sim._partially_observable = False
    sim.__dict__.pop("sawyer_observation_space", None)  # cached while the goal was still hidden
    return sim
