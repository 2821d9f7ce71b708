"""What a run needs is known before it starts; what cannot end well is refused with numbers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowstill.api.distilljob import DistillJobSpec
from flowstill.errors import MemoryShort, StorageFull
from flowstill_trainer import preflight as module
from flowstill_trainer.bank import BankPlan, make_bank
from flowstill_trainer.preflight import Room, Sizes, available_memory, check, gib, needs, preflight, sizes_of
from flowstill_trainer.train import autocast
from tests.unit.trainer.test_train import TRAINING, run, trainer

GIB = 2**30
SIZES = Sizes(trained=GIB, model=3 * GIB, rollout=1024)
BASE = {"teacher": {"uri": "store://t"}, "dataset": {"uri": "store://d"}}
PLENTY = Room(Path("/work"), Path("/store"), 10**15, 10**15, one_disk=False, host_free=10**15, device_free=None)


def needed(method=None, processes=1, **training):
    values = {"steps": 10_000, "fidelityEvery": 0} | training
    options = {"bankSize": 0, "refine": {"steps": 0}} | (method or {})
    spec = DistillJobSpec.model_validate(BASE | {"training": values, "method": options})
    return needs(spec, SIZES, processes)


def total(items):
    return sum(item.bytes for item in items) / GIB


@pytest.mark.parametrize(
    ("training", "training_gib", "publishing_gib"),
    [
        ({}, 3 * 3, 2 * 3 + 6),  # weights and two moments, thrice while one is written; then the student
        ({"ema": 0.9}, 3 * 4, 2 * 4 + 6),
        ({"ema": 0.9, "fidelityEvery": 500}, 3 * 5, 2 * 5 + 6),
        ({"keepCheckpoints": 5}, 6 * 3, 5 * 3 + 6),
        ({"steps": 500}, 3, 3 + 6),  # one is all there will be
        ({"steps": 1000, "checkpointEvery": 500, "keepCheckpoints": 1}, 2 * 3, 3 + 6),
        ({"steps": 500, "fidelityEvery": 500}, 3, 3 + 6),  # the only look is the last
    ],
)
def test_what_lies_on_the_disk(training, training_gib, publishing_gib):
    found = needed(**training)
    assert (total(found.training), total(found.publishing)) == (training_gib, publishing_gib)
    banked = needed({"bankSize": 2**20}, **training)
    assert (total(banked.training), total(banked.publishing)) == (training_gib + 1, publishing_gib + 1)


def test_a_refinement_keeps_its_own_checkpoints_beside_the_trainings():
    found = needed({"refine": {"name": "dmd", "steps": 2000}}, ema=0.9)
    # Two of the training, three while one is written: student and fake with two moments each, the average, and what is
    # gone back to.
    assert total(found.refining) == 2 * 4 + 3 * 8
    assert total(found.publishing) == 2 * 4 + 2 * 8 + 6
    assert total(found.gradients) == (1 + 2 + 1) + 4


def test_what_is_certain_in_memory():
    found = needed({"bankSize": 2**20}, ema=0.9)
    assert (total(found.gradients), total(found.host), total(found.first)) == (1 + 2 + 1, 1, 1)
    assert total(needed().gradients) == 3


def test_a_disk_with_just_enough_room_is_enough():
    found = needed()  # 9 GiB while it trains, 12 at its end
    check(found, replace(PLENTY, work_free=12 * GIB, store_free=6 * GIB))
    with pytest.raises(StorageFull, match=r"needs 12.0 GiB in /work .*2 checkpoints of 3.0 GiB.*12.0 GiB are free"):
        check(found, replace(PLENTY, work_free=12 * GIB - 1))
    with pytest.raises(StorageFull, match=r"needs 6.0 GiB in /store"):
        check(found, replace(PLENTY, store_free=6 * GIB - 1))
    check(found, replace(PLENTY, work_free=18 * GIB, store_free=18 * GIB, one_disk=True))
    with pytest.raises(StorageFull, match=r"published student 6.0 GiB"):
        check(found, replace(PLENTY, work_free=18 * GIB - 1, store_free=18 * GIB - 1, one_disk=True))
    many = needed(keepCheckpoints=9)
    with pytest.raises(StorageFull, match=r"spec.training.keepCheckpoints: .*9 checkpoints.*lower keepCheckpoints"):
        check(many, replace(PLENTY, work_free=20 * GIB))


def test_memory_is_refused_only_when_what_is_certain_does_not_fit():
    found = needed({"bankSize": 2**20}, ema=0.9)
    check(found, replace(PLENTY, host_free=6 * GIB))
    with pytest.raises(MemoryShort, match=r"at least 6.0 GiB more of memory \(gradients 1.0 GiB.*raise the memory in"):
        check(found, replace(PLENTY, host_free=6 * GIB - 1))
    check(found, replace(PLENTY, host_free=None))
    check(found, replace(PLENTY, host_free=2 * GIB, device_free=4 * GIB))
    with pytest.raises(MemoryShort, match=r"4.0 GiB more of the GPU's memory"):
        check(found, replace(PLENTY, host_free=2 * GIB, device_free=4 * GIB - 1))
    with pytest.raises(MemoryShort, match=r"2.0 GiB more of memory"):
        check(found, replace(PLENTY, host_free=2 * GIB - 1, device_free=4 * GIB))


def test_every_process_of_a_node_needs_its_own():
    found = needed({"bankSize": 2**20}, ema=0.9)  # of each process 4 GiB and a bank of 1; of rank 0 one more
    check(found, replace(PLENTY, host_free=11 * GIB), 2)
    text = (
        r"at least 11.0 GiB more of memory \(gradients.*bank 1.0 GiB in each of 2 processes; weights of the best look"
    )
    with pytest.raises(MemoryShort, match=text):
        check(found, replace(PLENTY, host_free=11 * GIB - 1), 2)
    check(found, replace(PLENTY, host_free=10 * GIB), 2, first=False)
    check(found, replace(PLENTY, host_free=3 * GIB, device_free=4 * GIB), 2)  # each has a GPU of its own
    with pytest.raises(MemoryShort, match=r"3.0 GiB more of memory \(bank 1.0 GiB in each of 2 processes"):
        check(found, replace(PLENTY, host_free=3 * GIB - 1, device_free=4 * GIB), 2)


def test_fsdp_shares_moments_and_average_and_not_gradients():
    alone, four = (needed(ema=0.9, parallel="fsdp", processes=number) for number in (1, 4))
    assert (total(alone.gradients), total(four.gradients)) == (1 + 3, 1 + 3 / 4)
    assert total(needed(ema=0.9, processes=4).gradients) == 1 + 3
    refined = needed({"refine": {"name": "dmd", "steps": 10}}, parallel="fsdp", processes=4)
    assert total(refined.gradients) == 1 + 2 / 4 + 1 + 3 / 4


def test_sizes_are_those_of_the_student(tiny, tmp_path):
    teacher = tiny.teacher()
    student = tiny.student(teacher)
    sizes = sizes_of(student)
    student.save(tmp_path / "policy")
    file = (tmp_path / "policy" / "model.safetensors").stat().st_size
    assert sizes.trained < sizes.model
    assert sizes.model == pytest.approx(file, rel=0.1)
    plan = BankPlan(5, 2, 0.1, 0, "a", lambda: autocast(TRAINING, teacher.device))
    bank = make_bank(tmp_path / "bank", plan, teacher, student, tiny.frames(teacher), lambda *_: None, lambda: False)
    rows = (bank.frame_N, bank.noise_NHD, bank.chunk_NHD, bank.jitter_NS)
    assert sum(t.numel() * t.element_size() for t in rows) == 5 * sizes.rollout
    run(trainer(tiny, tmp_path))
    saved = sum(p.stat().st_size for p in (tmp_path / "checkpoints" / "step-000000006").iterdir())
    assert saved == pytest.approx(4 * sizes.trained, rel=0.2)


def test_the_check_of_this_machine(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWSTILL_STORE", (tmp_path / "store").as_uri())
    teacher, spec = tiny.teacher(), DistillJobSpec.model_validate(BASE)
    student, images = tiny.student(teacher), tiny.frames(teacher).images
    preflight(spec, student, images, tmp_path)
    monkeypatch.setattr(module, "free_disk", lambda _: 7)
    (tmp_path / "checkpoints" / "step-000000001").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-000000001" / "weights.safetensors").write_bytes(b"12345")
    room = module.room_of(tmp_path, torch.device("cpu"))
    assert (room.one_disk, room.device_free) == (True, None)
    assert (room.work_free, room.store_free) == (7 + 5, 7)
    assert room.host_free > 0
    with pytest.raises(StorageFull):
        preflight(spec, student, images, tmp_path)


def test_images_that_are_read_ahead_are_memory_of_every_process(tiny, tmp_path, monkeypatch):
    class Large:
        def ahead(self, count):
            return count * GIB

    monkeypatch.setenv("FLOWSTILL_STORE", (tmp_path / "store").as_uri())
    monkeypatch.setattr(module, "available_memory", lambda: 8 * GIB)
    spec = DistillJobSpec.model_validate(BASE | {"training": {"batchSize": 9}, "method": {"bankSize": 0}})
    with pytest.raises(MemoryShort, match=r"images read ahead 9.0 GiB"):
        preflight(spec, tiny.student(tiny.teacher()), Large(), tmp_path)
    found = needs(spec, replace(SIZES, ahead=3 * GIB), 2)
    seven = replace(PLENTY, host_free=7 * GIB, device_free=10**15)
    check(found, seven, 2)  # the weights of the best look besides
    with pytest.raises(MemoryShort, match="in each of 2 processes"):
        check(found, replace(seven, host_free=7 * GIB - 1), 2)


def test_a_student_that_goes_into_a_bucket_takes_no_room_here(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWSTILL_STORE", "s3://models/flowstill")
    monkeypatch.setattr(module, "free_disk", lambda _: 15 * GIB)
    room = replace(module.room_of(tmp_path, torch.device("cpu")), host_free=10**15)
    assert not room.one_disk
    check(needed(), room)  # of 12 GiB while it trains; with the published student it would be 18 in the end
    with pytest.raises(StorageFull):
        check(needed(), replace(room, one_disk=True))


def test_memory_of_the_machine_and_of_the_container(tmp_path):
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
    assert available_memory(meminfo, cgroup) is None
    meminfo.write_text("MemTotal: 8 kB\nMemFree: 1 kB\nMemAvailable:    4000 kB\n")
    assert available_memory(meminfo, cgroup) == 4_096_000
    one = cgroup / "memory"
    one.mkdir(parents=True)
    (one / "memory.limit_in_bytes").write_text("3000000\n")
    (one / "memory.usage_in_bytes").write_text("1000000\n")
    (one / "memory.stat").write_text("cache 5\ntotal_inactive_file 10\n")
    assert available_memory(meminfo, cgroup) == 2_000_010
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text("1\n")
    (cgroup / "memory.stat").write_text("inactive_file 20\n")
    assert available_memory(meminfo, cgroup) == 2_000_010
    (cgroup / "memory.max").write_text("500\n")
    (cgroup / "memory.current").write_text("100\n")
    assert available_memory(meminfo, cgroup) == 420
    (cgroup / "memory.current").write_text("900\n")
    assert available_memory(meminfo, cgroup) == 0


def test_sizes_are_said_in_units_that_people_read():
    assert [gib(x) for x in (0, 2**20, GIB // 10, 3 * GIB)] == ["0.0 MiB", "1.0 MiB", "102.4 MiB", "3.0 GiB"]
