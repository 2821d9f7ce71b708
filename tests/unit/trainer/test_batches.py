"""What each step sees: which samples, from which noise, with which jitter, beside which rollouts."""

from dataclasses import replace

import pytest
import torch

from flowstill.api.distilljob import Method
from flowstill_trainer.bank import Bank
from flowstill_trainer.batches import Batches
from tests.unit.trainer.test_train import TRAINING

pytestmark = pytest.mark.parametrize("tiny", ["smolvla"], indirect=True)
FLOW, JUMPS, ROLLOUTS = 6, 2, 8
METHOD = Method(target_steps=3, mix_ratio=0.25, bank_size=ROLLOUTS, state_jitter=0.1)


@pytest.fixture
def batches(tiny):
    """Two passes over the training frames and two over the bank, in steps of six and two."""
    teacher = tiny.teacher()
    student, frames, random = tiny.student(teacher), tiny.frames(teacher), torch.Generator().manual_seed(0)
    steps = 2 * len(frames.training_T) // FLOW
    assert steps * JUMPS == 2 * ROLLOUTS
    noise_NHD, chunk_NHD = torch.randn((2, ROLLOUTS, student.chunk_size, student.padded_action_dim), generator=random)
    jitter_NS = torch.randn((ROLLOUTS, student.state_dim), generator=random)
    bank = Bank(frames.training_T[1 : 2 * ROLLOUTS : 2], noise_NHD, chunk_NHD, jitter_NS)
    training = TRAINING.model_copy(update={"batch_size": FLOW + JUMPS, "steps": steps})
    return Batches(frames, bank, student, teacher, METHOD, training)


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


def test_steps_go_through_shuffled_passes_wherever_they_begin(batches):
    steps = list(batches.iterate(0))
    frame_X, jump_X = torch.cat([x.frame_B[:FLOW] for x in steps]), torch.cat([x.jump_C for x in steps])
    for taken_X, all_X in ((frame_X, batches.frames.training_T), (jump_X, torch.arange(ROLLOUTS))):
        first, second = taken_X.chunk(2)
        assert torch.equal(first.sort().values, all_X)
        assert torch.equal(second.sort().values, all_X)
        assert not torch.equal(first, second)
        assert not torch.equal(first, all_X)
    assert len(steps) == batches.training.steps
    assert all(same(one, other) for one, other in zip(batches.iterate(3), steps[3:], strict=True))


def test_every_step_and_every_seed_has_numbers_of_its_own(batches):
    first, second, *_ = batches.iterate(0)
    other = replace(batches, training=batches.training.model_copy(update={"seed": 1}))
    for found in (second, next(other.iterate(0))):
        assert not torch.equal(first.noise_BHD[:FLOW], found.noise_BHD[:FLOW])
        assert not torch.equal(first.jitter_BS[:FLOW], found.jitter_BS[:FLOW])
        assert not torch.equal(first.t_F, found.t_F)
        assert not torch.equal(first.frame_B, found.frame_B)
    assert 0.05 < torch.cat([x.jitter_BS[:FLOW] for x in batches.iterate(0)]).std() < 0.2


def test_a_jump_starts_where_its_rollout_did_and_sees_what_its_teacher_saw(batches):
    bank = batches.bank
    for sampled in batches.iterate(0):
        assert torch.equal(sampled.frame_B[FLOW:], bank.frame_N[sampled.jump_C])
        assert torch.equal(sampled.noise_BHD[FLOW:], bank.noise_NHD[sampled.jump_C])
        assert torch.equal(sampled.jitter_BS[FLOW:], bank.jitter_NS[sampled.jump_C])
        samples = batches.batch(sampled).samples
        assert torch.equal(samples.rollout_CHD, bank.chunk_NHD[sampled.jump_C])
        assert torch.equal(samples.noise_BHD, sampled.noise_BHD)
        assert torch.equal(samples.t_F, sampled.t_F)


def test_without_a_bank_jumps_are_training_frames_too(batches):
    fresh = replace(batches, bank=None)
    taken = torch.cat([sampled.frame_B[FLOW:] for sampled in fresh.iterate(0)])
    assert set(taken.tolist()) <= set(batches.frames.training_T.tolist())
    assert len(taken.unique()) == len(taken)
    first, second, *_ = fresh.iterate(0)
    assert not torch.equal(first.noise_BHD[FLOW:], second.noise_BHD[FLOW:])
    assert fresh.batch(first).samples.rollout_CHD is None


def test_a_batch_is_the_frames_with_jitter_on_their_states_and_their_chunks(batches):
    policy, frames = batches.policy, batches.frames
    sampled = next(batches.iterate(0))
    ends = frames.last_N[sampled.frame_B]  # chunks that begin at the end have one valid step
    sampled = replace(sampled, frame_B=torch.where(torch.arange(FLOW + JUMPS) < 2, ends, sampled.frame_B))
    batch = batches.batch(sampled)
    action_BHA, valid_BH = frames.chunks(sampled.frame_B)
    raw = policy.preprocess(frames.observations(sampled.frame_B) | {"action": action_BHA})
    state_BS = raw["observation.state"] + sampled.jitter_BS
    assert torch.allclose(batch.observations["observation.state"], state_BS, atol=1e-6)
    assert torch.equal(batch.samples.action_FHD, policy.prepare_action(raw)[:FLOW])
    assert torch.equal(batch.samples.valid_FH, valid_BH[:FLOW])
    assert valid_BH[:2].sum() == 2
    assert int(batch.samples.counts.flow) == int(valid_BH[:FLOW].sum())
    assert int(batch.samples.counts.jump) == JUMPS * policy.chunk_size
