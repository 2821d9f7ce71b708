"""How many observations are computed at once where nothing is learnt: many of a small policy, few of a full-size one.

The cache of one observation is 10 MB in a full-size SmolVLA and 36 MB in a π0.5 (fp32, three cameras), and what its
pass takes besides, attention over a thousand tokens and wide MLPs, is several times that.
"""

import torch

from flowstill.policies.flow import FlowPolicy
from flowstill_trainer.data import Frames

CACHE_LIMIT = 512 * 2**20
"""Bytes of the caches of one pass."""


def cache_size(policy: FlowPolicy, frames: Frames, index_B: torch.Tensor) -> int:
    """Bytes of the cache of one observation, seen in the first of these."""
    return policy.encode_prefix(policy.preprocess(frames.observations(index_B[:1]))).size_in_bytes()


def rows_at_once(size: int, most: int) -> int:
    """Observations of a pass, each with a cache of ``size`` bytes: at most ``most``, and at least 1."""
    return max(1, min(most, CACHE_LIMIT // max(1, size)))
