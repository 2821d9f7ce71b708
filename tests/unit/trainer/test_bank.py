"""The bank: computed once, continued after an interruption, and never anything but what was computed."""

from dataclasses import fields

import pytest
import torch

from flowstill.errors import Interrupted, TeacherRejected
from flowstill_trainer import bank as module
from flowstill_trainer.bank import PREFIXES, BankPlan, jitter_noise, make_bank
from flowstill_trainer.train import autocast
from tests.unit.trainer.test_train import TRAINING

SIZE = 20


@pytest.fixture
def scene(tiny):
    """Teacher, student and frames."""
    teacher = tiny.teacher()
    return teacher, tiny.student(teacher), tiny.frames(teacher)


@pytest.fixture
def make(scene, monkeypatch):
    """Makes a bank of three parts in a folder; returns it and the progress that ``heard`` hears."""
    monkeypatch.setattr(module, "PART", 8)
    monkeypatch.setattr(module, "BATCH", 4)
    teacher, student, frames = scene

    def make(folder, stopped=lambda: False, training=TRAINING, heard=None):
        plan = BankPlan(SIZE, 3, 0.1, 0, "a", lambda: autocast(training, teacher.device))
        heard = [] if heard is None else heard
        bank = make_bank(folder, plan, teacher, student, frames, lambda *said: heard.append(said), stopped)
        return bank, heard

    return make


def same(bank, other):
    names = [field.name for field in fields(bank) if field.name != "prefix"]
    return all(torch.equal(getattr(bank, name), getattr(other, name)) for name in names)


def test_jitter_is_normal_around_nothing():
    found_NS = jitter_noise(0.02, 4000, 7, torch.Generator().manual_seed(0)) / 0.02
    assert found_NS.shape == (4000, 7)
    assert abs(float(found_NS.mean())) < 0.02
    assert float(found_NS.std()) == pytest.approx(1, abs=0.02)
    assert float((found_NS.abs() > 2).float().mean()) == pytest.approx(0.0455, abs=0.01)


def test_an_interrupted_bank_continues_and_is_the_same(tmp_path, make):
    whole, all_heard = make(tmp_path / "whole")
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        make(tmp_path / "cut", lambda: next(calls) == 3)
    again, heard = make(tmp_path / "cut")
    assert len(heard) < len(all_heard)  # the first part was not computed again
    assert same(whole, again)
    assert whole.jitter_NS.abs().max() > 0


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # still a safetensors file, of other numbers
    path.write_bytes(content)


def test_a_part_that_is_not_its_digests_or_has_none_is_computed_again(tmp_path, make, caplog):
    whole, _ = make(tmp_path)
    parts = sorted(tmp_path.glob("*.safetensors"))
    contents, times = [part.read_bytes() for part in parts], [part.stat().st_mtime_ns for part in parts]
    flip(parts[1])
    parts[2].with_suffix(".json").unlink()
    again, _ = make(tmp_path)
    said = [message for message in caplog.messages if "computing it again" in message]
    assert [name for name in ("part-000000", "part-000001", "part-000002") if name in str(said)] == [
        "part-000001",
        "part-000002",
    ]
    assert same(whole, again)
    assert [part.read_bytes() for part in parts] == contents
    assert [part.stat().st_mtime_ns == time for part, time in zip(parts, times, strict=True)] == [True, False, False]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_rollout_that_is_no_number_is_the_teachers_and_is_not_kept(tmp_path, make, scene, monkeypatch, precision):
    teacher, _, frames = scene
    whole, _ = make(tmp_path / "whole")
    chunk, calls = teacher.chunk, iter(range(100))

    def poisoned(*arguments):
        found = chunk(*arguments).clone()
        if next(calls) == 2:  # the first call of the second part
            found[1, 0, 0] = float("inf")
        return found

    monkeypatch.setattr(teacher, "chunk", poisoned)
    frames.index_N.add_(100)  # frames are named by the dataset's own numbers
    training = TRAINING.model_copy(update={"precision": precision})
    with pytest.raises(TeacherRejected, match=rf"frames {100 + whole.frame_N[9]} .* in {precision} \(1 of 4") as caught:
        make(tmp_path / "bad", training=training)
    assert caught.value.field == "spec.teacher"
    assert ("set spec.training.precision to fp32" in str(caught.value)) == (precision == "bf16")
    assert "repair the checkpoint" in str(caught.value)
    names = ["bank.json", "part-000000.json", "part-000000.safetensors"]
    assert sorted(file.name for file in (tmp_path / "bad").iterdir()) == names


def test_a_stop_during_the_prefixes_keeps_the_rollouts(tmp_path, make, scene, monkeypatch):
    teacher, _, _ = scene
    whole, all_heard = make(tmp_path / "whole")
    assert [done for activity, done, _ in all_heard if activity == PREFIXES] == [0, 4, 8, 12, 16, 20]
    assert {total for _, _, total in all_heard} == {SIZE}
    heard = []
    with pytest.raises(Interrupted, match="8 of 20 prefixes; the teacher rollouts are kept"):
        make(tmp_path / "cut", lambda: (PREFIXES, 8, SIZE) in heard, heard=heard)
    assert heard == all_heard[: all_heard.index((PREFIXES, 8, SIZE)) + 1]  # nothing was computed after it
    monkeypatch.setattr(teacher, "chunk", None)
    again, _ = make(tmp_path / "cut")
    assert same(whole, again)
    assert all(torch.equal(a, b) for a, b in zip(whole.prefix.layers[0], again.prefix.layers[0], strict=True))
