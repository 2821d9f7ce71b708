"""A one-step π0.5 student: π0.5's network with a target time in its adaRMS conditioning.

With ``state_out`` the state is not in its prompt: one projected token stands at the head of the expert's suffix.
"""

from dataclasses import replace
from typing import Any

import torch
from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding, pad_vector
from lerobot.policies.pi05.modeling_pi05 import PI05Policy, PI05Pytorch
from lerobot.utils.constants import OBS_STATE
from torch import Tensor, nn

from lerobot_policy_flowstill.configuration_flowstill_pi05 import FlowstillPI05Config
from lerobot_policy_flowstill.one_step import OneStep
from lerobot_policy_flowstill.one_step_policy import OneStepPolicy
from lerobot_policy_flowstill.paligemma import encode_prefix
from lerobot_policy_flowstill.prefix import Prefix, Prepared


def encode(model: Any, seen: Prepared) -> Prefix:
    """The VLM's part, and the state where it is a token of the expert's own."""
    return replace(encode_prefix(model, seen), state_BS=seen.state)


class OneStepPI05(OneStep, PI05Pytorch):  # type: ignore[misc]
    """π0.5's flow network that knows a target time."""

    def __init__(self, config: FlowstillPI05Config, rtc_processor: Any = None) -> None:
        PI05Pytorch.__init__(self, config, rtc_processor)
        self.add_parts()

    def add_parts(self) -> None:
        """See :meth:`OneStep.add_parts`; with ``state_out`` the state's projection too."""
        super().add_parts()
        if self.config.state_out:
            self.state_proj = nn.Linear(self.config.max_state_dim, self.action_in_proj.out_features)

    def encode(self, seen: Prepared) -> Prefix:
        """See :meth:`OneStep.encode`."""
        return encode(self, seen)

    def call_expert(self, prefix: Prefix, x_t_BHD: Tensor, timestep: Tensor | None) -> Tensor:
        """See :meth:`OneStep.call_expert`. LeRobot's ``denoise_step`` hands what it gets as x_t to the suffix only."""
        x_t = x_t_BHD if prefix.state_BS is None else (prefix.state_BS, x_t_BHD)
        return self.denoise_step(prefix.pad_mask_BP, prefix.cache(), x_t, timestep)

    def embed_time(self, time_B: Tensor, target_B: Tensor) -> Tensor:
        """The condition of every adaRMS norm plus φ_s, (B, E)."""
        embedded_BE = create_sinusoidal_pos_embedding(
            time_B,
            self.action_in_proj.out_features,
            min_period=self.config.min_period,
            max_period=self.config.max_period,
            device=time_B.device,
        )
        hidden_BE = nn.functional.silu(self.time_mlp_in(embedded_BE.to(time_B.dtype)))
        return nn.functional.silu(self.time_mlp_out(hidden_BE)) + self.target_time(target_B)

    def embed_suffix(
        self, noisy_actions: Tensor | tuple[Tensor, Tensor], timestep: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The suffix's tokens (B, X, E), that all exist, where blocks of attention start, and the condition.

        ``noisy_actions`` is x_t, or with ``state_out`` the pair of the state and x_t: the state's token comes first.

        Raises:
            ValueError: the state is missing.
        """
        if self.config.state_out and not isinstance(noisy_actions, tuple):
            raise ValueError("a state-out student needs the state: this prefix was encoded by another policy")
        state_BS, x_t_BHD = noisy_actions if isinstance(noisy_actions, tuple) else (None, noisy_actions)
        suffix_BXE = self.action_in_proj(x_t_BHD)
        starts = [1] + [0] * (suffix_BXE.shape[1] - 1)
        if state_BS is not None:
            suffix_BXE = torch.cat([self.state_proj(state_BS)[:, None], suffix_BXE], dim=1)
            starts = [1, *starts]
        condition_BE = self.time_condition(timestep, suffix_BXE.shape[0])
        exists_BX = torch.ones(suffix_BXE.shape[:2], dtype=torch.bool, device=suffix_BXE.device)
        starts_X = suffix_BXE.new_tensor(starts)
        return suffix_BXE, exists_BX, starts_X[None].expand(suffix_BXE.shape[0], -1), condition_BE

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def sample_actions(
        self, images: list[Tensor], img_masks: list[Tensor], tokens: Tensor, masks: Tensor,
        noise: Tensor | None = None, num_steps: int | None = None, state: Tensor | None = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """See :meth:`OneStep.sample`."""
        seen = Prepared(images, img_masks, tokens, masks, state)
        return self.sample(seen, noise, num_steps or self.config.num_inference_steps)


class FlowstillPI05Policy(OneStepPolicy, PI05Policy):  # type: ignore[misc]
    """The student as LeRobot sees it."""

    config_class = FlowstillPI05Config
    name = "flowstill_pi05"
    network = OneStepPI05

    def prepare_state(self, batch: dict[str, Tensor]) -> Tensor | None:
        """The padded state, where the network takes it; else None."""
        return pad_vector(batch[OBS_STATE], self.config.max_state_dim) if self.config.state_out else None

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def predict_action_chunk(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:
        """A chunk of real dimensions, normalised, as LeRobot's π0.5 predicts it."""
        return super().predict_action_chunk(batch, state=self.prepare_state(batch), **kwargs)
