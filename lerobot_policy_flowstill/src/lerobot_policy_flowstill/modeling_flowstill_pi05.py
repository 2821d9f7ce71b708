"""A one-step π0.5 student: π0.5's network with a target time in its adaRMS conditioning."""

from pathlib import Path
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding
from lerobot.policies.pi05.modeling_pi05 import PI05Policy, PI05Pytorch
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor, nn

from lerobot_policy_flowstill.configuration_flowstill_pi05 import FlowstillPI05Config
from lerobot_policy_flowstill.one_step import OneStep
from lerobot_policy_flowstill.paligemma import encode_prefix
from lerobot_policy_flowstill.prefix import Prefix, Prepared


class OneStepPI05(OneStep, PI05Pytorch):  # type: ignore[misc]
    """π0.5's flow network that knows a target time."""

    def __init__(self, config: FlowstillPI05Config, rtc_processor: Any = None) -> None:
        PI05Pytorch.__init__(self, config, rtc_processor)
        self.add_parts()

    def encode(self, seen: Prepared) -> Prefix:
        """See :meth:`OneStep.encode`; the state is in the prompt."""
        return encode_prefix(self, seen)

    def call_expert(self, prefix: Prefix, x_t_BHD: Tensor, timestep: Tensor | None) -> Tensor:
        """See :meth:`OneStep.call_expert`."""
        return self.denoise_step(prefix.pad_mask_BP, prefix.cache(), x_t_BHD, timestep)

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

    def embed_suffix(self, noisy_actions: Tensor, timestep: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The chunk's tokens (B, H, E), that all exist, where blocks of attention start, and the condition."""
        action_BHE = self.action_in_proj(noisy_actions)
        condition_BE = self.time_condition(timestep, action_BHE.shape[0])
        exists_BH = torch.ones(action_BHE.shape[:2], dtype=torch.bool, device=action_BHE.device)
        starts_H = action_BHE.new_tensor([1] + [0] * (action_BHE.shape[1] - 1))
        return action_BHE, exists_BH, starts_H[None].expand(action_BHE.shape[0], -1), condition_BE

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def sample_actions(
        self, images: list[Tensor], img_masks: list[Tensor], tokens: Tensor, masks: Tensor,
        noise: Tensor | None = None, num_steps: int | None = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """See :meth:`OneStep.sample`."""
        seen = Prepared(images, img_masks, tokens, masks, None)
        return self.sample(seen, noise, num_steps or self.config.num_inference_steps)


class FlowstillPI05Policy(PI05Policy):  # type: ignore[misc]
    """The student as LeRobot sees it."""

    config_class = FlowstillPI05Config
    name = "flowstill_pi05"

    def __init__(self, config: FlowstillPI05Config, **kwargs: Any) -> None:
        PreTrainedPolicy.__init__(self, config)
        config.validate_features()
        self.init_rtc_processor()
        self.model = OneStepPI05(config)
        self.reset()

    def supports_rtc(self) -> bool:
        """Real-time chunking guides intermediate steps, and a student has none."""
        return False

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: PreTrainedConfig | None = None, **kwargs: Any
    ) -> "FlowstillPI05Policy":
        """Load as LeRobot's base class does; π0.5's own loader keeps random weights where a tensor is missing."""
        load = super(PI05Policy, cls).from_pretrained
        policy: FlowstillPI05Policy = load(pretrained_name_or_path, config=config, **(kwargs | {"strict": True}))
        return policy
