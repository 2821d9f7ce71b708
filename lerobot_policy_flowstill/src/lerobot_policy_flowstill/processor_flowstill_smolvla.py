"""Processors of a one-step SmolVLA student, in SmolVLA's own order."""

from typing import Any

from lerobot.processor import (
    NewLineTaskProcessorStep,
    make_default_policy_processor_steps,
    make_policy_processor_pipelines,
)
from torch import Tensor

from lerobot_policy_flowstill.configuration_flowstill_smolvla import FlowstillSmolVLAConfig
from lerobot_policy_flowstill.tokenizer_step import EmbeddedTokenizerStep, tokenizer_from


def make_flowstill_smolvla_pre_post_processors(
    config: FlowstillSmolVLAConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> tuple[Any, Any]:
    """New processors from statistics. A published student brings its teacher's, which LeRobot loads instead."""
    steps = make_default_policy_processor_steps(config, dataset_stats)
    tokenizer = EmbeddedTokenizerStep(
        tokenizer=tokenizer_from(config.vlm_model_name),
        padding=config.pad_language_to,
        padding_side="right",
        max_length=config.tokenizer_max_length,
    )
    pipelines: tuple[Any, Any] = make_policy_processor_pipelines(
        input_steps=[
            steps.rename_observations,
            steps.add_batch_dim,
            NewLineTaskProcessorStep(),
            tokenizer,
            steps.to_device,
            steps.normalize,
        ],
        output_steps=[steps.unnormalize, steps.to_cpu],
    )
    return pipelines
