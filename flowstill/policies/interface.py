"""What evaluation and serving know of a policy. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

STATE, IMAGE, TASK = "observation.state", "observation.image", "task"
"""LeRobot's names of what a policy sees; IMAGE is also how the names of cameras begin."""
Floats = npt.NDArray[np.float32]
Observations = Mapping[str, Any]
"""``observation.state`` (B, S) float32, ``observation.images.X`` (B, height, width, 3) uint8, ``task`` B strings."""


@dataclass(frozen=True)
class RunnerInfo:
    """What a runner is.

    Attributes:
        policy_type: LeRobot's type of the checkpoint.
        runtime: what computes.
        providers: execution providers that are really used, best first.
        steps: function evaluations of the expert per chunk.
        draws: K, noises that it takes per observation.
        chunk_size: H.
        action_dim: real action dimensions, A.
        padded_action_dim: D, of noise and normalised chunks.
        action_steps: steps of a chunk that are executed.
        state_dim: S.
        cameras: names of its image features.
        renamed: the data's names → its own, as its own processor renames them: it takes both.
        camera_sizes: height and width of each.
        digest: of the artifact.
    """

    policy_type: str
    runtime: Literal["torch", "onnx"]
    providers: tuple[str, ...]
    steps: int
    draws: int
    chunk_size: int
    action_dim: int
    padded_action_dim: int
    action_steps: int
    state_dim: int
    cameras: tuple[str, ...]
    camera_sizes: tuple[tuple[int, int], ...]
    digest: str
    renamed: Mapping[str, str] = field(default_factory=dict, hash=False)


def camera_size(shape_3HW: Sequence[int]) -> tuple[int, int]:
    """Height and width of an image feature, whose shape LeRobot writes channels first."""
    _, height, width = shape_3HW
    return height, width


@dataclass(frozen=True)
class Chunks:
    """What a call returns. B observations, K draws, H steps, D padded and A real dimensions.

    Attributes:
        actions_BHA: the chosen chunk in the robot's units.
        normalised_BHD: the same as the network gave it.
        all_normalised_BKHD: every draw.
        index_B: which draw was chosen.
        density_BK: minus the mean distance to the nearest draws; 0 with one draw.
    """

    actions_BHA: Floats
    normalised_BHD: Floats
    all_normalised_BKHD: Floats
    index_B: npt.NDArray[np.int64]
    density_BK: Floats


class Runner(Protocol):
    """A policy that acts."""

    info: RunnerInfo

    def act(self, observations: Observations, noise_BKHD: Floats) -> Chunks:
        """One chunk an observation, from the given noise."""
        ...
