"""Processors of a one-step SmolVLA student, in SmolVLA's own order."""

from typing import Any

from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors
from torch import Tensor

from lerobot_policy_flowstill.configuration_flowstill_smolvla import FlowstillSmolVLAConfig
from lerobot_policy_flowstill.tokenizer_step import embed_tokenizer


def make_flowstill_smolvla_pre_post_processors(
    config: FlowstillSmolVLAConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> tuple[Any, Any]:
    """New processors from statistics. A published student brings its teacher's, which LeRobot loads instead."""
    before, after = make_smolvla_pre_post_processors(config, dataset_stats)
    return embed_tokenizer(before), after
