"""The loop: exact continuation, stopping, and refusing to go on with NaN."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from flowstill.api.distilljob import Method, Training
from flowstill.errors import Interrupted, NonFiniteLoss, TeacherRejected, UserError
from flowstill_trainer import data
from flowstill_trainer.bank import BankPlan, make_bank
from flowstill_trainer.batches import Batches
from flowstill_trainer.checkpoint import CheckpointFolder
from flowstill_trainer.train import Trainer, autocast, learning_rate

TRAINING = Training(
    steps=6, batch_size=4, learning_rate=1e-2, warmup_steps=2, precision="fp32", ema=0.9, checkpoint_every=2
)
METHOD = Method(target_steps=3, mix_ratio=0.5, bank_size=0, state_jitter=0.05)


def trainer(tiny, folder, *, method=METHOD, training=TRAINING, inputs="a"):
    torch.manual_seed(0)
    teacher = tiny.teacher()
    student = tiny.student(teacher)
    frames = tiny.frames(teacher)
    bank = None
    if method.bank_size:
        plan = BankPlan(method.bank_size, 3, 0.05, 0, "a", lambda: autocast(training, teacher.device))
        bank = make_bank(folder / "bank", plan, teacher, student, frames, lambda *_: None, lambda: False)
    batches = Batches(frames, bank, student, teacher, method, training)
    return Trainer(student, teacher, batches, CheckpointFolder(folder / "checkpoints", inputs, 2))


def weights(run):
    return {n: p.detach().clone() for n, p in run.learner.parameters.items()}


def run(one, *, stop_at=None):
    losses = []
    one.run(lambda step, total, loss, rate: losses.append(loss), lambda: one.step == stop_at)
    return losses


@pytest.mark.parametrize(
    "method", [METHOD, Method(target_steps=3, mix_ratio=0.5, bank_size=10), Method(target_steps=2)]
)
def test_a_resumed_run_has_the_same_weights_bit_for_bit(tiny, tmp_path, method):
    whole = trainer(tiny, tmp_path / "whole", method=method)
    losses = run(whole)
    first = trainer(tiny, tmp_path / "cut", method=method)
    with pytest.raises(Interrupted, match="step 3 of 6"):
        run(first, stop_at=3)
    second = trainer(tiny, tmp_path / "cut", method=method)
    assert run(second) == losses[3:]
    assert all(torch.equal(p, weights(second)[n]) for n, p in weights(whole).items())
    start = weights(trainer(tiny, tmp_path / "new", method=method))
    assert any(not torch.equal(p, start[n]) for n, p in weights(second).items())


@pytest.mark.parametrize("method", [METHOD, Method(target_steps=3, mix_ratio=0.5, bank_size=10)])
def test_images_of_the_next_step_are_read_while_this_one_is_computed(tiny, tmp_path, monkeypatch, method):
    whole = trainer(tiny, tmp_path / "memory", method=method)
    losses = run(whole)
    monkeypatch.setattr(data, "MEMORY_LIMIT", 10)
    lazy = trainer(tiny, tmp_path / "disk", method=method)
    images, ahead = lazy.batches.frames.images, []
    read = data.ImagesOnDisk.read

    def noted(self, index_B):
        ahead.append(set(index_B.tolist()) == self.expected.keys())
        return read(self, index_B)

    monkeypatch.setattr(data.ImagesOnDisk, "read", noted)
    assert run(lazy) == losses
    assert ahead == [False, True, True, True, True, True]
    assert not images.expected
    assert all(torch.equal(p, weights(lazy)[n]) for n, p in weights(whole).items())


def test_a_killed_run_continues_from_the_last_checkpoint(tiny, tmp_path):
    whole = trainer(tiny, tmp_path / "whole")
    run(whole)
    cut = trainer(tiny, tmp_path / "cut")

    class Killed(Exception):
        pass

    def die(step, *_):
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        cut.run(die, lambda: False)
    again = trainer(tiny, tmp_path / "cut")
    assert len(run(again)) == 2  # steps 5 and 6, after the checkpoint of step 4
    assert all(torch.equal(p, weights(again)[n]) for n, p in weights(whole).items())


def test_nan_stops_with_the_step_and_keeps_the_checkpoints(tiny, tmp_path):
    one = trainer(tiny, tmp_path)

    def poison(step, *_):
        if step == 4:
            with torch.no_grad():
                next(iter(one.learner.parameters.values())).fill_(float("nan"))

    with pytest.raises(NonFiniteLoss, match="step 5") as caught:
        one.run(poison, lambda: False)
    assert caught.value.field == "spec.training"
    assert one.checkpoints.latest().step == 4
    assert all(v.isfinite().all() for v in one.checkpoints.latest().weights.values())


@pytest.mark.parametrize("tiny", ["smolvla"], indirect=True)
@pytest.mark.parametrize(("precision", "parts"), [("fp32", 1), ("bf16", 2)])
def test_a_teachers_nan_is_not_blamed_on_the_learning_rate(tiny, tmp_path, monkeypatch, precision, parts):
    training = TRAINING.model_copy(update={"precision": precision, "gradient_accumulation": parts})
    one = trainer(tiny, tmp_path, training=training)
    one.batches.frames.index_N.add_(100)  # frames are named by the dataset's own numbers
    sampled = list(one.batches.iterate(0))[2]
    velocity, bad = one.teacher.velocity, sampled.noise_BHD[3]
    seen_BX = one.teacher.encode_prefix(one.batches.batch(sampled).observations).layers[-1][0].flatten(1)

    def poisoned(prefix, x_t_BHD, *arguments):
        """Not a number for one sample of the third step, beside its own observation."""
        nearest_B = torch.cdist(prefix.layers[-1][0].flatten(1).float(), seen_BX).argmin(1)
        hit_B = (x_t_BHD == bad).flatten(1).all(1) & (nearest_B == 3)
        return torch.where(hit_B[:, None, None], torch.nan, velocity(prefix, x_t_BHD, *arguments))

    monkeypatch.setattr(one.teacher, "velocity", poisoned)
    frame, hint = 100 + int(sampled.frame_B[3]), "set spec.training.precision to fp32"
    says = rf"step 3: what the teacher computes on the dataset's frames {frame} is not finite in {precision} \(1 of 2 "
    with pytest.raises(TeacherRejected, match=says) as caught:
        run(one)
    assert caught.value.field == "spec.teacher"
    assert (hint in str(caught.value)) == (precision == "bf16")
    assert one.checkpoints.latest().step == 2


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tiny, tmp_path):
    one = trainer(tiny, tmp_path)
    run(one)
    folder = one.checkpoints.root
    assert sorted(p.name for p in folder.iterdir()) == ["step-000000004", "step-000000006"]
    file = folder / "step-000000006" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    assert one.checkpoints.latest().step == 4
    (folder / "step-000000004" / "state.json").write_text("{")
    assert one.checkpoints.latest() is None


def test_checkpoints_of_other_inputs_are_refused(tiny, tmp_path):
    run(trainer(tiny, tmp_path))
    with pytest.raises(UserError, match="other inputs"):
        run(trainer(tiny, tmp_path, inputs="b"))


def test_the_published_weights_are_the_average(tiny, tmp_path):
    one = trainer(tiny, tmp_path)
    run(one)
    last = one.checkpoints.latest()
    assert all(torch.equal(p, last.average[n]) for n, p in one.learner.parameters.items())
    assert any(not torch.equal(p, last.weights[n]) for n, p in one.learner.parameters.items())


def test_the_frozen_part_does_not_move(tiny, tmp_path):
    one = trainer(tiny, tmp_path)
    before = {n: p.clone() for n, p in one.teacher.policy.state_dict().items()}
    run(one)
    assert all(torch.equal(p, before[n]) for n, p in one.teacher.policy.state_dict().items())


def test_learning_rate_warms_up_and_ends_at_zero():
    rates = [learning_rate(step, TRAINING) for step in range(7)]
    assert rates[0] == pytest.approx(0.005)
    assert rates[1] == rates[2] == pytest.approx(0.01)
    assert all(a > b for a, b in pairwise(rates[2:]))
    assert rates[6] == pytest.approx(0)


@pytest.mark.parametrize("tiny", ["smolvla"], indirect=True)
def test_each_step_has_its_own_rate_and_is_then_counted(tiny, tmp_path, monkeypatch):
    one, asked = trainer(tiny, tmp_path), []
    monkeypatch.setattr(one.learner, "update", lambda parts, rate: asked.append(rate) or 0.5)
    monkeypatch.setattr(one.learner, "follow", asked.append)
    assert run(one) == [0.5] * 6
    assert asked == [x for step in range(6) for x in (learning_rate(step, TRAINING), step + 1)]


def test_known_prefixes_give_the_same_batch(tiny, tmp_path):
    """The bank's prefixes are those that a pass of the VLM would give."""
    one = trainer(tiny, tmp_path, method=Method(target_steps=3, mix_ratio=0.5, bank_size=10, state_jitter=0.05))
    sampled = next(one.batches.iterate(0))
    known = one.batches.batch(sampled)
    assert known.prefix is not None
    without = replace(one.batches, bank=replace(one.batches.bank, prefix=None))
    computed = without.batch(sampled).encode(one.student)
    for (a, b), (c, d) in zip(known.encode(one.student).layers, computed.layers, strict=True):
        assert torch.allclose(a, c, atol=1e-5)
        assert torch.allclose(b, d, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_target_time_is_learned_in_fp32(tiny, tmp_path, precision):
    one = trainer(tiny, tmp_path, training=TRAINING.model_copy(update={"precision": precision}))
    start = weights(one)
    assert all(not p.any() for n, p in start.items() if ".target_time.output." in n)
    losses = run(one)
    assert all(0 < loss < 100 for loss in losses)
    assert all(p.dtype == torch.float32 for p in one.learner.parameters.values())
    for part in ("hidden", "output"):
        name = f"model.target_time.{part}.weight"
        assert not torch.equal(one.learner.parameters[name], start[name])
    student, noise = one.student, torch.randn((2, one.student.chunk_size, one.student.padded_action_dim))
    prefix = student.encode_prefix(tiny.batch(student, 2))
    with torch.no_grad():
        jump, step = (student.velocity(prefix, noise, torch.ones(2), torch.full((2,), s)) for s in (0.0, 1.0))
    assert not torch.allclose(jump, step, atol=1e-6)
