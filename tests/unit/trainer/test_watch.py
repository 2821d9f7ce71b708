"""Looks while training: each is made once, none changes the training, and an interruption changes no published bit."""

import json
from functools import partial

import pytest
import torch

from flowstill.artifacts.curve import Look
from flowstill.errors import Interrupted, NonFiniteLoss, TeacherRejected
from flowstill_trainer import watch as module
from flowstill_trainer.checkpoint import CheckpointFolder
from flowstill_trainer.fidelity import HeldOut
from flowstill_trainer.processes import EndedElsewhere, Processes
from flowstill_trainer.randomness import described
from flowstill_trainer.watch import Watch, look_together, make_reference, wearing
from tests.support.kills import killed_again
from tests.unit.trainer.test_train import run, trainer, weights


def never():
    return False


def reference(tiny, folder, teacher, student, stopped=never):
    held_out = HeldOut.of(tiny.frames(teacher), student, 0)
    return make_reference(folder / "fidelity", "a", held_out, teacher, steps=10, seed=0, stopped=stopped)


@pytest.fixture(scope="module")
def scene(tiny, tmp_path_factory):
    """Teacher, frames and the teacher's chunks, which nothing here changes."""
    teacher = tiny.teacher()
    seen = reference(tiny, tmp_path_factory.mktemp("reference"), teacher, tiny.student(teacher))
    return teacher, seen.held_out.frames, seen


@pytest.fixture(autouse=True)
def watched(tiny, scene, monkeypatch):
    """Makes trainers that are watched."""
    teacher, frames, seen = scene
    monkeypatch.setattr(tiny, "teacher", lambda: teacher)
    monkeypatch.setattr(tiny, "frames", lambda _: frames)

    def make(folder, *, every=2, heard=lambda *_: None):
        one = trainer(tiny, folder)
        one.training = one.training.model_copy(update={"fidelity_every": every})
        one.watch = Watch(seen, one.student, every, one.training.steps, heard)
        return one

    return make


def prefer(monkeypatch, steps):
    """Looks of these steps say that they are near, the others that they are far."""
    describe = module.describe

    def fake(step, *rest):
        found = describe(step, *rest)
        distances = [(-1.0 if step in steps else 1.0) + i / 100 for i in range(len(found.distances))]
        return found.model_copy(
            update={"distances": distances, "distance": sum(distances) / len(distances), "spread": 1.0}
        )

    monkeypatch.setattr(module, "describe", fake)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_looks_are_made_and_change_nothing_of_the_training(tiny, tmp_path, watched):
    plain, one = trainer(tiny, tmp_path / "plain"), watched(tmp_path / "watched", every=4)
    assert run(plain) == run(one)
    assert [look.step for look in one.watch.looks] == [4, 6]
    assert same(plain.checkpoints.latest().weights, one.checkpoints.latest().weights)
    assert same(plain.checkpoints.latest().optimizer, one.checkpoints.latest().optimizer)
    first, last = one.watch.looks
    assert first.loss > 0
    assert len(first.distances) == 12
    assert last.distances != first.distances


@pytest.mark.parametrize(("every", "steps"), [(0, [6]), (3, [3, 6]), (5, [5, 6]), (100, [6])])
def test_the_last_step_is_always_looked_at(tiny, tmp_path, every, steps, watched):
    one = watched(tmp_path, every=every)
    run(one)
    assert [look.step for look in one.watch.looks] == steps


def test_a_look_is_at_the_average(tiny, tmp_path, watched):
    one = watched(tmp_path, every=0)
    run(one)
    last = one.checkpoints.latest()
    again = watched(tmp_path / "again", every=0)
    look = again.watch.look(6, one.last_loss, {n: w.clone() for n, w in last.average.items()}, never)
    assert look == one.watch.looks[-1]
    again.watch.looks = ()
    assert again.watch.look(6, one.last_loss, last.weights, never) != look


def test_the_students_own_weights_are_back_after_a_look(tiny, tmp_path):
    student = trainer(tiny, tmp_path).student
    before = {name: (p, p.data_ptr(), p.detach().clone()) for name, p in student.trained()}
    zeros = {n: torch.zeros_like(p) for n, (p, *_) in before.items()}
    with pytest.raises(RuntimeError), wearing(student, zeros):  # noqa: PT012
        assert all(not p.any() for _, p in student.trained())
        raise RuntimeError
    for name, parameter in student.trained():
        assert parameter is before[name][0]
        assert parameter.data_ptr() == before[name][1]
        assert torch.equal(parameter, before[name][2])


class Two(Processes):
    """One of two processes; notes what they do together."""

    def __init__(self, rank, done):
        super().__init__(rank, rank)
        self.done = done

    def any(self, flag):
        return True

    def meet(self, what):
        self.done.append(f"met after the {what}")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("cut", [False, True])
def test_both_meet_after_a_look_which_may_take_longer_than_a_collective_operation(tiny, tmp_path, watched, rank, cut):
    done = []
    one = watched(tmp_path, heard=lambda *_: done.append("looked"))
    watch = one.watch if rank == 0 else None
    look_together(watch, one.learner, Two(rank, done), 6, 0.1, lambda: cut)
    assert done == ["looked", "met after the look"][rank:]
    assert len(one.watch.looks) == (rank == 0 and not cut)


def test_the_end_of_another_process_is_heard_while_it_looks(tiny, tmp_path, watched):
    def ended(what):
        raise EndedElsewhere("another process has ended")

    two = Two(1, [])
    two.meet = ended
    with pytest.raises(EndedElsewhere):
        look_together(None, watched(tmp_path).learner, two, 6, 0.1, never)


@pytest.mark.parametrize("best", [2, 4, 6])
def test_the_chosen_step_is_published(tiny, tmp_path, monkeypatch, best, watched):
    prefer(monkeypatch, {best})
    one = watched(tmp_path)
    kept = {}
    one.run(lambda step, *_: kept.update({step: {n: w.clone() for n, w in one.learner.average.items()}}), never)
    assert one.watch.choice().step == best
    assert same(weights(one), kept[best])
    assert one.watch.curve().published_step == best


KILLS = [("step", 1), ("look", 2), ("step", 2), ("step", 3), ("look", 4), ("step", 5), ("look", 6), ("step", 6)]


@pytest.mark.parametrize("best", [2, 4, 6])
def test_killed_again_and_again_the_same_is_published_bit_for_bit(tiny, tmp_path, monkeypatch, best, watched):
    if tiny.kind != "smolvla" and best != 4:
        pytest.skip("one of the others is enough")
    prefer(monkeypatch, {best})
    whole = watched(tmp_path / "whole")
    run(whole)
    killed_again(partial(watched, tmp_path / "cut"), KILLS)
    again = watched(tmp_path / "cut")
    run(again)
    assert again.watch.looks == whole.watch.looks
    assert again.watch.choice() == whole.watch.choice()
    assert again.watch.choice().step == best
    assert same(weights(again), weights(whole))


@pytest.mark.parametrize("at", [2, 6])
def test_a_stop_during_a_look_saves_a_checkpoint_and_the_look_is_made_later(tiny, tmp_path, at, watched):
    whole = watched(tmp_path / "whole")
    losses = run(whole)
    looking = []
    cut = watched(tmp_path / "cut", heard=lambda step, _: looking.append(step))
    with pytest.raises(Interrupted, match=f"stopped at step {at} of 6; the checkpoint is saved"):
        cut.run(lambda *_: None, lambda: at in looking)
    saved = cut.checkpoints.latest()
    assert (saved.step, [look.step for look in saved.looks]) == (at, [step for step in (2, 4, 6) if step < at])
    again = watched(tmp_path / "cut")
    assert run(again) == losses[at:]
    assert again.watch.looks == whole.watch.looks
    assert same(weights(again), weights(whole))


def test_a_damaged_checkpoint_forgets_the_looks_after_the_one_before(tiny, tmp_path, monkeypatch, watched):
    prefer(monkeypatch, {2})
    one = watched(tmp_path)
    run(one)
    published = weights(one)
    folder = one.checkpoints.root / "step-000000006"
    (folder / "best.safetensors").write_bytes((folder / "best.safetensors").read_bytes()[:-1] + b"\1")
    again = watched(tmp_path)
    assert len(run(again)) == 2
    assert [look.step for look in again.watch.looks] == [2, 4, 6]
    assert same(weights(again), published)


def test_the_best_weights_are_stored_only_where_they_are_not_the_checkpoints_own(tiny, tmp_path, monkeypatch, watched):
    prefer(monkeypatch, {4})
    one = watched(tmp_path)
    run(one)
    sizes = {p.parent.name[-1]: p.stat().st_size for p in one.checkpoints.root.glob("*/best.safetensors")}
    assert sizes["4"] < 1000 < sizes["6"]


def test_the_teachers_chunks_are_computed_once(tiny, tmp_path, monkeypatch):
    one = trainer(tiny, tmp_path)
    with pytest.raises(Interrupted):
        reference(tiny, tmp_path, one.teacher, one.student, lambda: True)
    first = reference(tiny, tmp_path, one.teacher, one.student)
    with monkeypatch.context() as patch:
        patch.setattr(one.teacher, "chunk", None)
        assert torch.equal(reference(tiny, tmp_path, one.teacher, one.student).chunk_BNF, first.chunk_BNF)
    path = tmp_path / "fidelity" / "reference.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\1")
    assert torch.equal(reference(tiny, tmp_path, one.teacher, one.student).chunk_BNF, first.chunk_BNF)
    assert path.read_bytes() == content


def test_a_teacher_whose_chunks_are_no_numbers_is_refused_and_nothing_is_kept(tiny, tmp_path, scene, monkeypatch):
    teacher, frames, seen = scene
    chunk = teacher.chunk

    def poisoned(*arguments):
        found = chunk(*arguments).clone()
        found[-1, 0, 0] = float("nan")
        return found

    monkeypatch.setattr(teacher, "chunk", poisoned)
    frame = frames.index_N[seen.held_out.index_B[-1]]
    with pytest.raises(TeacherRejected, match=rf"frames {frame} .* in fp32 .*; repair the checkpoint") as caught:
        reference(tiny, tmp_path, teacher, tiny.student(teacher))
    assert caught.value.field == "spec.teacher"
    assert list(tmp_path.iterdir()) == []


def test_chunks_that_are_no_numbers_stop_the_training(tiny, tmp_path, watched):
    one = watched(tmp_path)
    bad = {n: torch.full_like(p, float("nan")) for n, p in one.learner.parameters.items()}
    with pytest.raises(NonFiniteLoss, match="step 3"):
        one.watch.look(3, 0.1, bad, never)
    assert one.watch.looks == ()


def test_a_checkpoint_says_whose_it_is_and_where_random_numbers_come_from(tiny, tmp_path):
    one = trainer(tiny, tmp_path)
    facts = {"teacher": "sha256:" + "a" * 64, "randomness": described(7)}
    one.checkpoints = CheckpointFolder(tmp_path / "other", "a", 2, facts)
    state = json.loads((one.checkpoints.save(one.state()) / "state.json").read_text())
    assert state["teacher"] == facts["teacher"]
    assert (state["randomness"]["seed"], state["randomness"]["state"]) == (7, None)
    assert "SEED/PURPOSE/STEP" in state["randomness"]["generators"]


def test_looks_and_loss_survive_a_checkpoint_exactly(tiny, tmp_path, watched):
    one = watched(tmp_path)
    run(one)
    found = one.checkpoints.latest()
    assert found.looks == one.watch.looks
    assert all(isinstance(look, Look) for look in found.looks)
    assert found.loss == one.last_loss
