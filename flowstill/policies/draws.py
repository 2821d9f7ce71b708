"""The choice among draws in numpy: the reference that the network's own version is held against."""

import numpy as np
import numpy.typing as npt


def densest_chunk(
    chunks_BKHD: npt.NDArray[np.float32], *, action_steps: int, action_dim: int, neighbours: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Which of K chunks has the nearest neighbours: index (B,) and density (B, K).

    The density is minus the mean Euclidean distance to the ``neighbours`` nearest other chunks, over the first
    ``action_steps`` steps of the first ``action_dim`` dimensions; 0 with a single draw.
    """
    batch, draws = chunks_BKHD.shape[:2]
    if draws == 1:
        return np.zeros(batch, np.int64), np.zeros((batch, 1), np.float32)
    used_BKF = chunks_BKHD[:, :, :action_steps, :action_dim].reshape(batch, draws, -1)
    distance_BKK = np.linalg.norm(used_BKF[:, :, None] - used_BKF[:, None], axis=-1)
    nearest_BKN = np.sort(distance_BKK, axis=-1)[:, :, 1 : neighbours + 1]
    density_BK = -nearest_BKN.mean(-1)
    return density_BK.argmax(1), density_BK.astype(np.float32)
