"""Configuration of a one-step π0 student."""

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig
from lerobot.policies.pi0.configuration_pi0 import PI0Config

from lerobot_policy_flowstill.one_step_options import OneStepOptions


@PreTrainedConfig.register_subclass("flowstill_pi0")
@dataclass
class FlowstillPI0Config(OneStepOptions, PI0Config):  # type: ignore[misc]
    """π0's own fields, and how a chunk is chosen.

    Attributes:
        num_inference_steps: 1: a student needs one function evaluation. More is refused unless ``multi_step``.
    """

    num_inference_steps: int = 1

    def __post_init__(self) -> None:
        """Refuse combinations that were never trained."""
        super().__post_init__()
        self.check(self.num_inference_steps)
