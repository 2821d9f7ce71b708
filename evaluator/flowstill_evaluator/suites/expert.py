"""A scripted expert for the post: it goes round on the left or on the right, for no visible reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flowstill_evaluator.suites.reach_around import POST_XY

_TIP_BELOW_HAND = np.array([0.0, 0.0, 0.045])  # m, from the hand's frame down to the finger tips
_LOOK_AHEAD = 0.035  # m along the path
_PATH_POINTS = 200
_PUSH_DECAY = 0.85  # a push lasts a handful of actions


@dataclass(frozen=True)
class ExpertAction:
    """The action to record, and the slightly disturbed one to execute, each shape (4,)."""

    label: npt.NDArray[np.float64]
    executed: npt.NDArray[np.float64]


class Pushes:
    """Disturbances of dx, dy, dz that last a handful of actions, in action units."""

    def __init__(self, generator: np.random.Generator, disturbance: float) -> None:
        self._draw = generator
        self._spread = disturbance * np.sqrt(1 - _PUSH_DECAY**2)
        self._push: npt.NDArray[np.float64] = np.zeros(3)

    def disturb(self, label: npt.NDArray[np.float64]) -> ExpertAction:
        """The action to record is ``label``; the next push is added to the one to execute."""
        self._push = _PUSH_DECAY * self._push + self._draw.normal(0.0, self._spread, 3)
        executed = np.clip(label + np.append(self._push, 0.0), -1.0, 1.0)
        return ExpertAction(label=label, executed=executed)


class WayRoundExpert:
    """Follows a cubic curve round the post, with its side, width, speed and height drawn anew each time.

    While it drives, its actions are disturbed but the undisturbed ones are recorded, so that the
    demonstrations show how to come back to the path (Laskey et al. 2017, DART, arXiv 1703.09327).
    """

    def __init__(self, generator: np.random.Generator, disturbance: float = 0.1) -> None:
        """Prepare an expert.

        Args:
            generator: draws side and path; keep it apart from the environment's seed.
            disturbance: standard deviation of the push on dx, dy, dz, in action units.
        """
        self._draw = generator
        self._disturbance = disturbance

    def start(self, state: npt.NDArray[np.float32]) -> None:
        """Plan a path from the first observation's seven numbers."""
        hand, goal = state[:3].astype(float), state[4:7] + _TIP_BELOW_HAND
        self.side = int(self._draw.choice((-1, 1)))
        self.speed = self._draw.uniform(0.70, 0.76)  # of the 1 cm an action can ask for
        width = self.side * self._draw.uniform(0.94, 1.08)
        height = (hand[2] + goal[2]) / 2 + self._draw.uniform(-0.02, 0.02)
        # Leaves the start at about 45 degrees, so that the mean of both sides heads for the post.
        swerve = np.array([0.13 * width, hand[1] + 0.10, height])
        beside = np.array([0.30 * width, POST_XY[1] + 0.06, height])
        t = np.linspace(0.0, 1.0, _PATH_POINTS)[:, None]
        self._path_P3 = (1 - t) ** 3 * hand + 3 * t * (1 - t) ** 2 * swerve + 3 * t**2 * (1 - t) * beside + t**3 * goal
        steps_P = np.linalg.norm(np.diff(self._path_P3, axis=0), axis=1)
        self._length_P = np.concatenate([[0.0], np.cumsum(steps_P)])
        self._nearest = 0
        self._pushes = Pushes(self._draw, self._disturbance)

    def act(self, state: npt.NDArray[np.float32]) -> ExpertAction:
        """Steer towards the point a little ahead on the path; close the gripper on the way."""
        hand = state[:3].astype(float)
        window = slice(self._nearest, self._nearest + _PATH_POINTS // 4)
        self._nearest += int(np.argmin(np.linalg.norm(self._path_P3[window] - hand, axis=1)))
        wanted = self._length_P[self._nearest] + _LOOK_AHEAD
        ahead = self._path_P3[min(int(np.searchsorted(self._length_P, wanted)), _PATH_POINTS - 1)]
        direction = (ahead - hand) / max(float(np.linalg.norm(ahead - hand)), 1e-6)
        travelled = self._length_P[self._nearest] / self._length_P[-1]
        label = np.append(self.speed * direction, 1.2 * travelled - 0.6)
        return self._pushes.disturb(label)
