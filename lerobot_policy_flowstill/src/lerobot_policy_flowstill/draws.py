"""Of several chunks for one observation, the one with the nearest neighbours.

A one-step map from noise to chunk is smooth, so where demonstrations split it puts a few chunks between the ways.
Those are isolated, and lose. The idea is that of KDPE (arXiv 2508.10511), with k-nearest-neighbour density.
"""

import torch
from torch import Tensor

FAR = 1e9
"""Stands for "no such neighbour": far beyond any distance between normalised chunks."""


def densest_chunk(
    chunks_BKHD: Tensor, *, action_steps: int, action_dim: int, neighbours: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose one of K chunks.

    Distances are Euclidean, between the first ``action_steps`` steps of the real ``action_dim`` dimensions, in fp32
    and by explicit subtraction: a matrix product would lose the digits that decide. Written without a branch on K,
    so that one exported graph serves every K, 1 included.

    Returns:
        actions_BHD: the chosen chunk.
        index_B: which one it is, int64.
        density_BK: minus the mean distance to the ``neighbours`` nearest others; 0 where there is no other.
    """
    used_BKF = chunks_BKHD[:, :, :action_steps, :action_dim].float().flatten(2)
    distance_BKK = (used_BKF[:, :, None] - used_BKF[:, None, :]).square().sum(-1).sqrt()
    draw_K = torch.arange(distance_BKK.shape[1], device=distance_BKK.device)
    itself_KK = draw_K[:, None] == draw_K[None, :]
    distance_BKK = torch.where(itself_KK, FAR, distance_BKK)
    absent_BKN = torch.full_like(distance_BKK[:, :, :1], FAR).expand(-1, -1, neighbours)
    nearest_BKN = torch.cat([distance_BKK, absent_BKN], 2).topk(neighbours, dim=2, largest=False).values
    mean_BK = nearest_BKN.mean(2)
    density_BK = torch.where(mean_BK >= FAR / (2 * neighbours), 0.0, -mean_BK)
    index_B = density_BK.argmax(1)
    gather_B1HD = index_B[:, None, None, None].expand(-1, 1, *chunks_BKHD.shape[2:])
    return chunks_BKHD.gather(1, gather_B1HD)[:, 0], index_B, density_BK
