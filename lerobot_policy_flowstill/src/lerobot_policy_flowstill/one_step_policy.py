"""What makes LeRobot's policy around a flow network a one-step student's."""

from pathlib import Path
from typing import Any, ClassVar, Self

from lerobot.configs import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy

from lerobot_policy_flowstill.heads import drop_heads


class OneStepPolicy:
    """Mixed into one of LeRobot's policies, before it.

    Attributes:
        network: the class of its flow network.
    """

    network: ClassVar[Any]

    def __init__(self: Any, config: PreTrainedConfig, **kwargs: Any) -> None:
        PreTrainedPolicy.__init__(self, config)
        config.validate_features()
        self.init_rtc_processor()
        self.model = self.network(config)
        drop_heads(self.model)
        self.reset()

    def supports_rtc(self) -> bool:
        """Real-time chunking guides intermediate steps, and a student has none."""
        return False

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: PreTrainedConfig | None = None, **kwargs: Any
    ) -> Self:
        """Load as LeRobot's base class does, every tensor: π0's own loader keeps random weights for a missing one."""
        load = PreTrainedPolicy.from_pretrained.__func__
        policy: Self = load(cls, pretrained_name_or_path, config=config, **(kwargs | {"strict": True}))
        return policy
