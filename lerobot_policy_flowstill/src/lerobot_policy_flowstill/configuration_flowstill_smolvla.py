"""Configuration of a one-step SmolVLA student."""

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

from lerobot_policy_flowstill.one_step_options import OneStepOptions


@PreTrainedConfig.register_subclass("flowstill_smolvla")
@dataclass
class FlowstillSmolVLAConfig(OneStepOptions, SmolVLAConfig):  # type: ignore[misc]
    """SmolVLA's own fields, and how a chunk is chosen.

    Attributes:
        num_steps: 1: a student needs one function evaluation. More is refused unless ``multi_step``.
    """

    num_steps: int = 1

    def __post_init__(self) -> None:
        """Refuse combinations that were never trained."""
        super().__post_init__()
        self.check(self.num_steps)
