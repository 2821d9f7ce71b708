"""Processors of a one-step π0.5 student, in π0.5's own order."""

from typing import Any

from lerobot.policies.pi05.processor_pi05 import make_pi05_pre_post_processors
from torch import Tensor

from lerobot_policy_flowstill.configuration_flowstill_pi05 import FlowstillPI05Config
from lerobot_policy_flowstill.tokenizer_step import embed_tokenizer


def make_flowstill_pi05_pre_post_processors(
    config: FlowstillPI05Config, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> tuple[Any, Any]:
    """New processors from statistics. A published student brings its teacher's, which LeRobot loads instead."""
    before, after = make_pi05_pre_post_processors(config, dataset_stats)
    return embed_tokenizer(before), after
