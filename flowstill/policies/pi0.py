"""π0 behind :class:`~flowstill.policies.flow.FlowPolicy`: the state is the first token of the expert's suffix."""

from collections.abc import Mapping
from typing import Any

from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from lerobot_policy_flowstill.modeling_flowstill_pi0 import FlowstillPI0Policy, encode
from lerobot_policy_flowstill.prefix import Prefix, Prepared
from torch import Tensor

from flowstill.policies.openpi import OpenPiFlow


class PI0Flow(OpenPiFlow):
    """A π0 checkpoint. ``state_proj`` belongs to the expert here, so it is trained."""

    teacher_type, student_type = "pi0", "flowstill_pi0"
    trained_parts = (
        "model.paligemma_with_expert.gemma_expert.model.",
        "model.action_in_proj.",
        "model.action_out_proj.",
        "model.state_proj.",
        "model.action_time_mlp_in.",
        "model.action_time_mlp_out.",
        "model.target_time.",
    )

    @classmethod
    def policy_class(cls, kind: str) -> Any:
        """See :class:`LeRobotFlow`."""
        return PI0Policy if kind == cls.teacher_type else FlowstillPI0Policy

    def prepared(self, batch: Mapping[str, Any]) -> Prepared:
        """See :class:`FlowPolicy`."""
        return Prepared(*self.seen(batch), self.policy.prepare_state(batch))

    def encode(self, seen: Prepared) -> Prefix:
        """See :class:`LeRobotFlow`."""
        return encode(self.policy.model, seen)

    def call_expert(self, prefix: Prefix, x_t_BHD: Tensor, timestep: Tensor) -> Tensor:
        """See :class:`LeRobotFlow`."""
        model = self.policy.model
        return model.denoise_step(prefix.state_BS, prefix.pad_mask_BP, prefix.cache(), x_t_BHD, timestep)
