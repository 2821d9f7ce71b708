"""Random numbers that depend on the step, not on what happened before.

Every step draws from generators keyed by (seed, purpose, step), so there is no state to save, and a run that was
interrupted continues with exactly the numbers it would have had.
"""

import hashlib
from typing import Any

import torch


def generator(seed: int, purpose: str, step: int) -> torch.Generator:
    """A CPU generator for one purpose at one step."""
    name = f"{seed}/{purpose}/{step}".encode()
    key = int.from_bytes(hashlib.sha256(name).digest()[:8], "little") >> 1
    return torch.Generator().manual_seed(key)


def described(seed: int) -> dict[str, Any]:
    """Where a run's random numbers come from, for those who read its checkpoints."""
    return {
        "generators": "torch CPU generators, seeded by the first 8 bytes (little endian, without the lowest bit) of "
        "SHA-256 of SEED/PURPOSE/STEP",
        "seed": seed,
        "state": None,
    }


class Order:
    """Endless shuffled passes over ``count`` items; a position decides the item."""

    def __init__(self, seed: int, purpose: str, count: int) -> None:
        self._seed, self._purpose, self._count = seed, purpose, count
        self._passes: dict[int, torch.Tensor] = {}

    def take(self, position: int, size: int) -> torch.Tensor:
        """Items at ``position`` to ``position + size``, int64."""
        found = []
        while size > 0:
            number, offset = divmod(position, self._count)
            part = self._pass(number)[offset : offset + size]
            found.append(part)
            position, size = position + len(part), size - len(part)
        return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)

    def _pass(self, number: int) -> torch.Tensor:
        if number not in self._passes:
            order = torch.randperm(self._count, generator=generator(self._seed, f"{self._purpose}-order", number))
            self._passes = {number: order}  # a batch needs one pass at a time
        return self._passes[number]
