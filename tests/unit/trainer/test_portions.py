"""A full-size policy's observations do not all fit into one pass: it takes fewer, and computes the same."""

import pytest
import torch

from flowstill.api.distilljob import Training
from flowstill_trainer import bank as module
from flowstill_trainer import portions
from flowstill_trainer.bank import BankPlan, make_bank
from flowstill_trainer.fidelity import HeldOut, arms
from flowstill_trainer.portions import cache_size, rows_at_once
from flowstill_trainer.train import autocast

SIZE = 10


@pytest.fixture
def seen(monkeypatch):
    """Observations of every pass of the VLM."""
    from flowstill.policies.lerobot_flow import LeRobotFlow

    sizes, original = [], LeRobotFlow.encode_prefix

    def encode_prefix(self, batch):
        prefix = original(self, batch)
        sizes.append(len(prefix.pad_mask_BP))
        return prefix

    monkeypatch.setattr(LeRobotFlow, "encode_prefix", encode_prefix)
    return sizes


def make(tiny, folder):
    teacher = tiny.teacher()
    training = Training(precision="fp32")
    plan = BankPlan(SIZE, 3, 0.1, 0, "a", lambda: autocast(training, teacher.device))
    student, frames = tiny.student(teacher), tiny.frames(teacher)
    return make_bank(folder, plan, teacher, student, frames, lambda *_: None, lambda: False)


def allow(monkeypatch, tiny, rows):
    """Room for the caches of so many observations."""
    teacher = tiny.teacher()
    frames = tiny.frames(teacher)
    monkeypatch.setattr(portions, "CACHE_LIMIT", rows * cache_size(teacher, frames, frames.training_T))


def test_a_bank_of_small_portions_is_the_same(tiny, tmp_path, monkeypatch, seen):
    whole = make(tiny, tmp_path / "whole")
    assert max(seen) == SIZE
    allow(monkeypatch, tiny, 3)
    seen.clear()
    parts = make(tiny, tmp_path / "parts")
    assert (max(seen), sum(seen)) == (3, 2 * SIZE + 2)
    for name in ("frame_N", "noise_NHD", "jitter_NS"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
    assert torch.allclose(whole.chunk_NHD, parts.chunk_NHD, atol=1e-4)
    for pair, other in zip(whole.prefix.layers, parts.prefix.layers, strict=True):
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(pair, other, strict=True))


def test_prefixes_that_do_not_fit_are_not_computed(tiny, tmp_path, monkeypatch, seen):
    monkeypatch.setattr(module, "PREFIX_LIMIT", 1)
    assert make(tiny, tmp_path).prefix is None
    assert sorted(seen) == [1, 1, SIZE]  # two that say how large one is, and the rollouts


def test_a_look_is_bounded_by_memory_too(tiny, monkeypatch):
    teacher = tiny.teacher()
    student = tiny.student(teacher)
    held_out, arm = HeldOut.of(tiny.frames(teacher), student, 0), arms(teacher, student, 10)[-1]
    noise = held_out.noise(student, 0, "x", 8)
    whole, rows = held_out.samples(student, arm.sample, noise), []

    def counted(prefix, noise_BKHD):
        rows.append(noise_BKHD.shape[0] * noise_BKHD.shape[1])
        return arm.sample(prefix, noise_BKHD)

    allow(monkeypatch, tiny, 17)
    assert torch.allclose(whole, held_out.samples(student, counted, noise), atol=1e-4)
    assert (max(rows), sum(rows)) == (16, noise.shape[:3].numel())


@pytest.mark.parametrize(("size", "rows"), [(1000, 256), (10 * 2**20, 51), (36 * 2**20, 14), (2**30, 1), (0, 256)])
def test_rows_by_the_size_of_one(size, rows):
    assert rows_at_once(size, 256) == rows
