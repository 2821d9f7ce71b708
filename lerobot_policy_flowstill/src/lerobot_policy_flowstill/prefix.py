"""The VLM's part of a forward pass, computed once per observation and shared by every call of the expert."""

from dataclasses import dataclass
from typing import Any

import torch
from lerobot.policies.common.vla_utils import make_att_2d_masks
from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the observation's tokens. B observations, P tokens, N heads, C channels.

    Attributes:
        pad_mask_BP: which tokens exist.
        layers: per layer, keys and values, each (B, N, P, C).
    """

    pad_mask_BP: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]

    def __getitem__(self, rows: Any) -> "Prefix":
        """The prefix of some of the observations."""
        return Prefix(self.pad_mask_BP[rows], tuple((k[rows], v[rows]) for k, v in self.layers))

    def repeat(self, draws: int) -> "Prefix":
        """Each observation ``draws`` times, neighbouring: (B · K, …)."""

        def each(x: Tensor) -> Tensor:
            return x[:, None].expand(-1, draws, *x.shape[1:]).flatten(0, 1)

        return Prefix(each(self.pad_mask_BP), tuple((each(k), each(v)) for k, v in self.layers))

    def size_in_bytes(self) -> int:
        """Memory that it takes."""
        return sum(int(x.numel() * x.element_size()) for pair in self.layers for x in pair)

    def cache(self) -> Any:
        """A fresh cache: LeRobot's expert appends to it and crops it back, the tensors here stay as they are."""
        return DynamicCache(tuple((k, v, None) for k, v in self.layers))


def concatenate(prefixes: list[Prefix]) -> Prefix:
    """One prefix of all observations; all must have the same number of tokens."""
    layers = zip(*(prefix.layers for prefix in prefixes), strict=True)
    return Prefix(
        torch.cat([prefix.pad_mask_BP for prefix in prefixes]),
        tuple((torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers),
    )


def encode_prefix(
    model: Any,
    images: list[Tensor],
    image_masks: list[Tensor],
    tokens: Tensor,
    token_mask: Tensor,
    state: Tensor,
) -> Prefix:
    """The prefix pass of LeRobot's ``VLAFlowMatching.sample_actions``, by that model's own functions."""
    embeddings, pad_mask_BP, attention = model.embed_prefix(images, image_masks, tokens, token_mask, state=state)
    _, cache = model.vlm_with_expert.forward(
        attention_mask=make_att_2d_masks(pad_mask_BP, attention),
        position_ids=pad_mask_BP.cumsum(1) - 1,
        past_key_values=None,
        inputs_embeds=[embeddings, None],
        use_cache=True,
    )
    return Prefix(pad_mask_BP, tuple((layer.keys, layer.values) for layer in cache.layers))
