"""The observation's part of a forward pass, computed once and shared by every call of the expert."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache


@dataclass(frozen=True)
class Prepared:
    """An observation as the network takes it. B observations, L tokens.

    Attributes:
        images: each (B, 3, height, width) in [−1, 1], at the network's size.
        image_masks: whether each image exists, each (B,).
        tokens: (B, L).
        token_mask: (B, L).
        state: normalised and padded (B, S); None where the network sees the state in its prompt only.
    """

    images: list[Tensor]
    image_masks: list[Tensor]
    tokens: Tensor
    token_mask: Tensor
    state: Tensor | None

    def named(self) -> dict[str, Tensor]:
        """The tensors by the names that they have as inputs of an exported graph."""
        named = {f"image_{i}": image for i, image in enumerate(self.images)}
        named |= {f"image_mask_{i}": mask for i, mask in enumerate(self.image_masks)}
        named |= {"tokens": self.tokens, "token_mask": self.token_mask}
        return named if self.state is None else named | {"state": self.state}

    @classmethod
    def of(cls, named: Mapping[str, Tensor]) -> "Prepared":
        """The reverse of :meth:`named`."""
        count = sum(name.startswith("image_mask_") for name in named)
        return cls(
            [named[f"image_{i}"] for i in range(count)],
            [named[f"image_mask_{i}"] for i in range(count)],
            named["tokens"],
            named["token_mask"],
            named.get("state"),
        )

    def padded_to(self, length: int) -> "Prepared":
        """With ``length`` tokens, the further ones masked."""
        pad = (0, length - self.tokens.shape[1])
        tokens, mask = nn.functional.pad(self.tokens, pad), nn.functional.pad(self.token_mask, pad)
        return Prepared(self.images, self.image_masks, tokens, mask, self.state)


@dataclass(frozen=True)
class Prefix:
    """What the expert sees of an observation. B observations, P tokens, N heads, C channels.

    Attributes:
        pad_mask_BP: which tokens exist.
        layers: per layer, keys and values of the VLM, each (B, N, P, C).
        state_BS: the state, where it is a token of the expert's own.
    """

    pad_mask_BP: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]
    state_BS: Tensor | None = None

    def named(self) -> dict[str, Tensor]:
        """The tensors by the names that they have as outputs and inputs of exported graphs."""
        named = {"prefix_mask": self.pad_mask_BP}
        for i, (key, value) in enumerate(self.layers):
            named |= {f"key_{i}": key, f"value_{i}": value}
        return named if self.state_BS is None else named | {"state": self.state_BS}

    @classmethod
    def of(cls, named: Mapping[str, Tensor]) -> "Prefix":
        """The reverse of :meth:`named`."""
        count = sum(name.startswith("key_") for name in named)
        layers = tuple((named[f"key_{i}"], named[f"value_{i}"]) for i in range(count))
        return cls(named["prefix_mask"], layers, named.get("state"))

    def __getitem__(self, rows: Any) -> "Prefix":
        """The prefix of some of the observations."""
        state_BS = None if self.state_BS is None else self.state_BS[rows]
        return Prefix(self.pad_mask_BP[rows], tuple((k[rows], v[rows]) for k, v in self.layers), state_BS)

    def repeat(self, draws: int) -> "Prefix":
        """Each observation ``draws`` times, neighbouring: (B · K, …)."""

        def each(x: Tensor) -> Tensor:
            return x[:, None].expand(-1, draws, *x.shape[1:]).flatten(0, 1)

        state_BS = None if self.state_BS is None else each(self.state_BS)
        return Prefix(each(self.pad_mask_BP), tuple((each(k), each(v)) for k, v in self.layers), state_BS)

    def size_in_bytes(self) -> int:
        """Memory that it takes."""
        return sum(int(x.numel() * x.element_size()) for pair in self.layers for x in pair)

    def cache(self) -> Any:
        """A fresh cache: LeRobot's expert appends to it and crops it back, the tensors here stay as they are."""
        return DynamicCache(tuple((k, v, None) for k, v in self.layers))


def concatenate(prefixes: list[Prefix]) -> Prefix:
    """One prefix of all observations; all must have the same number of tokens."""
    layers = zip(*(prefix.layers for prefix in prefixes), strict=True)
    states = [prefix.state_BS for prefix in prefixes if prefix.state_BS is not None]
    return Prefix(
        torch.cat([prefix.pad_mask_BP for prefix in prefixes]),
        tuple((torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers),
        torch.cat(states) if states else None,
    )


def stored_layers(cache: Any) -> tuple[tuple[Tensor, Tensor], ...]:
    """Keys and values of a cache, per layer."""
    return tuple((layer.keys, layer.values) for layer in cache.layers)
