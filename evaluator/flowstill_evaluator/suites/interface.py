"""The small interface of every suite: what a policy looks at, and one simulated episode at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Observation = dict[str, npt.NDArray[Any]]
STATE = "observation.state"


@dataclass(frozen=True)
class CameraView:
    """A camera at the size that the policy uses; ``name`` is the environment's."""

    name: str
    height: int
    width: int


@dataclass(frozen=True)
class View:
    """What a policy looks at.

    Attributes:
        state_dim: numbers of the state.
        cameras: what is drawn whenever the policy looks.
    """

    state_dim: int
    cameras: tuple[CameraView, ...] = ()


@dataclass(frozen=True)
class Offer:
    """What the environments of a task can show.

    Attributes:
        states: how many numbers a state may have, and which they are.
        cameras: names of the cameras that are drawn.
        black: names of cameras that are always black, for policies of states that insist on a camera.
        action_size: numbers of an action.
    """

    states: Mapping[int, str]
    cameras: tuple[str, ...]
    black: tuple[str, ...]
    action_size: int


@dataclass(frozen=True)
class StepResult:
    """What one action did.

    Attributes:
        success: the task's own criterion holds after this step.
        done: the episode is over (success, failure or step limit).
        reward: the environment's.
        clamped: the action had left the environment's range before it was clipped.
        joint_velocity: rad/s of the arm's joints, shape (J,).
        touched: the robot touched something that ends the episode as a failure.
    """

    success: bool
    done: bool
    reward: float
    clamped: bool
    joint_velocity: npt.NDArray[np.float64]
    touched: bool


class Environment(Protocol):
    """One simulated episode at a time, deterministic in (seed, actions)."""

    def reset(self, seed: int) -> Observation:
        """Start the episode of ``seed``; what the policy sees then."""
        ...

    def step(self, action: npt.ArrayLike) -> StepResult:
        """Apply one action. Nothing is drawn: most steps of a chunk are never looked at."""
        ...

    def observe(self) -> Observation:
        """What the policy sees now, by the environment's names: the state, and its cameras drawn at its size."""
        ...

    def render(self) -> npt.NDArray[np.uint8]:
        """Draw the scene for a film, uint8 (height, width, 3)."""
        ...

    def close(self) -> None:
        """Free what rendering holds."""
        ...
