"""What makes LeRobot's flow network a one-step student: a target time, one call of the expert, the densest draw.

Convention (LeRobot's own): t = 1 is noise, t = 0 is data. The student's chunk is ``x_1 − F(x_1, s=0, t=1)``.
"""

from abc import abstractmethod
from typing import Any

import torch
from lerobot.policies.common.flow_matching import euler_integrate
from torch import Tensor, nn

from lerobot_policy_flowstill.draws import densest_chunk
from lerobot_policy_flowstill.prefix import Prefix, Prepared
from lerobot_policy_flowstill.target_time import TargetTimeEmbedding


class OneStep(nn.Module):  # type: ignore[misc]
    """Mixed into one of LeRobot's flow networks.

    ``timestep`` of LeRobot's ``denoise_step`` may be (B, 2), the pairs (t, s); (B,) means s = t. After
    :meth:`fold` it may be None: t = 1 and s = 0 as a constant, so that an exported graph computes no times.

    Trained are s = t (where ``multi_step`` is) and the pair (1, 0), no other; values are not checked here, because this
    is what graphs are made from. Who takes pairs from elsewhere calls ``check_times`` first.
    """

    config: Any

    def add_parts(self) -> None:
        """The parts that a teacher does not have; their output is zero at first."""
        self.target_time = TargetTimeEmbedding(self.action_in_proj.out_features)
        self.register_buffer("folded_time_1E", None, persistent=False)

    @abstractmethod
    def encode(self, seen: Prepared) -> Prefix:
        """The VLM's part."""

    @abstractmethod
    def call_expert(self, prefix: Prefix, x_t_BHD: Tensor, timestep: Tensor | None) -> Tensor:
        """F(x, s, t) by LeRobot's ``denoise_step``."""

    @abstractmethod
    def embed_time(self, time_B: Tensor, target_B: Tensor) -> Tensor:
        """What the network computes from times alone, φ_s included, (B, E)."""

    def time_condition(self, timestep: Tensor | None, batch: int) -> Tensor:
        """:meth:`embed_time` of what ``denoise_step`` was given."""
        if timestep is None:
            return self.folded_time_1E.expand(batch, -1)
        time_B, target_B = timestep.unbind(1) if timestep.ndim == 2 else (timestep, timestep)
        return self.embed_time(time_B, target_B)

    def fold(self) -> None:
        """Keep what the network computes from t = 1, s = 0 as a constant."""
        one = torch.ones(1, device=self.action_in_proj.weight.device)
        with torch.no_grad():
            self.folded_time_1E = self.embed_time(one, torch.zeros_like(one))

    def unfold(self) -> None:
        """Undo :meth:`fold`: times are computed again from the weights as they are."""
        self.folded_time_1E = None

    def jump(self, prefix: Prefix, noise_BKHD: Tensor) -> Tensor:
        """All K chunks of every observation by one call of the expert, (B, K, H, D)."""
        noise_XHD = noise_BKHD.flatten(0, 1)
        timestep = None
        if self.folded_time_1E is None:
            timestep = noise_XHD.new_tensor([[1.0, 0.0]]).expand(noise_XHD.shape[0], -1)
        velocity_XHD = self.call_expert(prefix.repeat(noise_BKHD.shape[1]), noise_XHD, timestep)
        return (noise_XHD - velocity_XHD).unflatten(0, noise_BKHD.shape[:2])

    def sample_all(self, seen: Prepared, noise_BKHD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The chosen chunk (B, H, D), all (B, K, H, D), the choice (B,) and the densities (B, K)."""
        return self.sample_after(self.encode(seen), noise_BKHD)

    def sample_after(self, prefix: Prefix, noise_BKHD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """:meth:`sample_all` from a prefix that was encoded before."""
        all_BKHD = self.jump(prefix, noise_BKHD)
        actions_BHD, index_B, density_BK = densest_chunk(
            all_BKHD,
            action_steps=self.config.n_action_steps,
            action_dim=self.config.action_feature.shape[0],
            neighbours=self.config.draw_neighbours,
        )
        return actions_BHD, all_BKHD, index_B, density_BK

    def sample(self, seen: Prepared, noise: Tensor | None, steps: int) -> Tensor:
        """One chunk an observation, (B, H, D). ``noise``: (B, H, D) for one draw, or (B, K, H, D).

        Raises:
            ValueError: more steps than were trained.
        """
        self.config.check(steps)
        if noise is None:
            shape = (seen.tokens.shape[0], self.config.draws, self.config.chunk_size, self.config.max_action_dim)
            noise = self.sample_noise(shape, seen.tokens.device)
        noise_BKHD = noise if noise.ndim == 4 else noise[:, None]
        if steps == 1:
            return self.sample_all(seen, noise_BKHD)[0]
        prefix = self.encode(seen)
        return euler_integrate(lambda x_BHD, t_B: self.call_expert(prefix, x_BHD, t_B), noise_BKHD[:, 0], steps)
