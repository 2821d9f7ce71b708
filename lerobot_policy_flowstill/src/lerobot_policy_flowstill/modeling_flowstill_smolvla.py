"""A one-step SmolVLA student: SmolVLA's network with a target time, one call of the expert, the densest draw.

Convention (LeRobot's own): t = 1 is noise, t = 0 is data. The student's chunk is ``x_1 − F(x_1, s=0, t=1)``.
"""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy, VLAFlowMatching
from torch import Tensor, nn

from lerobot_policy_flowstill.configuration_flowstill_smolvla import FlowstillSmolVLAConfig
from lerobot_policy_flowstill.draws import densest_chunk
from lerobot_policy_flowstill.prefix import Prefix, encode_prefix
from lerobot_policy_flowstill.target_time import TargetTimeEmbedding

VLM_FOLDER = "vlm"


class OneStepFlowMatching(VLAFlowMatching):  # type: ignore[misc]
    """SmolVLA's flow network that knows a target time.

    ``timestep`` of LeRobot's ``denoise_step`` may be (B, 2), the pairs (t, s); (B,) means s = t. After
    :meth:`fold` it may be None: t = 1 and s = 0 as a constant, so that an exported graph computes no times.
    """

    def __init__(self, config: FlowstillSmolVLAConfig, rtc_processor: Any = None) -> None:
        super().__init__(config, rtc_processor)
        self.target_time = TargetTimeEmbedding(self.vlm_with_expert.expert_hidden_size)
        self.register_buffer("folded_time_1E", None, persistent=False)

    def embed_time(self, time_B: Tensor, target_B: Tensor) -> Tensor:
        """The time embedding plus φ_s, (B, E)."""
        embedded_BE = create_sinusoidal_pos_embedding(
            time_B,
            self.vlm_with_expert.expert_hidden_size,
            self.config.min_period,
            self.config.max_period,
            device=time_B.device,
        )
        return embedded_BE.to(self.action_in_proj.weight.dtype) + self.target_time(target_B)

    def fold(self) -> None:
        """Keep the embedding of t = 1, s = 0 as a constant."""
        one = torch.ones(1, device=self.action_in_proj.weight.device)
        with torch.no_grad():
            self.folded_time_1E = self.embed_time(one, torch.zeros_like(one))

    def embed_suffix(self, noisy_actions: Tensor, timestep: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The chunk's tokens, that all exist, and that they are causal. (B, H, D) → (B, H, E), (B, H), (B, H)."""
        action_BHE = self.action_in_proj(noisy_actions)
        if timestep is None:
            time_BE = self.folded_time_1E.expand(action_BHE.shape[0], -1)
        else:
            time_B, target_B = timestep.unbind(1) if timestep.ndim == 2 else (timestep, timestep)
            time_BE = self.embed_time(time_B, target_B)
        time_BHE = time_BE.to(action_BHE.dtype)[:, None].expand_as(action_BHE)
        fused_BHE = self.action_time_mlp_in(torch.cat([action_BHE, time_BHE], dim=2))
        tokens_BHE = self.action_time_mlp_out(nn.functional.silu(fused_BHE))
        exists_BH = torch.ones(tokens_BHE.shape[:2], dtype=torch.bool, device=tokens_BHE.device)
        return tokens_BHE, exists_BH, exists_BH.to(tokens_BHE.dtype)

    def jump(self, prefix: Prefix, noise_BKHD: Tensor) -> Tensor:
        """All K chunks of every observation by one call of the expert, (B, K, H, D)."""
        many = prefix.repeat(noise_BKHD.shape[1])
        noise_XHD = noise_BKHD.flatten(0, 1)
        if self.folded_time_1E is None:
            timestep = noise_XHD.new_tensor([[1.0, 0.0]]).expand(noise_XHD.shape[0], -1)
        else:
            timestep = None
        velocity_XHD = self.denoise_step(many.pad_mask_BP, many.cache(), noise_XHD, timestep)
        return (noise_XHD - velocity_XHD).unflatten(0, noise_BKHD.shape[:2])

    def sample_all(
        self, images: list[Tensor], img_masks: list[Tensor], tokens: Tensor, token_mask: Tensor, state: Tensor,
        noise_BKHD: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """The chosen chunk (B, H, D), all (B, K, H, D), the choice (B,) and the densities (B, K)."""
        prefix = encode_prefix(self, images, img_masks, tokens, token_mask, state)
        all_BKHD = self.jump(prefix, noise_BKHD)
        actions_BHD, index_B, density_BK = densest_chunk(
            all_BKHD,
            action_steps=self.config.n_action_steps,
            action_dim=self.config.action_feature.shape[0],
            neighbours=self.config.draw_neighbours,
        )
        return actions_BHD, all_BKHD, index_B, density_BK

    def sample_actions(
        self, images: list[Tensor], img_masks: list[Tensor], lang_tokens: Tensor, lang_masks: Tensor, state: Tensor,
        noise: Tensor | None = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """One chunk an observation, (B, H, D). ``noise``: (B, H, D) for one draw, or (B, K, H, D)."""
        if noise is None:
            shape = (state.shape[0], self.config.draws, self.config.chunk_size, self.config.max_action_dim)
            noise = self.sample_noise(shape, state.device)
        if self.config.num_steps > 1:
            prefix = encode_prefix(self, images, img_masks, lang_tokens, lang_masks, state)
            first_BHD = noise if noise.ndim == 3 else noise[:, 0]
            return euler_integrate(
                lambda x_BHD, t_B: self.denoise_step(prefix.pad_mask_BP, prefix.cache(), x_BHD, t_B),
                first_BHD,
                self.config.num_steps,
            )
        noise_BKHD = noise if noise.ndim == 4 else noise[:, None]
        return self.sample_all(images, img_masks, lang_tokens, lang_masks, state, noise_BKHD)[0]


class FlowstillSmolVLAPolicy(SmolVLAPolicy):  # type: ignore[misc]
    """The student as LeRobot sees it; its VLM's configuration and tokenizer lie beside its weights."""

    config_class = FlowstillSmolVLAConfig
    name = "flowstill_smolvla"

    def __init__(self, config: FlowstillSmolVLAConfig, **kwargs: Any) -> None:
        PreTrainedPolicy.__init__(self, config)
        config.validate_features()
        self.init_rtc_processor()
        self.model = OneStepFlowMatching(config)
        self.reset()

    def supports_rtc(self) -> bool:
        """Real-time chunking guides intermediate steps, and a student has none."""
        return False

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: PreTrainedConfig | None = None, **kwargs: Any
    ) -> "FlowstillSmolVLAPolicy":
        """Load as LeRobot does; a VLM folder named relatively is the one beside ``config.json``."""
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
