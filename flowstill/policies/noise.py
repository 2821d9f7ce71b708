"""Noise that depends on nothing but what it is for, so that every arm of a comparison gets the same."""

import hashlib

import numpy as np
import numpy.typing as npt


def episode_noise(
    seed: int, task: str, episode: int, chunk: int, draws: int, chunk_size: int, action_dim: int
) -> npt.NDArray[np.float32]:
    """Standard normal noise of one chunk, (K, H, D) float32.

    Counter-based (Philox), keyed by all that names the chunk: no order of calls can change it. Draw k does not depend
    on how many draws there are, so draw 0 is the noise of the arm that uses one.

    Args:
        seed: of the evaluation.
        task: name of the task.
        episode: index of the episode, 0-based.
        chunk: index of the chunk within the episode, 0-based.
        draws: K.
        chunk_size: H.
        action_dim: D, padded.
    """
    name = f"{seed}\0{task}\0{episode}\0{chunk}".encode()
    key = np.frombuffer(hashlib.sha256(name).digest()[:16], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    return generator.standard_normal((draws, chunk_size, action_dim), dtype=np.float32)
