"""A small Gymnasium environment, and everything that one can do wrong; also by the entry point of a custom suite."""

import os

import gymnasium as gym
import numpy as np


class Room(gym.Env):
    """A point in [-1, 1]² that has to come to the middle."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    render_mode = None

    def __init__(self, **wrong):
        box = gym.spaces.Box
        self.wrong, self._max_episode_steps, self.task_description = wrong, wrong.get("limit", 20), "come to the middle"
        self.metadata = {"render_fps": wrong.get("fps", 10)}
        spaces = {"agent_pos": wrong.get("state_space", box(-1, 1, (2,)))}
        if "pixels" in wrong:
            spaces["pixels"] = wrong["pixels"]
        self.observation_space = wrong.get("space", gym.spaces.Dict(spaces))
        self.action_space = wrong.get("action_space", box(np.float32([-1, -np.inf]), np.float32([1, np.inf])))
        self.closed = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=None if self.wrong.get("forgets_the_seed") else seed)
        self.at = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.wrong.get("reset", (self._seen(), {}))

    def step(self, action):
        self.at += 0.1 * np.asarray(action)
        success = bool(np.abs(self.at).max() < 0.15)
        info = {"is_success": success, "contact": abs(self.at[1]) > 1.5, "joint_velocity": np.asarray(action)}
        info |= self.wrong.get("info", {})
        ended = bool(self.at[0] > 1.5)
        return self.wrong.get("step", (self._seen(), self.wrong.get("reward", 0.5), success or ended, False, info))

    def _seen(self):
        picture = {"pixels": self.wrong["picture"]} if "picture" in self.wrong else {}
        return self.wrong.get("seen", {"agent_pos": self.at, **picture})

    def render(self):
        return np.full((9, 7, 3), 7, np.uint8)

    def close(self):
        self.closed = True


def make(task: str, **config: str) -> gym.Env:
    if task == "broken":
        raise LookupError("no such room")
    if task == "dies":
        os._exit(3)
    if task == "nothing":
        return None
    return Room(forgets_the_seed=task == "forgetful")
