"""What training knows of a flow policy: the one place of the time convention.

t = 1 is noise and t = 0 is data: ``x_t = t·ε + (1 − t)·a``, velocity ``v = ε − a``. ``F(x, s, t)`` is the average
velocity from t down to s, so ``x_s = x_t − (t − s)·F(x_t, s, t)``; with s = t it is the instantaneous velocity.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from lerobot_policy_flowstill.prefix import Prefix, Prepared
from torch import Tensor

TIME_POWER = 1.5
TIME_SCALE, TIME_OFFSET = 0.999, 0.001


class FlowPolicy(Protocol):
    """A teacher or a student. B observations, K draws, H steps, D padded and A real action dimensions.

    Attributes:
        policy: LeRobot's policy.
        policy_type: LeRobot's type of it.
        is_student: whether it knows a target time.
        device: where it computes.
        chunk_size: H.
        action_steps: steps of a chunk that are executed.
        action_dim: A.
        padded_action_dim: D.
        state_dim: real dimensions of the state.
        cameras: names of its image features, without empty cameras and those that its last training did not show it.
        renamed: the data's names → its own, as its own processor renames them.
        shown: features that the data of its last training had, as far as its processors say.
        steps: denoising steps as it is used.
        draws: K as it is used.
        neighbours: neighbours that count for the density of a draw.
        multi_step: whether more than one step is meaningful.
        state_out: whether its prompt lacks the state that its teacher's has, so that their prefixes differ.
        token_length: tokens of the longest prompt.
        fixed_length: whether every prompt has that many, padding included.
    """

    policy: Any
    policy_type: str
    is_student: bool
    device: torch.device
    chunk_size: int
    action_steps: int
    action_dim: int
    padded_action_dim: int
    state_dim: int
    cameras: tuple[str, ...]
    renamed: Mapping[str, str]
    shown: frozenset[str]
    steps: int
    draws: int
    neighbours: int
    multi_step: bool
    state_out: bool
    token_length: int
    fixed_length: bool

    def preprocess(self, batch: Mapping[str, Any], state_noise_BS: Tensor | None = None) -> dict[str, Any]:
        """Raw observations and actions through the checkpoint's own processor; noise is added to normalised states."""
        ...

    def prepared(self, batch: Mapping[str, Any]) -> Prepared:
        """A preprocessed batch as the network takes it."""
        ...

    def prepare_action(self, batch: Mapping[str, Any]) -> Tensor:
        """Normalised actions padded to D."""
        ...

    def encode_prefix(self, batch: Mapping[str, Any]) -> Prefix:
        """The VLM's part, without gradient, from a preprocessed batch."""
        ...

    def velocity(
        self, prefix: Prefix, x_t_BHD: Tensor, t_B: Tensor, s_B: Tensor | None = None, *, any_pair: bool = False
    ) -> Tensor:
        """F(x, s, t), fp32; s None means s = t.

        A student is trained for s = t and for t = 1, s = 0; ``any_pair`` takes other pairs too, and reads no values,
        for which a GPU would have to be waited for.

        Raises:
            ValueError: another pair, unless ``any_pair``.
        """
        ...

    def jump(self, prefix: Prefix, noise_BKHD: Tensor) -> Tensor:
        """A student's normalised chunks (B, K, H, D), by one call of the expert."""
        ...

    def chunk(self, prefix: Prefix, noise_BHD: Tensor, steps: int) -> Tensor:
        """Normalised chunk (B, H, D): for a student one jump when ``steps`` is 1, else Euler steps."""
        ...

    def unnormalise(self, chunk_BHD: Tensor) -> Tensor:
        """Real dimensions in the robot's units, (B, H, A)."""
        ...

    def trained(self) -> Iterator[tuple[str, Tensor]]:
        """Names and parameters that distillation changes; everything else is frozen by this call."""
        ...

    def make_student(
        self, *, draws: int, neighbours: int, action_steps: int | None, multi_step: bool, state_out: bool = False
    ) -> "FlowPolicy":
        """A student that starts as this teacher."""
        ...

    def copy_trained(self) -> "FlowPolicy":
        """The same policy with copies of its own of what :meth:`trained` names; what is frozen is shared."""
        ...

    def save(self, folder: Path) -> None:
        """Write a student's checkpoint that LeRobot loads from anywhere, offline."""
        ...


def interpolate(action_BHD: Tensor, noise_BHD: Tensor, t_B: Tensor) -> Tensor:
    """x_t between data and noise."""
    t_B11 = t_B[:, None, None]
    return t_B11 * noise_BHD + (1 - t_B11) * action_BHD


def conditional_velocity(action_BHD: Tensor, noise_BHD: Tensor) -> Tensor:
    """The velocity that flow matching regresses to."""
    return noise_BHD - action_BHD


def time_law(uniform_B: Tensor) -> Tensor:
    """LeRobot's training times, Beta(1.5, 1)·0.999 + 0.001, from uniform numbers by the inverse of x^1.5."""
    return TIME_SCALE * uniform_B ** (1 / TIME_POWER) + TIME_OFFSET


def euler(policy: FlowPolicy, prefix: Prefix, noise_BHD: Tensor, steps: int) -> Tensor:
    """Equal Euler steps of the instantaneous velocity from t = 1 to 0, as LeRobot's sampler takes them."""
    x_BHD = noise_BHD
    dt = -1.0 / steps
    for step in range(steps):
        t_B = torch.full((x_BHD.shape[0],), 1.0 + step * dt, device=x_BHD.device)
        x_BHD = x_BHD + dt * policy.velocity(prefix, x_BHD, t_B)
    return x_BHD


def average_velocity(noise_BHD: Tensor, chunk_BHD: Tensor) -> Tensor:
    """F(x_1, 0, 1) of the jump that leads from the noise to the chunk."""
    return noise_BHD - chunk_BHD


def estimate_data(x_t_BHD: Tensor, velocity_BHD: Tensor, t_B: Tensor) -> Tensor:
    """x_0 = x_t − t·F: where a jump of F(x_t, 0, t) lands; with an instantaneous velocity, the data it points at."""
    return x_t_BHD - t_B[:, None, None] * velocity_BHD
