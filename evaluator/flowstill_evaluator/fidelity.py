"""P4's figures: how near the student's chunks are to the teacher's, before any choice among draws.

O observations, C chunks of each, V numbers of a chunk (executed steps × real action dimensions, normalised).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from flowstill.policies.interface import Runner
from flowstill_evaluator.observations import Batch

CHUNKS = 16
_ROWS = 256  # of a policy call
_NO_SPREAD = 1e-6

Doubles = npt.NDArray[np.float64]


def sample(
    runner: Runner,
    observations: Batch,
    action_steps: int,
    generator: np.random.Generator,
    heard: Callable[[], None],
) -> Doubles:
    """:data:`CHUNKS` chunks of every observation, (O, C, V).

    A runner with several draws gives them over one prefix; ``CHUNKS`` must be a multiple of its draws.

    Args:
        runner: whose chunks.
        observations: where.
        action_steps: steps of each chunk that count.
        generator: of the noise.
        heard: told before every call; may raise to stop.
    """
    info = runner.info
    calls_each = CHUNKS // info.draws
    if calls_each * info.draws != CHUNKS:
        raise ValueError(f"{info.draws} draws do not divide {CHUNKS} chunks")
    rows = np.repeat(np.arange(len(observations)), calls_each)
    shape = (info.draws, info.chunk_size, info.padded_action_dim)
    size = max(1, _ROWS // info.draws)
    parts = []
    for start in range(0, len(rows), size):
        heard()
        some = rows[start : start + size]
        noise = generator.standard_normal((len(some), *shape), dtype=np.float32)
        all_BKHD = runner.act(observations.rows(some), noise).all_normalised_BKHD
        parts.append(all_BKHD[:, :, :action_steps, : info.action_dim].astype(np.float64))
    chunks = np.concatenate(parts)
    return chunks.reshape(len(observations), CHUNKS, -1)


def compare(teacher_OCV: Doubles, fresh_OCV: Doubles, student_OCV: Doubles) -> dict[str, Any]:
    """The content of ``fidelity.json``.

    Args:
        teacher_OCV: the teacher's chunks, the reference.
        fresh_OCV: the teacher's again, on other noise: what a perfect student would get.
        student_OCV: the student's.
    """
    teacher_spread, student_spread = spread(teacher_OCV), spread(student_OCV)
    # Floored, so that a student that is as certain as a teacher without any spread has the ratio 1.
    return {
        "cosine": nearest_cosine(student_OCV, teacher_OCV).tolist(),
        "teacher_self_cosine": nearest_cosine(fresh_OCV, teacher_OCV).tolist(),
        "spread_ratio": max(student_spread, _NO_SPREAD) / max(teacher_spread, _NO_SPREAD),
        "observations": len(teacher_OCV),
        "chunks": teacher_OCV.shape[1],
        "distances": {
            "student": float(energy_distance(student_OCV, teacher_OCV).mean()),
            "teacher_self": float(energy_distance(fresh_OCV, teacher_OCV).mean()),
            "student_spread": student_spread,
            "teacher_spread": teacher_spread,
        },
    }


def nearest_cosine(chunks_OCV: Doubles, reference_OCV: Doubles) -> Doubles:
    """For each observation, the mean over chunks of the cosine to the nearest reference chunk; (O,)."""

    def unit(vectors: Doubles) -> Doubles:
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        scaled: Doubles = vectors / np.maximum(length, 1e-12)
        return scaled

    cosine_OCC = unit(chunks_OCV) @ unit(reference_OCV).swapaxes(1, 2)
    nearest: Doubles = cosine_OCC.max(axis=2).mean(axis=1)
    return nearest


def spread(chunks_OCV: Doubles) -> float:
    """Standard deviation over the chunks of one observation: root mean square over V, mean over O."""
    variance_O = chunks_OCV.var(axis=1, ddof=1).mean(axis=1)
    return float(np.sqrt(variance_O).mean())


def energy_distance(a_OCV: Doubles, b_OCV: Doubles) -> Doubles:
    """2 E|A − B| − E|A − A'| − E|B − B'| (Székely and Rizzo 2013) of each observation, (O,), not negative."""

    def mean_distance(left: Doubles, right: Doubles) -> Doubles:
        distance_OCC = np.linalg.norm(left[:, :, None] - right[:, None], axis=-1)
        mean: Doubles = distance_OCC.mean(axis=(1, 2))
        return mean

    return 2 * mean_distance(a_OCV, b_OCV) - mean_distance(a_OCV, a_OCV) - mean_distance(b_OCV, b_OCV)
