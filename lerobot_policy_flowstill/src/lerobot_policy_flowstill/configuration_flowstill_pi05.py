"""Configuration of a one-step π0.5 student."""

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig
from lerobot.policies.pi05.configuration_pi05 import PI05Config

from lerobot_policy_flowstill.one_step_options import OneStepOptions


@PreTrainedConfig.register_subclass("flowstill_pi05")
@dataclass
class FlowstillPI05Config(OneStepOptions, PI05Config):  # type: ignore[misc]
    """π0.5's own fields, and how a chunk is chosen.

    Attributes:
        num_inference_steps: 1: a student needs one function evaluation. More is refused unless ``multi_step``.
        state_out: the state is a token at the head of the expert's suffix, and not in the prompt.
    """

    num_inference_steps: int = 1
    state_out: bool = False

    def __post_init__(self) -> None:
        """Refuse combinations that were never trained."""
        super().__post_init__()
        self.check(self.num_inference_steps)
