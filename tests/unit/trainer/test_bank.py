"""The bank: computed once, continued after an interruption, and never anything but what was computed."""

from dataclasses import fields

import pytest
import torch

from flowstill.errors import Interrupted
from flowstill_trainer import bank as module
from flowstill_trainer.bank import BankPlan, make_bank
from flowstill_trainer.train import autocast
from tests.unit.trainer.test_train import TRAINING

SIZE = 20


@pytest.fixture
def make(tiny, monkeypatch):
    """Makes a bank of three parts in a folder; returns it and the progress that was heard."""
    monkeypatch.setattr(module, "PART", 8)
    monkeypatch.setattr(module, "BATCH", 4)
    teacher = tiny.teacher()
    student, frames = tiny.student(teacher), tiny.frames(teacher)
    plan = BankPlan(SIZE, 3, 0.1, 0, "a", lambda: autocast(TRAINING, teacher.device))

    def make(folder, stopped=lambda: False):
        heard = []
        bank = make_bank(folder, plan, teacher, student, frames, lambda *said: heard.append(said), stopped)
        return bank, heard

    return make


def same(bank, other):
    names = [field.name for field in fields(bank) if field.name != "prefix"]
    return all(torch.equal(getattr(bank, name), getattr(other, name)) for name in names)


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
