"""One-step students of flow-matching policies, registered with LeRobot as a plugin.

LeRobot imports every installed distribution named ``lerobot_policy_*``; importing this package registers the
students' configurations and their processor steps. A network's module is imported when a policy is built.
"""

from lerobot_policy_flowstill.configuration_flowstill_pi0 import FlowstillPI0Config
from lerobot_policy_flowstill.configuration_flowstill_pi05 import FlowstillPI05Config
from lerobot_policy_flowstill.configuration_flowstill_smolvla import FlowstillSmolVLAConfig
from lerobot_policy_flowstill.stateless_prompt import StatelessPromptStep
from lerobot_policy_flowstill.tokenizer_step import EmbeddedTokenizerStep

__all__ = [
    "EmbeddedTokenizerStep",
    "FlowstillPI0Config",
    "FlowstillPI05Config",
    "FlowstillSmolVLAConfig",
    "StatelessPromptStep",
]
