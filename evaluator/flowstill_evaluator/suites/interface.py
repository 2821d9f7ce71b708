"""The small interface of every suite: what a policy looks at, and one simulated episode at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Observation = dict[str, npt.NDArray[Any]]


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
        low: least value of each number of an action; None: -1.
        high: greatest value of each; None: 1.
        sizes: height and width of the cameras that draw at one size only; the others draw at the policy's.
        offscreen: MuJoCo draws the cameras, so a graphics library for it is looked for before anything starts.
    """

    states: Mapping[int, str]
    cameras: tuple[str, ...]
    black: tuple[str, ...]
    action_size: int
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    offscreen: bool = True

    def random_action(self, generator: np.random.Generator) -> npt.NDArray[np.float64]:
        """An action from anywhere in the range, shape (action_size,)."""
        low, high = (self.low or (-1.0,) * self.action_size), (self.high or (1.0,) * self.action_size)
        return generator.uniform(low, high)


@dataclass(frozen=True)
class StepResult:
    """What one action did.

    Attributes:
        success: the task's own criterion holds after this step.
        done: the episode is over (success, failure or step limit).
        reward: the environment's.
        clamped: the action had left the environment's range before it was clipped.
        joint_velocity: rad/s of the arm's joints, shape (J,); empty where the suite does not know them.
        touched: the robot touched something that ends the episode as a failure.
        ended: the environment ended the episode as a failure for another reason.
    """

    success: bool
    done: bool
    reward: float
    clamped: bool
    joint_velocity: npt.NDArray[np.float64]
    touched: bool
    ended: bool = False


class Environment(Protocol):
    """One simulated episode at a time, deterministic in (seed, actions).

    Attributes:
        offer: what it can show and takes.
        control_hz: actions a second of simulated time.
    """

    offer: Offer
    control_hz: float

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


class Suite(Protocol):
    """Environments by task. Small, immutable and hashable; it is pickled for the simulators' processes."""

    @property
    def name(self) -> str:
        """As ``spec.evaluation.suite`` has it."""
        ...

    @property
    def most_environments(self) -> int:
        """So many at a time fit into the memory of an ordinary machine."""
        ...

    def preflight(self, tasks: Sequence[str]) -> dict[str, str]:
        """Find out, before any episode starts, whether these tasks can run here.

        Returns:
            The sentence that tells a policy what to do, for each task.

        Raises:
            UserError: a task is unknown or listed twice, or something is missing; the message says what to install, or
                where it was looked for.
        """
        ...

    def offer(self, task: str) -> Offer:
        """What that task's environments can show; after :meth:`preflight`."""
        ...

    def environment(self, task: str, view: View | None = None) -> Environment:
        """Make the environment of one task.

        Args:
            task: one of the suite's.
            view: what the policy looks at (``views.view_of``); default: a state, for replays nobody looks at.

        Raises:
            UserError: no such task.
        """
        ...


def checked_action(action: npt.ArrayLike, size: int, *, over: bool) -> npt.NDArray[np.float64]:
    """The action as numbers, shape (size,).

    Args:
        action: as a policy gave it.
        size: numbers of an action.
        over: whether the episode is.

    Raises:
        ValueError: wrong shape, or a number that is not finite.
        RuntimeError: the episode is over.
    """
    action_D = np.asarray(action, dtype=np.float64)
    if action_D.shape != (size,) or not np.isfinite(action_D).all():
        raise ValueError(f"action: expected {size} finite numbers, got {action_D!r}")
    if over:
        raise RuntimeError("this episode is over: call reset(seed) before the next step")
    return action_D
