"""A Gymnasium environment of somebody else's behind the interface of every suite.

What it has to offer is LeRobot's convention (``docs/custom_suites.md``); everything it says is held against that, so
that a message names what is wrong instead of an arm failing its episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from flowstill.errors import FlowstillError
from flowstill.policies.interface import STATE
from flowstill_evaluator.suites.interface import Observation, Offer, StepResult, View, checked_action

PIXELS, AGENT = "pixels", "agent_pos"
PICTURE, PICTURES = "observation.image", "observation.images."
BLACK_CAMERA = "observation.images.black"
SUCCESS, VELOCITY, CONTACT = "is_success", "joint_velocity", "contact"


class ContractBroken(FlowstillError):
    """The environment does not do what ``docs/custom_suites.md`` asks of it; the message says what."""

    reason = "EnvironmentContract"


class GymEnv:
    """One episode of a Gymnasium environment at a time."""

    def __init__(self, env: gym.Env[Any, Any], view: View | None = None) -> None:
        """Wrap an environment.

        Args:
            env: it; closed by :meth:`close`.
            view: what the policy looks at; default: the state.

        Raises:
            ContractBroken: its spaces or attributes are not those of the convention.
        """
        self.env = env
        self.offer = offer_of(env)
        self.max_steps = _step_limit(env)
        self.control_hz = _control_hz(env)
        [state_dim] = self.offer.states
        self.view = view or View(state_dim)
        self._range = env.action_space.low.astype(np.float64), env.action_space.high.astype(np.float64)
        self._joints: int | None = None
        self._steps = 0
        self._done = True
        self._seen: Any = None

    def reset(self, seed: int) -> Observation:
        """Start the episode of ``seed``.

        Raises:
            ContractBroken: the environment gave something else than its spaces say.
        """
        answer = self.env.reset(seed=seed)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise ContractBroken(f"reset(seed=…) gave {_kind(answer)}; it must give (observation, info)")
        self._seen, _ = answer
        self._steps, self._done = 0, False
        return self.observe()

    def step(self, action: npt.ArrayLike) -> StepResult:
        """Clip one action to the action space, and apply it.

        Raises:
            ValueError: wrong shape, or a number that is not finite.
            ContractBroken: the environment gave something else than the convention asks for.
            RuntimeError: the episode is over.
        """
        action_D = checked_action(action, self.offer.action_size, over=self._done)
        clipped_D = np.clip(action_D, *self._range)
        answer = self.env.step(clipped_D.astype(self.env.action_space.dtype))
        if not (isinstance(answer, tuple) and len(answer) == 5):
            raise ContractBroken(
                f"step(action) gave {_kind(answer)}; it must give (observation, reward, terminated, truncated, info)"
            )
        self._seen, reward, terminated, truncated, info = answer
        self._steps += 1
        touched = bool(info.get(CONTACT, False))
        success = _success(info) and not touched
        over = bool(terminated) or bool(truncated) or self._steps >= self.max_steps
        self._done = success or touched or over
        return StepResult(
            success=success,
            done=self._done,
            reward=_number(reward),
            clamped=bool((clipped_D != action_D).any()),
            joint_velocity=self._velocity(info),
            touched=touched,
            ended=bool(terminated) and not success and not touched,
        )

    def observe(self) -> Observation:
        """``observation.state`` float32 (S,), and each camera of the view as uint8 (height, width, 3)."""
        if not isinstance(self._seen, Mapping):
            raise ContractBroken(f"an observation is {_kind(self._seen)}; it must be a dict with {AGENT!r}")
        seen: Observation = {STATE: self._state()}
        for camera in self.view.cameras:
            if camera.name in self.offer.black:
                seen[camera.name] = np.zeros((camera.height, camera.width, 3), np.uint8)
            else:
                seen[camera.name] = self._picture(camera.name)
        return seen

    def render(self) -> npt.NDArray[np.uint8]:
        """A picture for a film: the environment's own ``rgb_array``, else its first camera.

        Raises:
            ContractBroken: it has neither.
        """
        if self.env.render_mode == "rgb_array":
            frame = np.asarray(self.env.render())
        elif self.offer.cameras:
            frame = self._picture(self.offer.cameras[0])
        else:
            raise ContractBroken("no films: the environment has no camera, and its render_mode is not rgb_array")
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ContractBroken(f"render() gave {_kind(frame)}; it must give uint8 (height, width, 3)")
        # The codec takes even numbers of rows and columns only.
        return frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _state(self) -> npt.NDArray[np.float32]:
        [size] = self.offer.states
        value = self._seen.get(AGENT)
        state = np.array(value, dtype=np.float32) if value is not None else np.empty(0, np.float32)
        if state.shape != (size,) or not np.isfinite(state).all():
            raise ContractBroken(f"observation[{AGENT!r}] is {_kind(value)}; it must be {size} finite numbers")
        return state

    def _picture(self, name: str) -> npt.NDArray[np.uint8]:
        value = self._seen.get(PIXELS)
        if name != PICTURE:
            value = value.get(name.removeprefix(PICTURES)) if isinstance(value, Mapping) else None
        shape = (*self.offer.sizes[name], 3)
        if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != np.uint8:
            raise ContractBroken(f"the picture {name!r} is {_kind(value)}; its space says uint8 {shape}")
        return value.copy()

    def _velocity(self, info: Mapping[str, Any]) -> npt.NDArray[np.float64]:
        value = np.asarray(info.get(VELOCITY, ()), dtype=np.float64)
        if value.ndim != 1 or not np.isfinite(value).all():
            raise ContractBroken(f"info[{VELOCITY!r}] is {_kind(value)}; it must be a finite number a joint, in rad/s")
        if self._joints is not None and value.size != self._joints:
            raise ContractBroken(f"info[{VELOCITY!r}] had {self._joints} joints, and now has {value.size}")
        self._joints = value.size
        return value


def offer_of(env: gym.Env[Any, Any]) -> Offer:
    """What an environment can show and takes, by its spaces.

    Raises:
        ContractBroken: they are not those of the convention.
    """
    spaces, actions = env.observation_space, env.action_space
    if not isinstance(spaces, gym.spaces.Dict):
        raise ContractBroken(f"observation_space is {spaces}; it must be a Dict with {AGENT!r}")
    state = spaces.spaces.get(AGENT)
    if not isinstance(state, gym.spaces.Box) or len(state.shape) != 1 or not state.shape[0]:
        raise ContractBroken(f"observation_space[{AGENT!r}] is {state}; it must be a Box of one dimension")
    if not isinstance(actions, gym.spaces.Box) or len(actions.shape) != 1 or not actions.shape[0]:
        raise ContractBroken(f"action_space is {actions}; it must be a Box of one dimension")
    sizes = _sizes(spaces.spaces.get(PIXELS))
    return Offer(
        states={state.shape[0]: AGENT},
        cameras=tuple(sizes),
        black=(BLACK_CAMERA,),
        action_size=actions.shape[0],
        low=tuple(float(low) if np.isfinite(low) else -1.0 for low in actions.low),
        high=tuple(float(high) if np.isfinite(high) else 1.0 for high in actions.high),
        sizes=sizes,
        offscreen=False,
    )


def _sizes(pixels: gym.Space[Any] | None) -> dict[str, tuple[int, int]]:
    """Height and width of every camera, by LeRobot's names."""
    if pixels is None:
        return {}
    named = (
        {PICTURES + name: space for name, space in pixels.spaces.items()}
        if isinstance(pixels, gym.spaces.Dict)
        else {PICTURE: pixels}
    )
    sizes = {}
    for name, space in named.items():
        if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
            raise ContractBroken(f"the space of {name!r} is {space}; it must be a uint8 Box (height, width, 3)")
        height, width, channels = space.shape
        if channels != 3:
            raise ContractBroken(f"the space of {name!r} has shape {space.shape}; it must be (height, width, 3)")
        sizes[name] = height, width
    return sizes


def _step_limit(env: gym.Env[Any, Any]) -> int:
    for name in ("_max_episode_steps", "max_episode_steps"):
        if env.has_wrapper_attr(name):
            limit = env.get_wrapper_attr(name)
            break
    else:
        limit = env.spec.max_episode_steps if env.spec is not None else None
    if not isinstance(limit, int | np.integer) or limit < 1:
        raise ContractBroken(
            "the environment has no step limit, so an episode could last for ever; wrap it in "
            "gymnasium.wrappers.TimeLimit, or give it an attribute _max_episode_steps"
        )
    return int(limit)


def _control_hz(env: gym.Env[Any, Any]) -> float:
    rate = (env.metadata or {}).get("render_fps")
    if not isinstance(rate, int | float) or not rate > 0:
        raise ContractBroken(f"metadata['render_fps'] is {rate!r}; it must be the actions a second of simulated time")
    return float(rate)


def _success(info: Any) -> bool:
    value = info.get(SUCCESS) if isinstance(info, Mapping) else None
    if not isinstance(value, bool | np.bool_):
        raise ContractBroken(
            f"info[{SUCCESS!r}] after a step is {_kind(value)}; it must be a bool: whether the task is done"
        )
    return bool(value)


def _number(reward: Any) -> float:
    value = float(reward)
    if not np.isfinite(value):
        raise ContractBroken(f"the reward is {value}; it must be finite")
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, np.ndarray):
        finite = np.issubdtype(value.dtype, np.number) and np.isfinite(value).all()
        return f"an array {value.dtype} {value.shape}" + ("" if finite else " that is not finite")
    return f"{value!r:.80}"
