"""A one-step π0 student: π0's network with a target time in its time embedding."""

from dataclasses import replace
from typing import Any

import torch
from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding
from lerobot.policies.pi0.modeling_pi0 import PI0Policy, PI0Pytorch
from torch import Tensor, nn

from lerobot_policy_flowstill.configuration_flowstill_pi0 import FlowstillPI0Config
from lerobot_policy_flowstill.one_step import OneStep
from lerobot_policy_flowstill.one_step_policy import OneStepPolicy
from lerobot_policy_flowstill.paligemma import encode_prefix
from lerobot_policy_flowstill.prefix import Prefix, Prepared


def encode(model: Any, seen: Prepared) -> Prefix:
    """The VLM's part, and the state, which is the expert's own token."""
    return replace(encode_prefix(model, seen), state_BS=seen.state)


class OneStepPI0(OneStep, PI0Pytorch):  # type: ignore[misc]
    """π0's flow network that knows a target time."""

    def __init__(self, config: FlowstillPI0Config, rtc_processor: Any = None) -> None:
        PI0Pytorch.__init__(self, config, rtc_processor)
        self.add_parts()

    def encode(self, seen: Prepared) -> Prefix:
        """See :meth:`OneStep.encode`."""
        return encode(self, seen)

    def call_expert(self, prefix: Prefix, x_t_BHD: Tensor, timestep: Tensor | None) -> Tensor:
        """See :meth:`OneStep.call_expert`."""
        return self.denoise_step(prefix.state_BS, prefix.pad_mask_BP, prefix.cache(), x_t_BHD, timestep)

    def embed_time(self, time_B: Tensor, target_B: Tensor) -> Tensor:
        """The time embedding plus φ_s, (B, E)."""
        embedded_BE = create_sinusoidal_pos_embedding(
            time_B,
            self.action_in_proj.out_features,
            min_period=self.config.min_period,
            max_period=self.config.max_period,
            device=time_B.device,
        )
        return embedded_BE.to(time_B.dtype) + self.target_time(target_B)

    def embed_suffix(
        self, state: Tensor, noisy_actions: Tensor, timestep: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        """The state's token and the chunk's: (B, 1 + H, E), that all exist, where blocks of attention start."""
        state_B1E = self.state_proj(state.to(self.state_proj.weight.dtype))[:, None]
        action_BHE = self.action_in_proj(noisy_actions)
        time_BE = self.time_condition(timestep, action_BHE.shape[0])
        fused_BHE = self.action_time_mlp_in(torch.cat([action_BHE, time_BE[:, None].expand_as(action_BHE)], dim=2))
        tokens_BHE = self.action_time_mlp_out(nn.functional.silu(fused_BHE))
        suffix_BXE = torch.cat([state_B1E, tokens_BHE], dim=1)
        exists_BX = torch.ones(suffix_BXE.shape[:2], dtype=torch.bool, device=suffix_BXE.device)
        starts_X = suffix_BXE.new_tensor([1, 1] + [0] * (tokens_BHE.shape[1] - 1))
        return suffix_BXE, exists_BX, starts_X[None].expand(suffix_BXE.shape[0], -1), None

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def sample_actions(
        self, images: list[Tensor], img_masks: list[Tensor], lang_tokens: Tensor, lang_masks: Tensor, state: Tensor,
        noise: Tensor | None = None, num_steps: int | None = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """See :meth:`OneStep.sample`."""
        seen = Prepared(images, img_masks, lang_tokens, lang_masks, state)
        return self.sample(seen, noise, num_steps or self.config.num_inference_steps)


class FlowstillPI0Policy(OneStepPolicy, PI0Policy):  # type: ignore[misc]
    """The student as LeRobot sees it."""

    config_class = FlowstillPI0Config
    name = "flowstill_pi0"
    network = OneStepPI0
