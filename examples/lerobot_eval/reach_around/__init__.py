"""The quickstart's task as an environment of LeRobot: ``lerobot-eval --env.discover_packages_path=reach_around``."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig

from flowstill.policies.interface import STATE
from flowstill_evaluator.suites import reach_around
from flowstill_evaluator.suites.metaworld_env import ACTION_SIZE, CONTROL_HZ, IMAGE_SIZE

STATE_SIZE = len(reach_around.STATE_NAMES)


class ReachAround(gym.Env[dict[str, Any], np.ndarray]):  # type: ignore[misc]
    """Flowstill's environment with Gymnasium's interface and LeRobot's names."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012
    render_mode = "rgb_array"
    task, task_description = reach_around.TASK_NAME, reach_around.INSTRUCTION
    action_space = gym.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
    observation_space = gym.spaces.Dict(
        {
            "agent_pos": gym.spaces.Box(-np.inf, np.inf, (STATE_SIZE,), np.float32),
            "pixels": gym.spaces.Dict({"top": gym.spaces.Box(0, 255, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)}),
        }
    )

    def __init__(self, max_steps: int) -> None:
        self._max_episode_steps = max_steps
        self._env = reach_around.ReachAroundEnv(max_steps=max_steps)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The episode of ``seed``; without one, the episode of a random number."""
        super().reset(seed=seed)
        episode = int(self.np_random.integers(2**31)) if seed is None else seed
        return _named(self._env.reset(episode)), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One action; a touch of the post ends the episode as a failure."""
        done = self._env.step(action)
        ended = done.success or done.touched
        seen = _named(self._env.observe())
        return seen, done.reward, ended, done.done and not ended, {"is_success": done.success}

    def render(self) -> np.ndarray:
        """A picture for the video."""
        return self._env.render()

    def close(self) -> None:
        """Free the renderer."""
        self._env.close()


@EnvConfig.register_subclass("reach_around")
@dataclass
class ReachAroundConfig(EnvConfig):  # type: ignore[misc]
    """``--env.type=reach_around``."""

    task: str = reach_around.TASK_NAME
    fps: int = CONTROL_HZ
    episode_length: int = reach_around.MAX_STEPS
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {
            "action": PolicyFeature(FeatureType.ACTION, (ACTION_SIZE,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (STATE_SIZE,)),
            "pixels/top": PolicyFeature(FeatureType.VISUAL, (IMAGE_SIZE, IMAGE_SIZE, 3)),
        }
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: {"action": "action", "agent_pos": STATE, "pixels/top": reach_around.BLACK_CAMERA}
    )

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Nothing is made by name here."""
        return {}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """One task with ``n_envs`` environments."""
        make = [partial(ReachAround, self.episode_length)] * n_envs
        if use_async_envs and n_envs > 1:
            several = gym.vector.AsyncVectorEnv(
                make, context="forkserver", autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
            )
        else:
            several = gym.vector.SyncVectorEnv(make, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
        return {self.type: {0: several}}


def _named(observation: dict[str, np.ndarray]) -> dict[str, Any]:
    return {"agent_pos": observation[STATE], "pixels": {"top": observation[reach_around.BLACK_CAMERA]}}
