"""Refinement: it nears the teacher's distribution, leaves what is frozen, stops, continues, and refuses NaN."""

import copy

import pytest
import torch

from flowstill.api.distilljob import Refine, Training
from flowstill.errors import Interrupted, NonFiniteLoss, TeacherRejected
from flowstill.policies.flow import conditional_velocity, interpolate
from flowstill_trainer.checkpoint import CheckpointFolder
from flowstill_trainer.fidelity import energy_distance
from flowstill_trainer.methods.dmd import direction, draw
from flowstill_trainer.processes import Processes
from flowstill_trainer.refine import RefineBatches, Refiner

TRAINING = Training(steps=1, batch_size=4, precision="fp32", ema=0.9, checkpoint_every=2)
REFINE = Refine(steps=5, learning_rate=1e-3, fake_learning_rate=3e-3)


def refiner(tiny, folder, *, refine=REFINE, training=TRAINING, teacher=None, **student):
    teacher = teacher or tiny.teacher()
    made = tiny.student(teacher, **student)
    batches = RefineBatches(tiny.frames(teacher), made, teacher, refine, training, 0.05)
    one = Refiner(made, teacher, batches, CheckpointFolder(folder / "refine", "a", 2), 10.0)
    found = one.checkpoints.latest()
    if found is not None:
        one.restore(found)
    return one


def everything(one):
    """What a published student and a continued run depend on."""
    return (
        one.state().weights
        | one.state().optimizer
        | {f"average/{n}": p for n, p in one.learners["student"].average.items()}
    )


def run(one, *, stop_at=None, die_at=None):
    losses = []

    def progress(step, total, loss, rate):
        losses.append(loss)
        if step == die_at:
            raise KeyboardInterrupt

    one.run(progress, lambda: one.step == stop_at)
    return losses


@pytest.mark.parametrize(("cut", "continues_at"), [({"stop_at": 3}, 3), ({"die_at": 3}, 2)], ids=["stopped", "killed"])
def test_a_resumed_refinement_is_the_same_bit_for_bit(tiny, tmp_path, cut, continues_at):
    whole = refiner(tiny, tmp_path / "whole")
    start = {name: value.clone() for name, value in whole.state().weights.items()}
    losses = run(whole)
    first = refiner(tiny, tmp_path / "cut")
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        run(first, **cut)
    second = refiner(tiny, tmp_path / "cut")
    assert second.step == continues_at  # that of the last checkpoint
    assert run(second) == losses[continues_at:]
    here, there = everything(whole), everything(second)
    assert here.keys() == there.keys()
    assert all(torch.equal(value, there[name]) for name, value in here.items())
    assert any(name.startswith("fake/") for name in here)
    moved = {n.partition("/")[0] for n, value in start.items() if not torch.equal(value, here[n])}
    assert moved == {"student", "fake"}
    assert second.seconds > 10.0  # those of the training before


def test_what_is_frozen_stays_and_is_shared(tiny, tmp_path):
    one = refiner(tiny, tmp_path)
    before = copy.deepcopy(one.teacher.policy.state_dict())
    run(one)
    after = one.teacher.policy.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(p.requires_grad or p.grad is not None for p in one.teacher.policy.parameters())
    theirs, fakes, ours = (dict(net.policy.named_parameters()) for net in (one.teacher, one.fake, one.student))
    trained = set(one.learners["fake"].parameters)
    assert trained == set(one.learners["student"].parameters) & set(theirs)
    for name, parameter in fakes.items():
        assert (parameter.data_ptr() == theirs[name].data_ptr()) == (name not in trained), name
        assert (parameter.data_ptr() == ours[name].data_ptr()) == (name not in trained), name


def test_a_fake_that_is_the_teacher_gives_exactly_no_gradient(tiny, tmp_path):
    one = refiner(tiny, tmp_path)
    prefix = one.teacher.encode_prefix(tiny.batch(one.teacher))
    drawn = draw(one.teacher, 4, torch.Generator().manual_seed(0))
    assert not direction(one.fake, one.teacher, prefix, drawn.start_BHD, drawn).any()
    with torch.no_grad():
        next(p for n, p in one.fake.trained() if "action_out_proj.bias" in n).add_(0.1)
    assert direction(one.fake, one.teacher, prefix, drawn.start_BHD, drawn)[..., 0].abs().min() > 0


def test_the_published_weights_are_the_average(tiny, tmp_path):
    one = refiner(tiny, tmp_path)
    run(one)
    last = one.checkpoints.latest()
    published = one.learners["student"].parameters
    assert all(torch.equal(p, last.average[n]) for n, p in published.items())
    assert any(not torch.equal(p, last.weights[f"student/{n}"]) for n, p in published.items())
    plain = refiner(tiny, tmp_path / "plain", training=TRAINING.model_copy(update={"ema": 0.0}))
    run(plain)
    last = plain.checkpoints.latest()
    assert not last.average
    assert all(torch.equal(p, last.weights[f"student/{n}"]) for n, p in plain.learners["student"].parameters.items())


def test_observations_are_jittered_and_each_update_has_its_own_numbers(tiny, tmp_path):
    one = refiner(tiny, tmp_path)
    first, second = (sampled for sampled, _ in zip(one.batches.iterate(0), range(2), strict=False))
    starts = [d.start_BHD for s in (first, second) for d in (*s.fake_draws, s.student_draw)]
    assert len(starts) == 6
    assert all(not torch.equal(a, b) for i, a in enumerate(starts) for b in starts[:i])
    assert 0.02 < first.jitter_BS.std() < 0.1
    assert not torch.equal(first.jitter_BS, second.jitter_BS)
    [seen] = one.batches.see(first, Processes())
    assert seen.theirs is seen.ours
    raw = one.batches.frames.observations(first.frame_B)
    jittered, plain = (one.student.encode_prefix(one.student.preprocess(raw, j)) for j in (first.jitter_BS, None))
    assert equal(seen.ours, jittered)
    assert not equal(seen.ours, plain)


def equal(a, b):
    """Whether two prefixes are the same; the state may be in either of their parts."""
    states = a.state_BS is None or torch.equal(a.state_BS, b.state_BS)
    layers = zip(a.layers, b.layers, strict=True)
    return states and all(torch.equal(k, other) and torch.equal(v, with_it) for (k, v), (other, with_it) in layers)


@pytest.mark.parametrize("tiny", ["smolvla"], indirect=True)
def test_accumulation_changes_neither_losses_nor_weights(tiny, tmp_path):
    whole = refiner(tiny, tmp_path / "whole")
    losses = run(whole)
    cut = refiner(tiny, tmp_path / "parts", training=TRAINING.model_copy(update={"gradient_accumulation": 3}))
    sampled = next(cut.batches.iterate(0))
    assert [len(sampled.frame_B[part.rows]) for part in cut.batches.see(sampled, Processes())] == [2, 1, 1]
    assert run(cut) == pytest.approx(losses, rel=1e-3)
    there = cut.state().weights
    for name, value in whole.state().weights.items():
        assert torch.allclose(value, there[name], rtol=1e-3, atol=3e-4), name


@pytest.mark.parametrize("who", ["student", "fake"])
def test_nan_stops_with_the_step_and_keeps_the_checkpoints(tiny, tmp_path, who):
    one = refiner(tiny, tmp_path)

    def poison(step, *_):
        if step == 4:
            with torch.no_grad():
                next(iter(one.learners[who].parameters.values())).fill_(float("nan"))

    with pytest.raises(NonFiniteLoss, match=r"step 5 of refinement.*frames") as caught:
        one.run(poison, lambda: False)
    assert caught.value.field == "spec.method.refine"
    assert one.checkpoints.latest().step == 4
    assert all(v.isfinite().all() for v in one.checkpoints.latest().weights.values())


@pytest.mark.parametrize("tiny", ["smolvla"], indirect=True)
@pytest.mark.parametrize(("where", "parts"), [("velocity", 1), ("prefix", 2)])
def test_a_teachers_nan_is_not_blamed_on_the_learning_rate(tiny, tmp_path, monkeypatch, where, parts):
    one = refiner(tiny, tmp_path, training=TRAINING.model_copy(update={"gradient_accumulation": parts}))
    one.batches.frames.index_N.add_(100)  # frames are named by the dataset's own numbers
    sampled = list(one.batches.iterate(0))[1]
    time, jitter = sampled.student_draw.t_B[2], sampled.jitter_BS[2]
    velocity, see = one.teacher.velocity, RefineBatches.see_part

    def bad_velocity(prefix, x_t_BHD, t_B):
        return torch.where((t_B == time)[:, None, None], torch.nan, velocity(prefix, x_t_BHD, t_B))

    def bad_see(self, sampled, rows):  # the student's prefix is the teacher's
        seen = see(self, sampled, rows)
        keys = seen.ours.layers[0][0]
        keys[(sampled.jitter_BS[rows] == jitter).all(1)] = torch.nan
        return seen

    if where == "velocity":
        monkeypatch.setattr(one.teacher, "velocity", bad_velocity)
    else:
        monkeypatch.setattr(RefineBatches, "see_part", bad_see)
    says = (
        rf"step 2 of refinement: what .* frames {100 + int(sampled.frame_B[2])} is not finite in fp32 \(1 of 4 samples"
    )
    with pytest.raises(TeacherRejected, match=says) as caught:
        run(one)
    assert caught.value.field == "spec.teacher"
    assert one.step == 1


def test_bf16_updates_fp32_weights(tiny, tmp_path):
    one = refiner(tiny, tmp_path, training=TRAINING.model_copy(update={"precision": "bf16"}))
    start = {name: value.clone() for name, value in one.state().weights.items()}
    assert all(0 < loss < 100 for loss in run(one))
    for name, value in one.state().weights.items():
        assert value.dtype == torch.float32
        if ".target_time." in name or "action_out_proj.weight" in name:
            assert not torch.equal(value, start[name]), name


@pytest.mark.parametrize("tiny", ["pi05"], indirect=True)
def test_a_state_out_student_and_its_teacher_have_their_own_prefixes(tiny, tmp_path):
    one = refiner(tiny, tmp_path, state_out=True)
    sampled = next(one.batches.iterate(0))
    [seen] = one.batches.see(sampled, Processes())
    raw = one.batches.frames.observations(sampled.frame_B)
    for policy, prefix in ((one.student, seen.ours), (one.teacher, seen.theirs)):
        assert equal(prefix, policy.encode_prefix(policy.preprocess(raw, sampled.jitter_BS)))  # the same jitter
    assert not torch.equal(seen.ours.layers[0][0], seen.theirs.layers[0][0])
    before = one.learners["student"].parameters["model.state_proj.weight"].detach().clone()
    assert all(0 < loss < 100 for loss in run(one))
    assert not torch.equal(one.learners["student"].parameters["model.state_proj.weight"], before)


@pytest.mark.parametrize("tiny", ["smolvla"], indirect=True)
def test_a_shifted_student_comes_back_to_the_teachers_distribution(tiny, tmp_path):
    """The teacher knows chunks around 0.5; the student starts half a unit beside them."""
    teacher = tiny.teacher()
    fit(teacher, tiny, mean=0.5, std=0.3)
    training = TRAINING.model_copy(update={"ema": 0.0, "batch_size": 32, "checkpoint_every": 1000})
    refine = Refine(steps=120, learning_rate=2e-3, fake_learning_rate=6e-3)
    one = refiner(tiny, tmp_path, teacher=teacher, training=training, refine=refine)
    with torch.no_grad():
        one.learners["student"].parameters["model.action_out_proj.bias"].add_(0.5)
    before = distance(one)
    run(one)
    assert distance(one) < before / 4


def fit(teacher, tiny, *, mean, std, steps=150):
    """Plain flow matching of the tiny teacher to normal chunks, whatever it sees."""
    parameters = [parameter for _, parameter in teacher.trained()]
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    prefix = teacher.encode_prefix(tiny.batch(teacher, 32))
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        noise, chunk = torch.randn((2, 32, teacher.chunk_size, teacher.padded_action_dim), generator=random)
        chunk = mean + std * chunk
        chunk[..., teacher.action_dim :] = 0
        time = torch.rand(32, generator=random)
        error = teacher.velocity(prefix, interpolate(chunk, noise, time), time) - conditional_velocity(chunk, noise)
        optimizer.zero_grad()
        error[..., : teacher.action_dim].square().mean().backward()
        optimizer.step()
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None


def distance(one):
    frames = one.batches.frames
    prefix = one.teacher.encode_prefix(one.teacher.preprocess(frames.observations(frames.training_T[:8]))).repeat(32)
    random = torch.Generator().manual_seed(1)
    shape = (8 * 32, one.student.chunk_size, one.student.padded_action_dim)
    ours = one.student.chunk(prefix, torch.randn(shape, generator=random), 1)
    theirs = one.teacher.chunk(prefix, torch.randn(shape, generator=random), 10)
    real = slice(0, one.student.action_dim)
    return energy_distance(*(x[..., real].flatten(1).unflatten(0, (8, 32)) for x in (ours, theirs)))
