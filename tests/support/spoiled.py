"""Teachers and datasets that cannot work, each wrong in one way."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import tiny_smolvla

TENSOR = "model.action_in_proj.weight"


def teachers(good: Path, folder: Path) -> dict[str, Path]:
    """Folders by what is wrong with them."""
    import torch

    found = {
        "missing-tensor": _with_tensors(good, folder / "missing-tensor", lambda t: t.pop(TENSOR)),
        "misshaped": _with_tensors(
            good, folder / "misshaped", lambda t: t.update({TENSOR: t[TENSOR][:, :-1].contiguous()})
        ),
        "nan-weights": _with_tensors(good, folder / "nan-weights", lambda t: t[TENSOR].fill_(torch.nan)),
        "act": _act(folder / "act"),
        "adapter": shutil.copytree(good, folder / "adapter"),
        "photographs": folder / "photographs",
        "file": folder / "file.safetensors",
        "nowhere": folder / "nowhere",
    }
    (found["adapter"] / "model.safetensors").rename(found["adapter"] / "adapter_model.safetensors")
    (found["adapter"] / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
    found["photographs"].mkdir()
    (found["photographs"] / "holiday.jpg").write_bytes(b"\xff\xd8")
    found["file"].write_bytes(b"weights")
    return found


def datasets(good: Path, folder: Path) -> dict[str, Path]:
    """Folders by what is wrong with them."""
    found = {
        "action-size": tiny_smolvla.write_dataset(folder / "action-size", episodes=1, action_dim=7),
        "state-size": tiny_smolvla.write_dataset(folder / "state-size", episodes=1, state_dim=9),
        "camera": tiny_smolvla.write_dataset(folder / "camera", episodes=1, camera="observation.images.top"),
        "nan-action": tiny_smolvla.write_dataset(folder / "nan-action", first_action=float("nan")),
        "huge-action": tiny_smolvla.write_dataset(folder / "huge-action", first_action=1e30),
        "old": shutil.copytree(good, folder / "old"),
        "empty": shutil.copytree(good, folder / "empty"),
        "half": shutil.copytree(good, folder / "half"),
    }
    _edit_info(found["old"], codebase_version="v2.1")
    _edit_info(found["empty"], total_episodes=0, total_frames=0)
    shutil.rmtree(found["half"] / "data")
    return found


def flip_a_bit(file: Path) -> None:
    """As a bad disk does."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def _with_tensors(good: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(good, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def _act(folder: Path) -> Path:
    """A checkpoint of LeRobot's ACT, as its own ``save_pretrained`` writes it."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    config = ACTConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (tiny_smolvla.STATE_DIM,)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (3,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (tiny_smolvla.ACTION_DIM,))},
        device="cpu", push_to_hub=False, chunk_size=4, n_action_steps=4, dim_model=16, dim_feedforward=16, n_heads=2,
        n_encoder_layers=1, n_vae_encoder_layers=1, latent_dim=4, pretrained_backbone_weights=None,
    )  # fmt: skip
    ACTPolicy(config).save_pretrained(folder)
    return folder


def _edit_info(folder: Path, **values: Any) -> None:
    path = folder / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
