"""A SmolVLA of a few ten thousand parameters and a dataset for it, both made offline in a second or two."""

import json
from pathlib import Path

import numpy as np

from tests.support.priority import same_priority

INSTRUCTION = "reach behind the post"
STATE_DIM, ACTION_DIM, CHUNK, EXECUTED, IMAGE, PADDED = 7, 4, 6, 4, 32, 8
CAMERA = "observation.images.front"


def write_vlm_folder(folder: Path) -> None:
    """Configuration, processor and a word tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, SmolVLMConfig

    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
    image = {
        "image_token": "<image>", "fake_image_token": "<fake>", "global_image_token": "<global>",
        "end_of_utterance_token": "<eos>",
    }  # fmt: skip
    words = dict.fromkeys([*special.values(), *image.values(), *INSTRUCTION.split(), "push", "it"])
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir(parents=True, exist_ok=True)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, extra_special_tokens=image).save_pretrained(folder)
    SmolVLMConfig(
        image_token_id=vocabulary["<image>"], pad_token_id=0, scale_factor=2, tie_word_embeddings=False,
        vision_config={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "image_size": IMAGE, "patch_size": 16},
        text_config={"model_type": "llama", "vocab_size": len(vocabulary), "hidden_size": 32, "intermediate_size": 64,
                     "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
                     "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
    ).save_pretrained(folder)  # fmt: skip
    size = {"longest_edge": IMAGE}
    parts = {
        name: {
            f"{name}_type": f"SmolVLM{cls}",
            "size": size,
            "max_image_size": size,
            "do_image_splitting": False,
        }
        for name, cls in (("image_processor", "ImageProcessor"), ("video_processor", "VideoProcessor"))
    }
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "SmolVLMProcessor", **parts}))


def enlarge_vlm(file: Path) -> None:
    """SmolVLM2-500M-Video-Instruct's sizes (its config.json), where a policy's VLM is described beside it."""
    if not file.exists():
        return
    config = json.loads(file.read_text())
    config["scale_factor"] = 4
    config["text_config"] |= {
        "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 15,
        "num_key_value_heads": 5, "head_dim": 64, "vocab_size": 49280,
    }  # fmt: skip
    config["vision_config"] |= {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 512, "patch_size": 16,
    }  # fmt: skip
    file.write_text(json.dumps(config))


def write_teacher(folder: Path, *, seed: int = 0, state_dim: int = STATE_DIM, action_dim: int = ACTION_DIM) -> Path:
    """A checkpoint as LeRobot saves it, with random weights and a folder ``vlm`` inside."""
    import torch
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
    from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors

    write_vlm_folder(folder / "vlm")
    config = SmolVLAConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (state_dim,)),
            CAMERA: PolicyFeature(FeatureType.VISUAL, (3, IMAGE, IMAGE)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (action_dim,))},
        device="cpu", push_to_hub=False, chunk_size=CHUNK, n_action_steps=EXECUTED, num_steps=10,
        max_state_dim=PADDED, max_action_dim=PADDED, resize_imgs_with_padding=(IMAGE, IMAGE), tokenizer_max_length=8,
        vlm_model_name=str(folder / "vlm"), load_vlm_weights=False, train_expert_only=False,
        freeze_vision_encoder=False, num_vlm_layers=0, expert_width_multiplier=1.0,
    )  # fmt: skip
    torch.manual_seed(seed)
    policy = SmolVLAPolicy(config)
    generator = np.random.default_rng(seed)
    stats = {
        name: {
            "mean": torch.tensor(generator.normal(size=size)).float(),
            "std": torch.tensor(generator.uniform(0.5, 2, size)).float(),
        }
        for name, size in (("observation.state", state_dim), ("action", action_dim))
    }  # fmt: skip
    before, after = make_smolvla_pre_post_processors(config, stats)
    for part in (policy, before, after):
        part.save_pretrained(folder)
    for file in folder.glob("*.json"):
        file.write_text(file.read_text().replace(json.dumps(str(folder / "vlm")), '"vlm"'))
    return folder


def write_dataset(
    folder: Path, *, episodes: int = 3, length: int = 12, camera: str = CAMERA,
    state_dim: int = STATE_DIM, action_dim: int = ACTION_DIM, first_action: float | None = None, video: bool = False,
) -> Path:  # fmt: skip
    """A LeRobotDataset with black images, or a video that grows brighter from frame to frame.

    ``first_action`` stands in the first frame in place of random numbers.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    shape = {"shape": (IMAGE, IMAGE, 3), "names": ["height", "width", "channels"]}
    dataset = LeRobotDataset.create(
        repo_id="test/tiny", root=folder, fps=10, use_videos=video,
        features={
            "observation.state": {"dtype": "float32", "shape": (state_dim,), "names": None},
            camera: {"dtype": "video" if video else "image", **shape},
            "action": {"dtype": "float32", "shape": (action_dim,), "names": None},
        },
    )  # fmt: skip
    generator = np.random.default_rng(0)
    for episode in range(episodes):
        for frame in range(length):
            action = generator.normal(size=action_dim).astype(np.float32)
            if first_action is not None and episode == frame == 0:
                action[:] = first_action
            dataset.add_frame(
                {
                    "observation.state": generator.normal(size=state_dim).astype(np.float32),
                    camera: np.full((IMAGE, IMAGE, 3), video * (60 * episode + 4 * frame), np.uint8),
                    "action": action,
                    "task": INSTRUCTION,
                }
            )
        with same_priority():
            dataset.save_episode()
    dataset.finalize()
    return folder


def observations(batch: int, *, seed: int = 0, state_dim: int = STATE_DIM) -> dict[str, object]:
    """Random observations as a runner takes them."""
    generator = np.random.default_rng(seed)
    return {
        "observation.state": generator.normal(size=(batch, state_dim)).astype(np.float32),
        CAMERA: generator.integers(0, 255, (batch, IMAGE, IMAGE, 3), dtype=np.uint8),
        "task": [INSTRUCTION, "push it"][:batch] + [INSTRUCTION] * max(0, batch - 2),
    }
