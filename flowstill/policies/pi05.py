"""π0.5 behind :class:`~flowstill.policies.flow.FlowPolicy`: the state is written into the prompt."""

from collections.abc import Mapping
from typing import Any

from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from lerobot_policy_flowstill.modeling_flowstill_pi05 import FlowstillPI05Policy
from lerobot_policy_flowstill.paligemma import encode_prefix
from lerobot_policy_flowstill.prefix import Prefix, Prepared
from torch import Tensor

from flowstill.policies.openpi import OpenPiFlow


class PI05Flow(OpenPiFlow):
    """A π0.5 checkpoint."""

    teacher_type, student_type = "pi05", "flowstill_pi05"
    trained_parts = (
        "model.paligemma_with_expert.gemma_expert.model.",
        "model.action_in_proj.",
        "model.action_out_proj.",
        "model.time_mlp_in.",
        "model.time_mlp_out.",
        "model.target_time.",
    )

    @classmethod
    def policy_class(cls, kind: str) -> Any:
        """See :class:`LeRobotFlow`."""
        return PI05Policy if kind == cls.teacher_type else FlowstillPI05Policy

    def prepared(self, batch: Mapping[str, Any]) -> Prepared:
        """See :class:`FlowPolicy`."""
        return Prepared(*self.seen(batch), None)

    def encode(self, seen: Prepared) -> Prefix:
        """See :class:`LeRobotFlow`."""
        return encode_prefix(self.policy.model, seen)

    def call_expert(self, prefix: Prefix, x_t_BHD: Tensor, timestep: Tensor) -> Tensor:
        """See :class:`LeRobotFlow`."""
        return self.policy.model.denoise_step(prefix.pad_mask_BP, prefix.cache(), x_t_BHD, timestep)
