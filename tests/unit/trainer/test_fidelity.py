"""Energy distance sees a shift and a collapse; arms carry the names that the API knows."""

import pytest
import torch

from flowstill.errors import Interrupted
from flowstill_trainer import fidelity
from flowstill_trainer.fidelity import HeldOut, arms, describe, energy_distance, energy_distances, measure, spread


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


def test_the_distance_of_shared_noise_is_unbiased_and_nearly_without_noise():
    """E = 2E|x-y| - E|x-x'| - E|y-y'| whatever the coupling; a perfect student is at 0 exactly."""
    noise = normal(0, 4000, 8, 3)
    shifted = energy_distances(noise + 0.5, noise, same_noise=True)
    independent = energy_distances(noise + 0.5, normal(1, 4000, 8, 3))
    error = (shifted.var() / 4000 + independent.var() / 4000) ** 0.5
    assert abs(shifted.mean() - independent.mean()) < 4 * error
    assert shifted.std() < independent.std() / 2
    assert energy_distances(noise, noise, same_noise=True).abs().max() < 1e-5
    assert energy_distances(noise, normal(1, 4000, 8, 3)).abs().max() > 0.1


def test_what_a_look_says():
    teacher = normal(0, 32, 16, 6)
    same = describe(5, 0.1, teacher, teacher)
    assert (same.step, same.loss, same.mse_mean, same.mean_error) == (5, 0.1, 0, 0)
    assert (same.spread, same.cosine) == (pytest.approx(1), pytest.approx(1))
    assert same.nearest_cosine < 0.9  # of another noise
    collapsed = describe(5, 0.1, teacher.mean(1, keepdim=True).expand_as(teacher), teacher)
    assert collapsed.spread < 1e-3
    assert collapsed.mean_error == pytest.approx(0, abs=1e-9)
    assert collapsed.distance > 10 * collapsed.distance_error > 0
    other = describe(5, 0.1, normal(1, 32, 16, 6), teacher)
    # The trap: the error of a collapsed student is smaller than that of the teacher itself on fresh noise.
    assert collapsed.mse_mean < other.mse_mean
    assert other.distance < 0.05 < collapsed.distance
    assert 0 < other.mse_median < other.mse_p90 < other.mse_p95
    assert other.distance == pytest.approx(sum(other.distances) / 32)
    assert describe(5, 0.1, teacher[:1], teacher[:1]).distance_error is None


def measured(tiny, teacher, student):
    held_out = HeldOut.of(tiny.frames(teacher), student, 0)
    reference = held_out.samples(teacher, arms(teacher, student, 10)[0].sample, held_out.noise(teacher, 0, "reference"))
    return {f.name: f for f in measure(held_out, teacher, student, reference, teacher_steps=10, seed=0)}


def test_arms(tiny):
    teacher = tiny.teacher()
    found = measured(tiny, teacher, tiny.student(teacher))
    assert list(found) == ["teacher@10", "teacher@4", "teacher@2", "teacher@1", "student", "student-draws"]
    assert found["teacher@10"].distance < found["teacher@1"].distance
    assert 0.8 < found["teacher@10"].spread < 1.2
    assert list(measured(tiny, teacher, tiny.student(teacher, draws=1)))[-1] == "student"


def test_calls_of_the_expert_are_bounded_and_change_no_sample(tiny, monkeypatch):
    teacher = tiny.teacher()
    student = tiny.student(teacher)
    held_out, arm = HeldOut.of(tiny.frames(teacher), student, 0), arms(teacher, student, 10)[-1]
    noise = held_out.noise(student, 0, "x", 8)
    whole = held_out.samples(student, arm.sample, noise)
    sizes = []

    def counted(prefix, noise_BKHD):
        sizes.append(noise_BKHD.shape[0] * noise_BKHD.shape[1])
        return arm.sample(prefix, noise_BKHD)

    monkeypatch.setattr(fidelity, "ROWS", 32)
    parts = held_out.samples(student, counted, noise)
    assert (max(sizes), sum(sizes)) == (32, noise.shape[:3].numel())
    assert torch.allclose(whole, parts, atol=1e-4)
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        held_out.samples(student, counted, noise, lambda: next(calls) == 3)
