"""The choice among draws: numpy and torch agree, and a chunk between two ways loses."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot_policy_flowstill.draws import densest_chunk

from flowstill.policies import draws as reference


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.sampled_from([1, 8, 16]),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_torch_agrees_with_numpy(seed, batch, draws, steps, neighbours):
    chunks = np.random.default_rng(seed).normal(size=(batch, draws, 4, 5)).astype(np.float32)
    options = {"action_steps": steps, "action_dim": 3, "neighbours": neighbours}
    index, density = reference.densest_chunk(chunks, **options)
    actions, torch_index, torch_density = densest_chunk(torch.from_numpy(chunks), **options)
    assert np.allclose(density, torch_density.numpy(), atol=1e-5)
    assert np.array_equal(index, torch_index.numpy())
    assert np.array_equal(actions.numpy(), chunks[np.arange(batch), index])


def test_a_chunk_between_two_ways_loses_and_padding_does_not_count():
    chunks = np.zeros((1, 9, 4, 5), np.float32)
    chunks[0, :4, :, 0] = 1 + 0.01 * np.arange(4)[:, None]
    chunks[0, 5:, :, 0] = -1 - 0.02 * np.arange(4)[:, None]
    chunks[0, :4, :, 4] = 100 * np.arange(4)[:, None]  # a padded dimension
    chunks[0, :4, 3, 0] = 50 * np.arange(4)  # a step that is not executed
    index, density = reference.densest_chunk(chunks, action_steps=3, action_dim=3, neighbours=3)
    assert index[0] in range(4)
    assert density[0].argmin() == 4
