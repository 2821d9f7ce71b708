"""π0 and π0.5 of a few ten thousand parameters, made offline in a second; LeRobot's own classes.

LeRobot knows two sizes of Gemma by name and hard-codes vocabulary and vision tower, so those are patched while tests
run. Eight heads stay: LeRobot's joint forward counts on them.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.support.tiny_smolvla import ACTION_DIM, CAMERA, CHUNK, EXECUTED, IMAGE, INSTRUCTION, STATE_DIM

VOCABULARY, IMAGE_SIZE = 320, 28
PUBLISHED_TOKENIZER = "google/paligemma-3b-pt-224"
_full = False


def _patches(kind: str) -> Iterator[Any]:
    module = import_module(f"lerobot.policies.{kind}.modeling_{kind}")
    sizes, paligemma, expert = (
        module.get_gemma_config,
        module.PaliGemmaForConditionalGenerationWithPiGemma,
        module.PiGemmaForCausalLM,
    )

    def small_gemma(variant: str) -> Any:
        size = sizes(variant)
        if _full:
            return size
        size.width, size.mlp_dim = (32, 64) if variant == "gemma_2b" else (16, 32)
        size.depth, size.num_heads, size.num_kv_heads, size.head_dim = 2, 8, 1, 4
        return size

    def small_paligemma(config: Any) -> Any:
        if _full:
            return paligemma(config=config)
        vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        for name, value in (vision | {"projection_dim": config.text_config.hidden_size}).items():
            setattr(config.vision_config, name, value)
        config.text_config.vocab_size = VOCABULARY
        return paligemma(config=config)

    def small_expert(config: Any) -> Any:
        config.vocab_size = config.vocab_size if _full else VOCABULARY
        return expert(config=config)

    yield mock.patch.object(module, "get_gemma_config", small_gemma)
    yield mock.patch.object(module, "PaliGemmaForConditionalGenerationWithPiGemma", small_paligemma)
    yield mock.patch.object(module, "PiGemmaForCausalLM", small_expert)


@contextmanager
def full_size() -> Iterator[None]:
    """LeRobot builds full-size networks again, also within :func:`shrunk`."""
    global _full
    _full = True
    try:
        yield
    finally:
        _full = False


@contextmanager
def shrunk(kind: str) -> Iterator[None]:
    """LeRobot builds small networks."""
    with ExitStack() as stack:
        for patch in _patches(kind):
            stack.enter_context(patch)
        yield


def shrink(kind: str) -> None:
    """LeRobot builds small networks in this process from now on."""
    for patch in _patches(kind):
        patch.start()


def write_tokenizer(folder: Path) -> None:
    """A word tokenizer that knows the prompts' words and the bins of a state."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
    words = [*special.values(), *INSTRUCTION.split(), "push", "it", "Task", "State", "Action", *":,;-"]
    words += [str(number) for number in range(256)]
    assert len(words) <= VOCABULARY
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder.mkdir(parents=True)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def write_teacher(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """A checkpoint as LeRobot saves it, with random weights and its tokenizer in a folder ``tokenizer`` inside."""
    import torch
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config
    from lerobot.processor import TokenizerProcessorStep

    write_tokenizer(folder / "tokenizer")
    config = make_policy_config(
        kind,
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (STATE_DIM,)),
            CAMERA: PolicyFeature(FeatureType.VISUAL, (3, IMAGE, IMAGE)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))},
        device="cpu", push_to_hub=False, chunk_size=CHUNK, n_action_steps=EXECUTED, max_state_dim=8, max_action_dim=8,
        image_resolution=(IMAGE_SIZE, IMAGE_SIZE), empty_cameras=1, tokenizer_max_length=12 if kind == "pi0" else 24,
    )  # fmt: skip
    torch.manual_seed(seed)
    policy = get_policy_class(kind)(config)
    for name, parameter in policy.named_parameters():
        if "layernorm" in name or "norm.dense" in name:  # zero at first, so that time would mean nothing
            torch.nn.init.normal_(parameter, std=0.3)
    generator = np.random.default_rng(seed)
    processors = import_module(f"lerobot.policies.{kind}.processor_{kind}")

    def local(tokenizer_name: str, **options: Any) -> Any:
        assert tokenizer_name == PUBLISHED_TOKENIZER
        return TokenizerProcessorStep(tokenizer_name=str(folder / "tokenizer"), **options)

    with mock.patch.object(processors, "TokenizerProcessorStep", local):
        make = getattr(processors, f"make_{kind}_pre_post_processors")
        before, after = make(config, {name: _stats(generator, size) for name, size in _FEATURES})
    for part in (policy, before, after):
        part.save_pretrained(folder)
    for file in folder.glob("*.json"):
        file.write_text(file.read_text().replace(json.dumps(str(folder / "tokenizer")), f'"{PUBLISHED_TOKENIZER}"'))
    return folder


_FEATURES = (("observation.state", STATE_DIM), ("action", ACTION_DIM))


def _stats(generator: np.random.Generator, size: int) -> dict[str, Any]:
    import torch

    mean, std = generator.normal(size=size), generator.uniform(0.5, 2, size)
    values = {"mean": mean, "std": std, "q01": mean - 2 * std, "q99": mean + 2 * std}
    return {name: torch.tensor(value).float() for name, value in values.items()}
