"""A checkpoint as ``lerobot-train --policy.path=BASE --rename_map=…`` leaves it (LeRobot 0.6.1), without training."""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.support.tiny_smolvla import CAMERA

BASES_OTHER = "observation.images.wrist"
"""A camera that the base policy has besides the tiny ones' own, and the data has not."""


def add_camera(folder: Path) -> None:
    """The checkpoint's policy looks through one more."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["input_features"][BASES_OTHER] = config["input_features"][CAMERA]
    file.write_text(json.dumps(config))


def write_fine_tune(base: Path, folder: Path, statistics: dict[str, Any], renamed: dict[str, str]) -> Path:
    """The base with one more camera, and processors with the data's statistics and names.

    Args:
        base: of a tiny teacher.
        folder: to write.
        statistics: of the data that it was trained on, by the data's names.
        renamed: the data's names → the policy's.
    """
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import make_pre_post_processors

    shutil.copytree(base, folder)
    add_camera(folder)
    config = PreTrainedConfig.from_pretrained(folder)
    features = {**config.input_features, **config.output_features}
    names = {"tokenizer_name": str(next(base.glob("vlm"), base / "tokenizer"))}
    common = {"stats": statistics, "norm_map": config.normalization_mapping}
    before, after = make_pre_post_processors(
        config,
        pretrained_path=str(folder),
        preprocessor_overrides={
            "tokenizer_processor": names,
            "normalizer_processor": {"features": features, **common},
            "rename_observations_processor": {"rename_map": renamed},
        },
        postprocessor_overrides={"unnormalizer_processor": {"features": config.output_features, **common}},
    )
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    return folder
