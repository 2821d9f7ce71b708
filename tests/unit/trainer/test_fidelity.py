"""Energy distance sees a shift and a collapse; arms carry the names that the API knows."""

import torch

from flowstill_trainer.fidelity import energy_distance, measure, spread


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_energy_distance_is_small_for_the_same_distribution_and_grows_with_a_shift():
    x, y = normal(0, 64, 64, 6), normal(1, 64, 64, 6)
    assert energy_distance(x, y) < 0.01
    assert 0.02 < energy_distance(x + 0.5, y) < energy_distance(x + 1.0, y)


def test_a_collapse_to_the_mean_is_far_and_has_no_spread():
    x, y = torch.zeros(64, 64, 6), normal(1, 64, 64, 6)
    assert energy_distance(x, y) > 0.2
    assert spread(x) == 0


def test_arms(tiny):
    teacher = tiny.teacher()
    frames = tiny.frames(teacher)
    found = {f.name: f for f in measure(teacher, tiny.student(teacher), frames, teacher_steps=10, seed=0)}
    assert list(found) == ["teacher@10", "teacher@4", "teacher@2", "teacher@1", "student", "student-draws"]
    assert found["teacher@10"].distance < found["teacher@1"].distance
    assert 0.8 < found["teacher@10"].spread < 1.2
    one = measure(teacher, tiny.student(teacher, draws=1), frames, teacher_steps=10, seed=0)
    assert [f.name for f in one][-1] == "student"
