"""P2's figures: how long one observation takes to become a chunk."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

import numpy as np

from flowstill.policies.interface import Runner
from flowstill_evaluator.observations import Batch

WARM_UP = 20
THREADS = 1
"""Of both runtimes. One, because more of them measure the neighbours on the machine as much as the policy."""

_NOISES = 32


def measure(
    runners: Mapping[str, Runner],
    observations: Batch,
    *,
    calls: int,
    seed: int,
    heard: Callable[[int], None],
) -> dict[str, list[float]]:
    """Time ``act`` with one observation; the runners take turns, so that whatever else happens hits all.

    Args:
        runners: by arm.
        observations: to take turns.
        calls: timed calls of each, after :data:`WARM_UP`.
        seed: of the noise.
        heard: told the number of calls made so far; may raise to stop.

    Returns:
        Milliseconds of every call, by arm.
    """
    generator = np.random.default_rng(seed)
    noises = {
        arm: generator.standard_normal(
            (_NOISES, 1, r.info.draws, r.info.chunk_size, r.info.padded_action_dim), dtype=np.float32
        )
        for arm, r in runners.items()
    }
    singles = [observations.rows([row]) for row in range(len(observations))]
    times: dict[str, list[float]] = {arm: [] for arm in runners}
    order = list(runners)
    for call in range(WARM_UP + calls):
        if call == WARM_UP:
            # Loading leaves millions of objects behind; a collection that scans them is not a policy's work.
            gc.collect()
            gc.freeze()
        heard(max(0, call - WARM_UP))
        order.reverse()
        for arm in order:
            noise = noises[arm][call % _NOISES]
            start = time.perf_counter()
            runners[arm].act(singles[call % len(singles)], noise)
            elapsed = time.perf_counter() - start
            if call >= WARM_UP:
                times[arm].append(round(elapsed * 1000.0, 4))
    gc.unfreeze()
    return times
