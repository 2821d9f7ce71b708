"""π0 and π0.5 with LeRobot's widths and fewer layers: what fits where the whole networks, held twice, do not."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest import mock

LAYERS = 18
"""Of both Gemmas."""


@contextmanager
def shallow(kind: str, layers: int) -> Iterator[None]:
    """LeRobot builds both Gemmas with so many layers, and as large a part of the vision tower's."""
    if layers == LAYERS:
        yield
        return
    module = import_module(f"lerobot.policies.{kind}.modeling_{kind}")
    sizes, paligemma = module.get_gemma_config, module.PaliGemmaForConditionalGenerationWithPiGemma

    def gemma(variant: str) -> Any:
        size = sizes(variant)
        size.depth = layers
        return size

    def whole(config: Any) -> Any:
        config.vision_config.num_hidden_layers = round(config.vision_config.num_hidden_layers * layers / LAYERS)
        return paligemma(config=config)

    with (
        mock.patch.object(module, "get_gemma_config", gemma),
        mock.patch.object(module, "PaliGemmaForConditionalGenerationWithPiGemma", whole),
    ):
        yield
