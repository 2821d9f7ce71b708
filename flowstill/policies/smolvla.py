"""SmolVLA behind :class:`~flowstill.policies.flow.FlowPolicy`: the state is the last token of the prefix."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from lerobot_policy_flowstill.modeling_flowstill_smolvla import VLM_FOLDER, FlowstillSmolVLAPolicy, encode
from lerobot_policy_flowstill.prefix import Prefix, Prepared
from torch import Tensor

from flowstill.errors import TeacherRejected
from flowstill.policies.checkpoints import beside, elsewhere, first_line
from flowstill.policies.lerobot_flow import LeRobotFlow


class SmolVLAFlow(LeRobotFlow):
    """A SmolVLA checkpoint. ``state_proj`` belongs to the prefix here, so it stays frozen with the VLM."""

    teacher_type, student_type = "smolvla", "flowstill_smolvla"
    steps_option = "num_steps"
    trained_parts = (
        "model.vlm_with_expert.lm_expert.",
        "model.action_in_proj.",
        "model.action_out_proj.",
        "model.action_time_mlp_in.",
        "model.action_time_mlp_out.",
        "model.target_time.",
    )

    @classmethod
    def policy_class(cls, kind: str) -> Any:
        """See :class:`LeRobotFlow`."""
        return SmolVLAPolicy if kind == cls.teacher_type else FlowstillSmolVLAPolicy

    @classmethod
    def adapt_config(cls, config: Any, folder: Path, field: str) -> None:
        """The VLM is built from the folder beside the checkpoint where there is one."""
        if config.adapt_to_pi_aloha:
            raise TeacherRejected(
                "adapt_to_pi_aloha rewrites states and actions outside the processors; not supported", field=field
            )
        config.vlm_model_name = beside(folder, config.vlm_model_name, VLM_FOLDER)
        config.load_vlm_weights = False  # all weights come from the checkpoint
        config.use_cache = True

    @classmethod
    def tokenizer(cls, config: Any) -> str | None:
        """The VLM's."""
        return str(config.vlm_model_name)

    @classmethod
    def unbuilt(cls, config: Any, error: Exception) -> str:
        """The VLM's configuration, processor and tokenizer are not part of what LeRobot saves."""
        vlm = str(config.vlm_model_name)
        if not Path(vlm).is_dir():
            return elsewhere("the VLM", vlm, "*.json", VLM_FOLDER)
        return (
            f"the VLM cannot be built from {vlm} ({first_line(error)}); it needs config.json, tokenizer.json and "
            "processor_config.json of the VLM that was fine-tuned"
        )

    def prepared(self, batch: Mapping[str, Any]) -> Prepared:
        """See :class:`FlowPolicy`."""
        images, masks = self.policy.prepare_images(batch)
        tokens, token_mask = batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK]
        return Prepared(images, masks, tokens, token_mask, self.policy.prepare_state(batch))

    def encode(self, seen: Prepared) -> Prefix:
        """See :class:`LeRobotFlow`."""
        return encode(self.policy.model, seen)

    def call_expert(self, prefix: Prefix, x_t_BHD: Tensor, timestep: Tensor) -> Tensor:
        """See :class:`LeRobotFlow`."""
        return self.policy.model.denoise_step(prefix.pad_mask_BP, prefix.cache(), x_t_BHD, timestep)
