import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flowstill.policies.noise import episode_noise


@given(
    st.integers(0, 2**31 - 1),
    st.text(max_size=8),
    st.integers(0, 1000),
    st.integers(0, 50),
    st.integers(1, 16),
)
def test_draw_zero_does_not_depend_on_the_number_of_draws(seed, task, episode, chunk, draws):
    many = episode_noise(seed, task, episode, chunk, draws, 4, 3)
    assert many.shape == (draws, 4, 3)
    assert many.dtype == np.float32
    assert np.array_equal(many[:1], episode_noise(seed, task, episode, chunk, 1, 4, 3))


def test_everything_that_names_a_chunk_changes_its_noise():
    base = (0, "reach", 1, 2)
    others = [(1, "reach", 1, 2), (0, "push", 1, 2), (0, "reach", 2, 2), (0, "reach", 1, 3)]
    first = episode_noise(*base, 2, 4, 3)
    assert all(not np.array_equal(first, episode_noise(*other, 2, 4, 3)) for other in others)
    assert not np.array_equal(first[0], first[1])


def test_noise_is_standard_normal():
    noise = episode_noise(0, "reach", 0, 0, 64, 50, 32)
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
