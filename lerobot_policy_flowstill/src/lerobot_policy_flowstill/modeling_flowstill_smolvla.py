"""A one-step SmolVLA student: SmolVLA's network with a target time in its time embedding."""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding, make_att_2d_masks
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy, VLAFlowMatching
from torch import Tensor, nn

from lerobot_policy_flowstill.configuration_flowstill_smolvla import FlowstillSmolVLAConfig
from lerobot_policy_flowstill.one_step import OneStep
from lerobot_policy_flowstill.one_step_policy import OneStepPolicy
from lerobot_policy_flowstill.prefix import Prefix, Prepared, stored_layers

VLM_FOLDER = "vlm"


def encode(model: Any, seen: Prepared) -> Prefix:
    """The prefix pass of LeRobot's ``VLAFlowMatching.sample_actions``, by that model's own functions."""
    embeddings, pad_mask_BP, attention = model.embed_prefix(
        seen.images, seen.image_masks, seen.tokens, seen.token_mask, state=seen.state
    )
    _, cache = model.vlm_with_expert.forward(
        attention_mask=make_att_2d_masks(pad_mask_BP, attention),
        position_ids=pad_mask_BP.cumsum(1) - 1,
        past_key_values=None,
        inputs_embeds=[embeddings, None],
        use_cache=True,
    )
    return Prefix(pad_mask_BP, stored_layers(cache))


class OneStepSmolVLA(OneStep, VLAFlowMatching):  # type: ignore[misc]
    """SmolVLA's flow network that knows a target time."""

    def __init__(self, config: FlowstillSmolVLAConfig, rtc_processor: Any = None) -> None:
        VLAFlowMatching.__init__(self, config, rtc_processor)
        self.add_parts()
        # LeRobot builds the expert in whatever type the VLM's config names, bfloat16 for one.
        self.float()

    def encode(self, seen: Prepared) -> Prefix:
        """See :meth:`OneStep.encode`."""
        return encode(self, seen)

    def call_expert(self, prefix: Prefix, x_t_BHD: Tensor, timestep: Tensor | None) -> Tensor:
        """See :meth:`OneStep.call_expert`."""
        return self.denoise_step(prefix.pad_mask_BP, prefix.cache(), x_t_BHD, timestep)

    def embed_time(self, time_B: Tensor, target_B: Tensor) -> Tensor:
        """The time embedding plus φ_s, (B, E)."""
        embedded_BE = create_sinusoidal_pos_embedding(
            time_B,
            self.action_in_proj.out_features,
            self.config.min_period,
            self.config.max_period,
            device=time_B.device,
        )
        return embedded_BE.to(self.action_in_proj.weight.dtype) + self.target_time(target_B)

    def embed_suffix(self, noisy_actions: Tensor, timestep: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The chunk's tokens, that all exist, and that they are causal. (B, H, D) → (B, H, E), (B, H), (B, H)."""
        action_BHE = self.action_in_proj(noisy_actions)
        time_BE = self.time_condition(timestep, action_BHE.shape[0])
        time_BHE = time_BE.to(action_BHE.dtype)[:, None].expand_as(action_BHE)
        fused_BHE = self.action_time_mlp_in(torch.cat([action_BHE, time_BHE], dim=2))
        tokens_BHE = self.action_time_mlp_out(nn.functional.silu(fused_BHE))
        exists_BH = torch.ones(tokens_BHE.shape[:2], dtype=torch.bool, device=tokens_BHE.device)
        return tokens_BHE, exists_BH, exists_BH.to(tokens_BHE.dtype)

    def sample_actions(
        self, images: list[Tensor], img_masks: list[Tensor], lang_tokens: Tensor, lang_masks: Tensor, state: Tensor,
        noise: Tensor | None = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """See :meth:`OneStep.sample`."""
        seen = Prepared(images, img_masks, lang_tokens, lang_masks, state)
        return self.sample(seen, noise, self.config.num_steps)


class FlowstillSmolVLAPolicy(OneStepPolicy, SmolVLAPolicy):  # type: ignore[misc]
    """The student as LeRobot sees it; its VLM's configuration and tokenizer lie beside its weights."""

    config_class = FlowstillSmolVLAConfig
    name = "flowstill_smolvla"
    network = OneStepSmolVLA

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: PreTrainedConfig | None = None, **kwargs: Any
    ) -> "FlowstillSmolVLAPolicy":
        """Load as LeRobot does, but every tensor; a VLM folder named relatively is the one beside ``config.json``."""
        config = config or PreTrainedConfig.from_pretrained(pretrained_name_or_path)
        beside = Path(pretrained_name_or_path) / config.vlm_model_name
        if beside.is_dir():
            config = copy.copy(config)
            config.vlm_model_name = str(beside.resolve())
        policy: FlowstillSmolVLAPolicy = super().from_pretrained(pretrained_name_or_path, config=config, **kwargs)
        return policy

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write weights and configuration, and the VLM's configuration and tokenizer beside them."""
        folder = Path(save_directory)
        write_vlm_folder(self, folder / VLM_FOLDER)
        config: Any = self.config
        relative = copy.copy(config)
        relative.vlm_model_name, relative.load_vlm_weights = VLM_FOLDER, False
        self.config: Any = relative
        try:
            super()._save_pretrained(folder, state_dict)
        finally:
            self.config = config


def write_vlm_folder(policy: Any, folder: Path) -> None:
    """What it takes to build the policy's VLM and tokenizer offline; no weights."""
    source = Path(policy.config.vlm_model_name)
    if source.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            if file.is_file() and file.suffix in {".json", ".txt", ".model", ".jinja"}:
                shutil.copyfile(file, folder / file.name)
        return
    policy.model.vlm_with_expert.config.save_pretrained(folder)
    policy.model.vlm_with_expert.processor.save_pretrained(folder)
