"""The time convention, held against LeRobot's own loss, sampler and time law."""

import torch
from lerobot.policies.common.flow_matching import sample_time_beta

from flowstill.policies.flow import conditional_velocity, interpolate, time_law


def test_our_flow_matching_loss_is_lerobots(tiny):
    """Which also says that the cached prefix gives what LeRobot's joint forward gives."""
    teacher = tiny.teacher()
    batch = tiny.batch(teacher)
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn((4, teacher.chunk_size, teacher.padded_action_dim), generator=generator)
    time = torch.tensor([0.1, 0.4, 0.7, 1.0])
    with torch.no_grad():
        action = teacher.prepare_action(batch)
        seen = teacher.prepared(batch)
        state = [] if seen.state is None else [seen.state]
        theirs_BHD = teacher.policy.model.forward(
            seen.images, seen.image_masks, seen.tokens, seen.token_mask, *state, action, noise, time
        )
        velocity = teacher.velocity(teacher.encode_prefix(batch), interpolate(action, noise, time), time)
    error_BHD = velocity - conditional_velocity(action, noise)
    assert torch.allclose(error_BHD.square(), theirs_BHD, atol=1e-5)
    assert error_BHD.square().mean() > 0.1


def test_our_rollout_is_lerobots_sampler(tiny):
    teacher = tiny.teacher()
    batch = tiny.batch(teacher)
    noise = torch.randn((4, teacher.chunk_size, teacher.padded_action_dim))
    observations = {k: v for k, v in batch.items() if k.startswith("observation.")}
    theirs = teacher.policy.predict_action_chunk(dict(observations), noise=noise.clone())
    ours = teacher.chunk(teacher.encode_prefix(batch), noise, teacher.steps)
    assert teacher.steps == 10
    assert torch.equal(ours[..., : teacher.action_dim], theirs)
    naive = teacher.chunk(teacher.encode_prefix(batch), noise, 1)
    assert not torch.allclose(naive[..., : teacher.action_dim], theirs, atol=1e-3)


def test_flow_times_follow_lerobots_law():
    torch.manual_seed(0)
    theirs = sample_time_beta(40_000, "cpu", alpha=1.5, beta=1.0, scale=0.999, offset=0.001)
    ours = time_law(torch.rand(40_000, generator=torch.Generator().manual_seed(1)))
    quantiles = torch.linspace(0.02, 0.98, 25)
    assert (ours.quantile(quantiles) - theirs.quantile(quantiles)).abs().max() < 0.015
    assert time_law(torch.tensor([0.0, 1.0])).tolist() == [0.0010000000474974513, 1.0]


def test_the_prefix_survives_many_calls_of_the_expert(tiny):
    teacher = tiny.teacher()
    prefix = teacher.encode_prefix(tiny.batch(teacher))
    before = [k.clone() for k, _ in prefix.layers]
    noise, time = torch.randn((4, teacher.chunk_size, teacher.padded_action_dim)), torch.ones(4)
    first = teacher.velocity(prefix, noise, time)
    assert torch.equal(teacher.velocity(prefix, noise, time), first)
    assert all(torch.equal(a, k) for a, (k, _) in zip(before, prefix.layers, strict=True))
