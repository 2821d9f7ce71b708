"""The small vision-language folder that stands where SmolVLA expects SmolVLM2: configuration and tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, SmolVLMConfig

HIDDEN = 96
LAYERS = 4
IMAGE_SIZE = 32
SPECIAL = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<bos>",
    "eos_token": "<end_of_utterance>",
}
IMAGE_TOKENS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}


def write_vlm_folder(folder: Path, instruction: str, image_size: int = IMAGE_SIZE) -> None:
    """Write config, processor and a word tokenizer that knows exactly ``instruction``; pictures are square."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*SPECIAL.values(), *IMAGE_TOKENS.values(), *sorted(instruction.split())]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL, extra_special_tokens=IMAGE_TOKENS).save_pretrained(
        folder
    )
    _config(vocabulary, image_size).save_pretrained(folder)
    size = {"longest_edge": image_size}
    processor = {
        "processor_class": "SmolVLMProcessor",
        "image_processor": {
            "image_processor_type": "SmolVLMImageProcessor",
            "size": size,
            "max_image_size": size,
            "do_image_splitting": False,
        },
        "video_processor": {
            "video_processor_type": "SmolVLMVideoProcessor",
            "size": size,
            "max_image_size": size,
            "do_image_splitting": False,
        },
    }
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def _config(vocabulary: dict[str, int], image_size: int) -> SmolVLMConfig:
    return SmolVLMConfig(
        image_token_id=vocabulary["<image>"],
        pad_token_id=vocabulary["<pad>"],
        scale_factor=2,  # 2x2 patches of 16 pixels become one prefix token
        tie_word_embeddings=False,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": image_size,
            "patch_size": 16,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(vocabulary),
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": HIDDEN // 4,
            "pad_token_id": vocabulary["<pad>"],
            "bos_token_id": vocabulary["<bos>"],
            "eos_token_id": vocabulary["<end_of_utterance>"],
        },
    )
