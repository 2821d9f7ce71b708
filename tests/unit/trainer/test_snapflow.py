"""The loss: what enters it, what does not, and where its targets come from."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowstill.policies.flow import euler
from flowstill_trainer.methods.snapflow import Samples, SnapFlow, split

FLOW, JUMPS = 2, 2


@pytest.fixture(scope="module")
def pair(tiny):
    """Teacher, a student that differs from it, and a prefix of four observations."""
    teacher = tiny.teacher()
    student = tiny.student(teacher)
    torch.manual_seed(5)
    for name, parameter in student.trained():
        if "target_time.output" in name or "action_out_proj" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return teacher, student, teacher.encode_prefix(tiny.batch(teacher))


def samples(student, *, rollout=False, flow=FLOW, jumps=JUMPS):
    generator = torch.Generator().manual_seed(6)
    shape = (flow + jumps, student.chunk_size, student.padded_action_dim)
    valid = torch.ones((flow, student.chunk_size), dtype=torch.bool)
    valid[:, -2:] = False
    return Samples(
        action_FHD=torch.randn((flow, *shape[1:]), generator=generator),
        valid_FH=valid,
        t_F=torch.linspace(0.3, 0.9, flow),
        noise_BHD=torch.randn(shape, generator=generator),
        rollout_CHD=torch.randn((jumps, *shape[1:]), generator=generator) if rollout else None,
    )


def gradients(student, prefix, batch, method):
    student.policy.zero_grad()
    method.loss(student, None, prefix, batch).total.backward()
    return {n: p.grad.clone() for n, p in student.trained() if p.grad is not None}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def close(a, b):
    return a.keys() == b.keys() and all(torch.allclose(a[n], b[n], rtol=1e-3, atol=1e-4) for n in a)


METHOD = SnapFlow(target_steps=10, mix_ratio=0.5, consistency_weight=1.0)


def test_padded_dimensions_of_targets_change_no_gradient(pair):
    _, student, prefix = pair
    batch = samples(student, rollout=True)
    before = gradients(student, prefix, batch, METHOD)
    rollout = batch.rollout_CHD.clone()
    rollout[..., student.action_dim :] += 100.0
    assert same(before, gradients(student, prefix, replace(batch, rollout_CHD=rollout), METHOD))
    rollout[..., 0] += 1.0
    assert not same(before, gradients(student, prefix, replace(batch, rollout_CHD=rollout), METHOD))


def test_targets_of_padded_steps_change_no_gradient(pair):
    """π's chunk is bidirectional, so x_t stays as it is while the velocity that it would regress to changes."""
    _, student, prefix = pair
    batch = samples(student, rollout=True)
    before = gradients(student, prefix, batch, METHOD)

    def moved(steps):
        action, noise = batch.action_FHD.clone(), batch.noise_BHD.clone()
        action[:, steps] += 1.0
        noise[:FLOW, steps] -= ((1 - batch.t_F) / batch.t_F)[:, None, None]
        return gradients(student, prefix, replace(batch, action_FHD=action, noise_BHD=noise), METHOD)

    assert close(before, moved(slice(-2, None)))
    assert not close(before, moved(slice(0, 1)))


def test_two_target_steps_are_the_students_own_average_velocity(pair):
    _, student, prefix = pair
    batch = samples(student)
    target = SnapFlow(2, 0.5, 1.0).target(student, None, prefix, batch)
    noise, half = batch.noise_BHD[FLOW:], torch.full((JUMPS,), 0.5)
    with torch.no_grad():
        first = student.velocity(prefix[FLOW:], noise, torch.ones(JUMPS), torch.ones(JUMPS))
        second = student.velocity(prefix[FLOW:], noise - 0.5 * first, half, half)
    assert torch.allclose(target, (first + second) / 2, atol=1e-6)
    assert not target.requires_grad


def test_more_target_steps_are_the_frozen_teachers_rollout(pair):
    teacher, student, prefix = pair
    batch = samples(student)
    target = METHOD.target(student, teacher, prefix, batch)
    noise = batch.noise_BHD[FLOW:]
    with torch.no_grad():
        rollout = euler(teacher, prefix[FLOW:], noise, 10)
    assert torch.equal(target, noise - rollout)
    with pytest.raises(ValueError, match="frozen teacher"):
        METHOD.target(student, None, prefix, batch)


@pytest.mark.parametrize(
    ("steps", "ratio", "own", "needed"),
    [(2, 0.5, True, False), (3, 0.5, True, True), (2, 0.5, False, True), (3, 0.0, True, False), (2, 0.0, False, False)],
)
def test_a_teacher_is_needed_from_three_target_steps_on_or_where_the_student_may_not_make_its_own(
    steps, ratio, own, needed
):
    assert SnapFlow(steps, ratio, 1.0, own_targets=own).needs_teacher == needed


def test_at_the_target_the_jump_lands_on_the_rollout(pair):
    """Convention: x_1 − F(x_1, 0, 1) is the chunk, so a student whose F is the target jumps onto the rollout."""
    teacher, student, prefix = pair
    batch = samples(student)
    target = METHOD.target(student, teacher, prefix, batch)
    noise = batch.noise_BHD[FLOW:]
    assert torch.allclose(noise - target, teacher.chunk(prefix[FLOW:], noise, 10), atol=1e-6)
    with torch.no_grad():
        velocity = student.velocity(prefix[FLOW:], noise, torch.ones(JUMPS), torch.zeros(JUMPS))
    assert torch.allclose(noise - velocity, student.chunk(prefix[FLOW:], noise, 1), atol=1e-6)


@pytest.mark.parametrize(("ratio", "flow", "jumps"), [(0.0, 4, 0), (1.0, 0, 4), (0.5, 2, 2)])
def test_parts_are_weighted_and_an_empty_part_is_zero(pair, ratio, flow, jumps):
    _, student, prefix = pair
    batch = samples(student, rollout=True, flow=flow, jumps=jumps)
    with torch.no_grad():
        loss = SnapFlow(10, ratio, 3.0).loss(student, None, prefix, batch)
    assert torch.allclose(loss.total, (1 - ratio) * loss.flow_matching + ratio * 3.0 * loss.consistency)
    assert (loss.flow_matching == 0) == (flow == 0)
    assert (loss.consistency == 0) == (jumps == 0)


@given(st.integers(2, 1000), st.floats(0, 1))
def test_split_keeps_the_batch(size, ratio):
    flow, jumps = split(size, ratio)
    assert flow + jumps == size
    assert abs(jumps - ratio * size) <= 0.5 + 1e-6


def test_the_loss_is_what_it_is_by_hand(pair):
    """A student that knows the target time: s = t where it is flow matching, (1, 0) where it jumps."""
    _, student, prefix = pair
    batch, real = samples(student, rollout=True), student.action_dim
    start_FHD, start_CHD = batch.noise_BHD[:FLOW], batch.noise_BHD[FLOW:]
    t_F11 = batch.t_F[:, None, None]
    x_t_FHD = t_F11 * start_FHD + (1 - t_F11) * batch.action_FHD
    with torch.no_grad():
        found = SnapFlow(10, 0.25, 3.0).loss(student, None, prefix, batch)
        slope_FHD = student.velocity(prefix[:FLOW], x_t_FHD, batch.t_F, batch.t_F)
        leap_CHD = student.velocity(prefix[FLOW:], start_CHD, torch.ones(JUMPS), torch.zeros(JUMPS))
    flow = (slope_FHD - (start_FHD - batch.action_FHD))[:, :-2, :real].square().mean()  # without padded steps
    jump = (leap_CHD - (start_CHD - batch.rollout_CHD))[..., :real].square().mean()
    assert float(found.flow_matching) == pytest.approx(float(flow), rel=1e-4)
    assert float(found.consistency) == pytest.approx(float(jump), rel=1e-4)
    assert float(found.total) == pytest.approx(float(0.75 * flow + 0.25 * 3.0 * jump), rel=1e-4)
