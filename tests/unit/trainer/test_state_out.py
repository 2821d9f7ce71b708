"""Training a state-out student: two prefixes a batch, targets from the frozen teacher as it is."""

import pytest
import torch

from flowstill.api.distilljob import Method
from flowstill.errors import TeacherRejected
from flowstill.policies.flow import euler
from flowstill_trainer.bank import BankPlan, make_bank
from flowstill_trainer.batches import Batches
from flowstill_trainer.checkpoint import CheckpointFolder
from flowstill_trainer.train import Trainer, autocast
from tests.unit.trainer.test_fidelity import measured
from tests.unit.trainer.test_train import TRAINING, run, weights

pytestmark = pytest.mark.parametrize("tiny", ["pi05"], indirect=True)


def trainer(tiny, folder, method):
    teacher = tiny.teacher()
    student = tiny.student(teacher, state_out=True)
    frames = tiny.frames(teacher)
    bank = None
    if method.bank_size:
        plan = BankPlan(method.bank_size, method.target_steps, 0.05, 0, "a", lambda: autocast(TRAINING, teacher.device))
        bank = make_bank(folder / "bank", plan, teacher, student, frames, lambda *_: None, lambda: False)
    batches = Batches(frames, bank, student, teacher, method, TRAINING)
    return Trainer(student, teacher, batches, CheckpointFolder(folder / "checkpoints", "a", 2))


@pytest.mark.parametrize("steps", [2, 3])
def test_targets_are_the_frozen_teachers_rollouts_from_its_own_prompt(tiny, tmp_path, steps):
    one = trainer(tiny, tmp_path, Method(target_steps=steps, mix_ratio=0.5, bank_size=0, state_jitter=0.05))
    for parameter in one.learner.parameters.values():  # so that the student's own targets would be others
        torch.nn.init.normal_(parameter, std=0.1)
    batch = one.batches.batch(next(one.batches.iterate(0)))
    theirs = one.teacher.encode_prefix(batch.teacher_observations)
    flow = len(batch.samples.t_F)
    target = one.method.target(one.student, one.teacher, batch.encode(one.student), batch.samples, theirs)
    noise = batch.samples.noise_BHD[flow:]
    with torch.no_grad():
        assert torch.equal(target, noise - euler(one.teacher, theirs, noise, steps))
    jumps = batch.observations["observation.state"][flow:]
    assert torch.equal(batch.teacher_observations["observation.state"], jumps)  # the same jitter
    tokens = "observation.language.tokens"
    assert not torch.equal(batch.teacher_observations[tokens], batch.observations[tokens][flow:])


def test_a_teachers_nan_is_not_blamed_on_the_learning_rate(tiny, tmp_path, monkeypatch):
    one = trainer(tiny, tmp_path, Method(target_steps=2, mix_ratio=0.5, bank_size=0))
    encode = one.teacher.encode_prefix

    def poisoned(batch):
        prefix = encode(batch)
        (key, _), *_ = prefix.layers
        key[1] = torch.nan
        return prefix

    monkeypatch.setattr(one.teacher, "encode_prefix", poisoned)
    frame = int(one.batches.frames.index_N[next(one.batches.iterate(0)).frame_B[3]])
    with pytest.raises(TeacherRejected, match=rf"step 1: .* frames {frame} is not finite in fp32 \(1 of 2 samples"):
        run(one)


def test_the_bank_holds_the_teachers_rollouts_and_the_students_prefixes(tiny, tmp_path):
    one = trainer(tiny, tmp_path, Method(target_steps=3, mix_ratio=0.5, bank_size=10, state_jitter=0.05))
    bank, frames = one.batches.bank, one.batches.frames
    rows = torch.arange(10)
    observations = frames.observations(bank.frame_N[rows])
    theirs = one.teacher.encode_prefix(one.teacher.preprocess(observations, bank.jitter_NS))
    assert torch.allclose(one.teacher.chunk(theirs, bank.noise_NHD, 3), bank.chunk_NHD, atol=1e-5)
    ours = one.student.encode_prefix(one.student.preprocess(observations, bank.jitter_NS))
    assert torch.allclose(bank.prefix.state_BS, ours.state_BS)
    assert torch.allclose(bank.prefix.layers[1][0], ours.layers[1][0], atol=1e-5)
    assert not torch.allclose(bank.prefix.layers[1][0], theirs.layers[1][0], atol=1e-2)


@pytest.mark.parametrize(
    "options", [{"target_steps": 2}, {"target_steps": 3, "bank_size": 10}, {"target_steps": 2, "bank_size": 10}]
)
def test_it_trains_and_its_fidelity_is_measured(tiny, tmp_path, options):
    one = trainer(tiny, tmp_path, Method(**options))
    start = weights(one)
    assert all(0 < loss < 100 for loss in run(one))
    assert not torch.equal(one.learner.parameters["model.state_proj.weight"], start["model.state_proj.weight"])
    assert list(measured(tiny, one.teacher, one.student))[-2:] == ["student", "student-draws"]
