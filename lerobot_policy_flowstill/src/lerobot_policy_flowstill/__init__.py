"""One-step students of flow-matching policies, registered with LeRobot as a plugin.

LeRobot imports every installed distribution named ``lerobot_policy_*``; importing this package registers the
student's configuration and its tokenizer step. The weights' module is imported when a policy is built.
"""

from lerobot_policy_flowstill.configuration_flowstill_smolvla import FlowstillSmolVLAConfig
from lerobot_policy_flowstill.tokenizer_step import EmbeddedTokenizerStep

__all__ = ["EmbeddedTokenizerStep", "FlowstillSmolVLAConfig"]
