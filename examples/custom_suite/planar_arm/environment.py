"""The environment: two hinges, a tip, a goal, and for one of the two tasks a post that must not be touched."""

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import numpy.typing as npt

TASKS = {"reach": "reach the goal", "reach-past-post": "reach the goal and leave the post alone"}
STATE_NAMES = ("shoulder", "elbow", "tip_x", "tip_y", "goal_x", "goal_y")
CONTROL_HZ = 20
SUBSTEPS = 10  # of 5 ms
MAX_SPEED = 2.0  # rad/s of a joint at an action of 1
REACHED = 0.02  # m
UPPER, FORE = 0.20, 0.18  # m, the two links

_POST = '<geom name="post" type="cylinder" pos="0.27 0 0.05" size="0.02 0.05" rgba="0.15 0.35 0.75 1"/>'
_SCENE = """
<mujoco model="planar arm">
  <option timestep="0.005" gravity="0 0 0" integrator="implicitfast"/>
  <visual><global offwidth="512" offheight="512"/></visual>
  <default><geom contype="1" conaffinity="1"/></default>
  <worldbody>
    <light pos="0 0 1.5" dir="0 0 -1"/>
    <camera name="top" pos="0.15 0 0.9" fovy="50"/>
    <geom name="table" type="plane" size="0.5 0.5 0.01" rgba="0.8 0.8 0.75 1" contype="0" conaffinity="0"/>
    {post}
    <body name="upper" pos="0 0 0.05">
      <joint name="shoulder" axis="0 0 1" damping="0.05" armature="0.01"/>
      <geom type="capsule" fromto="0 0 0 {upper} 0 0" size="0.015" rgba="0.3 0.3 0.3 1"/>
      <body name="fore" pos="{upper} 0 0">
        <joint name="elbow" axis="0 0 1" damping="0.05" armature="0.01"/>
        <geom type="capsule" fromto="0 0 0 {fore} 0 0" size="0.012" rgba="0.8 0.4 0.1 1"/>
        <site name="tip" pos="{fore} 0 0"/>
      </body>
    </body>
    <body name="goal" mocap="true" pos="0.3 0 0.05">
      <geom type="sphere" size="0.015" rgba="0.1 0.7 0.2 1" contype="0" conaffinity="0"/>
    </body>
  </worldbody>
  <contact><exclude body1="upper" body2="fore"/></contact>
  <actuator>
    <velocity joint="shoulder" kv="1"/>
    <velocity joint="elbow" kv="1"/>
  </actuator>
</mujoco>
"""


class PlanarArm(gym.Env[dict[str, Any], npt.NDArray[np.float32]]):
    """Bring the tip within 2 cm of the goal.

    State: joint angles (rad), tip and goal (m), six float32. Action: wanted speed of both joints in units of 2 rad/s.
    The goal lies on the other side of the table's middle line; in ``reach-past-post`` a post stands on that line, and
    touching it ends the episode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, task: str, *, camera: int = 0, max_steps: int = 100) -> None:
        """Compile the scene; nothing is drawn before somebody looks.

        Args:
            task: one of :data:`TASKS`.
            camera: height and width of the picture ``top``; 0: no picture.
            max_steps: actions of an episode.
        """
        self.task, self.task_description = task, TASKS[task]
        self._max_episode_steps, self._camera, self._steps = max_steps, camera, 0
        post = _POST if task == "reach-past-post" else ""
        self._model = mujoco.MjModel.from_xml_string(_SCENE.format(post=post, upper=UPPER, fore=FORE))
        self._data = mujoco.MjData(self._model)
        self._renderers: dict[int, mujoco.Renderer] = {}
        spaces: dict[str, gym.Space[Any]] = {"agent_pos": gym.spaces.Box(-np.inf, np.inf, (len(STATE_NAMES),))}
        if camera:
            spaces["pixels"] = gym.spaces.Dict({"top": gym.spaces.Box(0, 255, (camera, camera, 3), np.uint8)})
        self.observation_space = gym.spaces.Dict(spaces)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start the episode of ``seed``: the arm on one side, the goal on the other."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self._model, self._data)
        side = self.np_random.choice((-1.0, 1.0))
        self._data.qpos[:] = side * self.np_random.uniform((0.7, 0.3), (1.0, 0.6))
        far, angle = self.np_random.uniform((0.22, 0.4), (0.34, 0.9))
        self._data.mocap_pos[0, :2] = far * np.cos(angle), -side * far * np.sin(angle)
        mujoco.mj_forward(self._model, self._data)
        self._steps = 0
        return self._observation(), {"is_success": False}

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """50 ms of simulated time."""
        self._data.ctrl[:] = MAX_SPEED * np.clip(action, -1.0, 1.0)
        contact = False
        for _ in range(SUBSTEPS):
            mujoco.mj_step(self._model, self._data)
            contact = contact or self._data.ncon > 0
        self._steps += 1
        distance = float(np.linalg.norm(self._tip() - self._data.mocap_pos[0, :2]))
        success = distance < REACHED and not contact
        info = {"is_success": success, "contact": contact, "joint_velocity": self._data.qvel.copy()}
        over = self._steps >= self._max_episode_steps
        return self._observation(), -distance, success or contact, over, info

    def render(self) -> npt.NDArray[np.uint8]:
        """The table from above, for films."""
        return self._draw(160)

    def close(self) -> None:
        """Free the renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}

    def _tip(self) -> npt.NDArray[np.float64]:
        return self._data.site("tip").xpos[:2]

    def _observation(self) -> dict[str, Any]:
        state = np.concatenate([self._data.qpos, self._tip(), self._data.mocap_pos[0, :2]]).astype(np.float32)
        return {"agent_pos": state} | ({"pixels": {"top": self._draw(self._camera)}} if self._camera else {})

    def _draw(self, size: int) -> npt.NDArray[np.uint8]:
        if size not in self._renderers:
            self._renderers[size] = mujoco.Renderer(self._model, size, size)
        self._renderers[size].update_scene(self._data, camera="top")
        return self._renderers[size].render()
