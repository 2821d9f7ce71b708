"""Load a checkpoint whose ``vlm_model_name`` is relative to its own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy


def load_teacher(folder: Path) -> tuple[SmolVLAPolicy, Any, Any]:
    """Policy (eval mode), preprocessor and postprocessor, offline.

    Two things must be said to LeRobot, because it would read ``vlm`` relative to the working directory:
    the policy's ``vlm_model_name`` and the tokenizer step's ``tokenizer_name``.
    """
    config = PreTrainedConfig.from_pretrained(folder, local_files_only=True)
    vlm = str((folder / config.vlm_model_name).resolve())
    config.vlm_model_name = vlm
    policy = SmolVLAPolicy.from_pretrained(folder, config=config, local_files_only=True, strict=True)
    preprocess, postprocess = make_pre_post_processors(
        config,
        pretrained_path=str(folder),
        preprocessor_overrides={"tokenizer_processor": {"tokenizer_name": vlm}},
    )
    policy.eval()
    return policy, preprocess, postprocess
