"""π0.5 behind :class:`~flowstill.policies.flow.FlowPolicy`: the state is written into the prompt."""

from collections.abc import Mapping
from typing import Any

from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from lerobot.policies.pi05.processor_pi05 import Pi05PrepareStateTokenizerProcessorStep
from lerobot_policy_flowstill.modeling_flowstill_pi05 import FlowstillPI05Policy, encode
from lerobot_policy_flowstill.prefix import Prefix, Prepared
from lerobot_policy_flowstill.stateless_prompt import StatelessPromptStep
from lerobot_policy_flowstill.tokenizer_step import with_steps
from torch import Tensor

from flowstill.policies.openpi import OpenPiFlow


class PI05Flow(OpenPiFlow):
    """A π0.5 checkpoint. A state-out student gets its state as a token, in a prompt that does not change with it."""

    teacher_type, student_type = "pi05", "flowstill_pi05"
    offers_state_out = True
    trained_parts = (
        "model.paligemma_with_expert.gemma_expert.model.",
        "model.action_in_proj.",
        "model.action_out_proj.",
        "model.time_mlp_in.",
        "model.time_mlp_out.",
        "model.target_time.",
        "model.state_proj.",
    )

    @classmethod
    def policy_class(cls, kind: str) -> Any:
        """See :class:`LeRobotFlow`."""
        return PI05Policy if kind == cls.teacher_type else FlowstillPI05Policy

    def prepared(self, batch: Mapping[str, Any]) -> Prepared:
        """See :class:`FlowPolicy`."""
        state_BS = self.policy.prepare_state(batch) if self.is_student else None
        return Prepared(*self.seen(batch), state_BS)

    def encode(self, seen: Prepared) -> Prefix:
        """See :class:`LeRobotFlow`."""
        return encode(self.policy.model, seen)

    def call_expert(self, prefix: Prefix, x_t_BHD: Tensor, timestep: Tensor) -> Tensor:
        """See :class:`LeRobotFlow`."""
        model = self.policy.model
        if self.is_student:
            return model.call_expert(prefix, x_t_BHD, timestep)
        return model.denoise_step(prefix.pad_mask_BP, prefix.cache(), x_t_BHD, timestep)

    def without_state(self, pipeline: Any) -> Any:
        """See :class:`LeRobotFlow`."""
        return with_steps(
            pipeline,
            [
                StatelessPromptStep() if isinstance(step, Pi05PrepareStateTokenizerProcessorStep) else step
                for step in pipeline.steps
            ],
        )
