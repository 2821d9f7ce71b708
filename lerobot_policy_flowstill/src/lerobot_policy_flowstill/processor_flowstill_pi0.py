"""Processors of a one-step π0 student, in π0's own order."""

from typing import Any

from lerobot.policies.pi0.processor_pi0 import make_pi0_pre_post_processors
from torch import Tensor

from lerobot_policy_flowstill.configuration_flowstill_pi0 import FlowstillPI0Config
from lerobot_policy_flowstill.tokenizer_step import embed_tokenizer


def make_flowstill_pi0_pre_post_processors(
    config: FlowstillPI0Config, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> tuple[Any, Any]:
    """New processors from statistics. A published student brings its teacher's, which LeRobot loads instead."""
    before, after = make_pi0_pre_post_processors(config, dataset_stats)
    return embed_tokenizer(before), after
