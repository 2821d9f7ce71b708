"""The linear layers whose products a graph computes in a smaller type, and those whose numbers are too large for it.

With ``fp16`` and ``bf16`` the weights of the transformers' linear layers are stored in that type, and their products
are computed and rounded in it; that is nearly all of a policy's weights and work. Everything else stays float32: the
residual stream, norms, softmax and its masks (−2.4e38 is no float16), rotary tables, convolutions, the projections of
state and actions, the times (constants, computed in float32), and the distances between draws.

float16 ends at 65504. A layer whose weights, inputs or products come near that on observations of the dataset stays
float32 too: an island in the graph.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flowstill_trainer.export.precision import Precision

TYPES: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
ROOM = 2.0
"""How many times larger than on the observations that were tried a number may become and still be a float16."""


@dataclass(frozen=True)
class Products:
    """In which type the products of a graph are.

    Attributes:
        precision: of all but ``float32``.
        float32: names of the linear layers that stay float32, sorted.
        count: linear layers that were seen at work; 0 when none was watched.
    """

    precision: Precision = "fp32"
    float32: tuple[str, ...] = ()
    count: int = 0


def fp16_products(network: nn.Module, run: Callable[[], Any]) -> Products:
    """Compute ``run`` in float32 and see which layers of the network would leave float16's range.

    bfloat16 has the range of float32, so it needs nothing like this.
    """
    largest: dict[str, float] = {}
    with torch.no_grad(), _forwards(_layers(network), lambda name, layer: partial(_watched, largest, name, layer)):
        run()
    limit = torch.finfo(torch.float16).max / ROOM
    large = sorted(name for name, value in largest.items() if not value <= limit)  # NaN is not
    return Products("fp16", tuple(large), len(largest))


@contextmanager
def products_in(network: nn.Module, products: Products) -> Iterator[None]:
    """The transformers' linear layers multiply as ``products`` says.

    The modules keep their float32 weights, which LeRobot's code asks for the type to compute in.
    """
    dtype = TYPES.get(products.precision)
    layers = {} if dtype is None else _layers(network, products.float32)
    with _forwards(layers, lambda _, layer: partial(_rounded, dtype, layer)):
        yield


def _layers(network: nn.Module, without: Collection[str] = ()) -> dict[str, nn.Linear]:
    """By name; LeRobot keeps the same others in float32."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and "." in name
        and "norm" not in name
        and not name.startswith("target_time.")
        and name not in without
    }


@contextmanager
def _forwards(
    layers: dict[str, nn.Linear], make: Callable[[str, nn.Linear], Callable[[Tensor], Tensor]]
) -> Iterator[None]:
    """Each layer computes what ``make`` makes for it, and its own again afterwards."""
    for name, layer in layers.items():
        layer.forward = make(name, layer)
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.forward


def _rounded(dtype: torch.dtype, layer: nn.Linear, x: Tensor) -> Tensor:
    """x·Wᵀ in ``dtype``, its bias in float32."""
    product = nn.functional.linear(x.to(dtype), layer.weight.to(dtype)).float()
    return product if layer.bias is None else product + layer.bias


def _watched(largest: dict[str, float], name: str, layer: nn.Linear, x: Tensor) -> Tensor:
    """x·Wᵀ and the bias, and the largest number of the product and of what goes into it, by amount."""
    product = nn.functional.linear(x, layer.weight)
    seen = torch.stack([value.detach().abs().max() for value in (x, layer.weight, product)]).max()
    largest[name] = float(torch.maximum(seen, seen.new_tensor(largest.get(name, 0.0))))
    return product if layer.bias is None else product + layer.bias
