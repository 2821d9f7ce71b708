"""The parts of an update are together what it is as a whole, however it is cut."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowstill.api.distilljob import Method
from flowstill_trainer.batches import Sampled
from tests.unit.trainer.test_train import TRAINING, run, trainer, weights

SIZE = 7


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 12))
def test_every_sample_is_in_one_part(flow, jumps, parts):
    size = flow + jumps
    whole = Sampled(
        torch.arange(size), torch.arange(size)[:, None], torch.arange(size)[:, None], torch.arange(flow),
        torch.arange(jumps) + flow,
    )  # fmt: skip
    cut = [whole.part(number, parts) for number in range(parts)]
    assert sorted(torch.cat([part.frame_B for part in cut]).tolist()) == list(range(size))
    for part in cut:
        assert torch.equal(torch.cat([part.t_F, part.jump_C]), part.frame_B)  # still flow first, and the same rows
        assert torch.equal(part.noise_BHD[:, 0], part.frame_B)
        assert torch.equal(part.jitter_BS[:, 0], part.frame_B)
    for sizes in ([len(part.frame_B) for part in cut], [len(part.t_F) for part in cut]):
        assert max(sizes) - min(sizes) <= 1


def gradients(one, batch):
    one.student.policy.zero_grad()
    loss = one.loss(batch)
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in one.learner.parameters.items()}


@pytest.mark.parametrize(("ratio", "bank"), [(0.0, 0), (0.15, 0), (0.15, 10), (0.5, 0), (0.5, 10), (1.0, 0), (1.0, 10)])
def test_losses_and_gradients_of_parts_add_up(tiny, tmp_path, ratio, bank):
    method = Method(target_steps=3, bank_size=bank, mix_ratio=ratio, consistency_weight=3.0, state_jitter=0.05)
    one = trainer(tiny, tmp_path, method=method, training=TRAINING.model_copy(update={"batch_size": SIZE}))
    sampled = next(one.batches.iterate(0))
    ends = one.batches.frames.last_N[sampled.frame_B]  # chunks that begin at the end have one valid step
    sampled = replace(sampled, frame_B=torch.where(torch.arange(SIZE) % 3 == 0, ends, sampled.frame_B))
    loss, whole = gradients(one, one.batches.batch(sampled))
    for parts in (2, 3, SIZE):
        found = [gradients(one, one.batches.batch(sampled, number, parts)) for number in range(parts)]
        assert sum(value for value, _ in found) == pytest.approx(loss, rel=1e-5)
        for name, gradient in whole.items():
            total = sum(part[name] for _, part in found)
            assert torch.allclose(total, gradient, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("parts", [3, 4])
def test_accumulation_changes_neither_curve_nor_weights(tiny, tmp_path, parts):
    whole = trainer(tiny, tmp_path / "whole")
    losses = run(whole)
    training = TRAINING.model_copy(update={"gradient_accumulation": parts})
    cut = trainer(tiny, tmp_path / "parts", training=training)
    assert run(cut) == pytest.approx(losses, rel=1e-4)
    for name, value in weights(whole).items():
        assert torch.allclose(value, cut.learner.parameters[name], rtol=1e-3, atol=1e-4), name
