"""Reach a goal behind a post: Meta-World's Sawyer reach with an obstacle in the way.

The straight line from the hand to the goal runs into the post, and the ways round its left and its
right are equally good, so demonstrations have two modes that the observation does not tell apart.
A policy that averages them drives into the post. That is what one-step students must get right.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt
from metaworld.envs.sawyer_reach_v3 import SawyerReachEnvV3

from flowstill_evaluator.suites.interface import CameraView, Offer, View
from flowstill_evaluator.suites.metaworld_env import ACTION_SIZE, HAND, SawyerTask, prepare, states_only

TASK_NAME, WIDE_TASK_NAME = "reach-around", "reach-around-wide"
TASK_NAMES = (TASK_NAME, WIDE_TASK_NAME)
INSTRUCTION = "reach behind the post"
STATE_NAMES = ("hand_x", "hand_y", "hand_z", "gripper", "goal_x", "goal_y", "goal_z")
ACTION_NAMES = ("dx", "dy", "dz", "gripper_effort")
MAX_STEPS = 120  # the scripted expert needs 40 to 80
FRONT_CAMERA, BLACK_CAMERA = "observation.images.front", "observation.images.top"
OFFER = Offer(
    states={
        len(STATE_NAMES): ", ".join(STATE_NAMES),
        HAND: f"{', '.join(STATE_NAMES[:HAND])}; the goal is seen through a camera",
    },
    cameras=(FRONT_CAMERA,),
    black=(BLACK_CAMERA,),
    action_size=ACTION_SIZE,
)

POST_XY = (0.0, 0.68)
POST_RADIUS = 0.055
POST_HEIGHT = 0.28
# Around the middle of each interval the scene is its own mirror image, left and right.
START_LOW, START_HIGH = np.array([-0.004, 0.515, 0.13]), np.array([0.004, 0.525, 0.18])
GOAL_LOW, GOAL_HIGH = np.array([-0.03, 0.81, 0.09]), np.array([0.03, 0.85, 0.14])
# Every goal above lies within 5 cm of their middle, so a policy that never looks can succeed. Not with these.
WIDE_GOAL_LOW, WIDE_GOAL_HIGH = np.array([-0.10, 0.81, 0.09]), np.array([0.10, 0.85, 0.14])

_POST = "post"
_POST_BIT = 1 << 3  # a collision bit of its own: the post meets the whole robot, even its visual meshes
_ROBOT_ROOT = "right_l0"


class _ReachAroundSim(SawyerReachEnvV3):  # type: ignore[misc]
    """The reach task with the post in its scene, and every substep watched for contacts."""

    def __init__(self) -> None:
        self.touched = False
        self.start = (START_LOW + START_HIGH) / 2
        self.target = (GOAL_LOW + GOAL_HIGH) / 2
        super().__init__()

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        spec = mujoco.MjSpec.from_file(self.fullpath)
        add_post(spec)
        model = spec.compile()
        self._post = model.geom(_POST).id
        self._idle_puck = model.joint("objjoint").qposadr[0]
        return model, mujoco.MjData(model)

    def _step_mujoco_simulation(self, ctrl: Any, n_frames: int) -> None:
        # One substep at a time, so that a contact that comes and goes within one action is seen.
        self.data.ctrl[:] = ctrl
        for _ in range(n_frames):
            mujoco.mj_step(self.model, self.data)
            if self.data.ncon and (self.data.contact.geom == self._post).any():
                self.touched = True

    def _get_quat_objects(self) -> npt.NDArray[Any]:
        return np.array([0.0, 0.0, 0.0, 1.0])  # the puck lies still; spares a scipy rotation each step

    def reset_model(self) -> npt.NDArray[np.float64]:
        """Bring the hand to the episode's start, the goal to its place, the puck out of the way."""
        self.hand_init_pos = self.start
        self._target_pos = self.target
        self.model.site("goal").pos = self.target
        qpos = self.data.qpos.copy()
        qpos[self._idle_puck : self._idle_puck + 2] = (0.3, 0.45)
        self.set_state(qpos, self.data.qvel.copy())
        # On its way from the arm's folded pose the hand may pass where the post stands.
        self.model.geom_contype[self._post] = self.model.geom_conaffinity[self._post] = 0
        self._reset_hand()
        self.model.geom_contype[self._post] = self.model.geom_conaffinity[self._post] = _POST_BIT
        mujoco.mj_forward(self.model, self.data)
        self.touched = False
        observation: npt.NDArray[np.float64] = self._get_obs()
        return observation


def add_post(spec: mujoco.MjSpec) -> None:
    """Put the post into a Sawyer scene, in contact with every geom of the moving arm and nothing else."""
    body = spec.worldbody.add_body(name=_POST, pos=[*POST_XY, POST_HEIGHT / 2])
    body.add_geom(
        name=_POST,
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[POST_RADIUS, POST_HEIGHT / 2, 0.0],
        rgba=[0.15, 0.35, 0.75, 1.0],
        contype=_POST_BIT,
        conaffinity=_POST_BIT,
    )
    robot = spec.body(_ROBOT_ROOT)
    for geom in robot.find_all(mujoco.mjtObj.mjOBJ_GEOM):
        geom.conaffinity |= _POST_BIT


class ReachAroundEnv(SawyerTask):
    """Hand within 5 cm of the goal: success. Any contact of the arm with the post: failure.

    State: hand xyz, gripper opening (0 closed, 1 open), goal xyz, in metres, seven float32; or the first four. The goal
    distance is Meta-World's: from the point between the finger tips.
    """

    sim: _ReachAroundSim
    offer = OFFER

    def __init__(self, view: View | None = None, max_steps: int = MAX_STEPS, *, wide: bool = False) -> None:
        """Load the scene.

        Args:
            view: what the policy looks at; default: the seven numbers and a black camera.
            max_steps: an episode without success ends as a failure after so many steps (1 to 500).
            wide: the goal lies anywhere within 10 cm to the left or right, instead of 3.

        Raises:
            ValueError: Meta-World refuses such a limit.
        """
        if not 1 <= max_steps <= _ReachAroundSim.max_path_length:
            raise ValueError(f"max_steps: {max_steps} is outside 1 to {_ReachAroundSim.max_path_length}")
        super().__init__(prepare(_ReachAroundSim()), max_steps, view or states_only(len(STATE_NAMES), BLACK_CAMERA))
        self.film_camera = _camera()
        self._goals = (WIDE_GOAL_LOW, WIDE_GOAL_HIGH) if wide else (GOAL_LOW, GOAL_HIGH)

    def _place(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.sim.start = draw.uniform(START_LOW, START_HIGH)
        self.sim.target = draw.uniform(*self._goals)
        self.sim.curr_path_length = 0
        mujoco.mj_resetData(self.sim.model, self.sim.data)
        self.sim.reset_model()

    def _state(self) -> npt.NDArray[np.float64]:
        current = self.sim._get_curr_obs_combined_no_goal()
        state: npt.NDArray[np.float64] = np.concatenate([current[:HAND], self.sim.target])
        return state[: self.view.state_dim]

    def _picture(self, camera: CameraView) -> npt.NDArray[np.uint8]:
        return self._drawer.draw(self.sim.data, self.film_camera, camera.height, camera.width)

    def _failed(self) -> bool:
        return self.sim.touched


def _camera() -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    # From behind the goal, looking back at the robot: both ways round the post are in view.
    camera.lookat[:] = (0.0, 0.66, 0.12)
    camera.distance, camera.azimuth, camera.elevation = 0.9, 270.0, -50.0
    return camera
