"""A refinement that is watched: looks in both phases, and what is published when the student collapses in it."""

import logging
from functools import partial

import pytest
import torch

from flowstill.api.distilljob import Refine, Training
from flowstill.errors import Interrupted, NonFiniteLoss
from flowstill_trainer import watch as module
from flowstill_trainer.checkpoint import CheckpointFolder
from flowstill_trainer.fidelity import HeldOut
from flowstill_trainer.refine import RefineBatches, Refiner
from flowstill_trainer.watch import Watch, make_reference
from tests.support.kills import killed_again

TRAINED, STEPS = 10, 5
TRAINING = Training(
    steps=TRAINED, batch_size=4, precision="fp32", ema=0.9, checkpoint_every=3, keep_checkpoints=9, fidelity_every=2
)
REFINE = Refine(steps=STEPS, learning_rate=1e-3, fake_learning_rate=3e-3)


def never():
    return False


@pytest.fixture(scope="module")
def scene(tiny, tmp_path_factory):
    """Teacher, frames and the teacher's chunks, which nothing here changes."""
    teacher = tiny.teacher()
    frames = tiny.frames(teacher)
    held_out = HeldOut.of(frames, tiny.student(teacher), 0)
    folder = tmp_path_factory.mktemp("reference")
    return teacher, frames, make_reference(folder, "a", held_out, teacher, steps=10, seed=0, stopped=never)


@pytest.fixture
def spreads(monkeypatch):
    """The spread that a look at these steps is said to have; of the others 1. Distances grow, and do not choose."""
    said = {}
    describe = module.describe

    def fake(step, *rest):
        found = describe(step, *rest)
        changes = {
            "spread": said.get(step, 1.0),
            "distance": float(step),
            "distances": [float(step)] * len(found.distances),
        }
        return found.model_copy(update=changes)

    monkeypatch.setattr(module, "describe", fake)
    return said


@pytest.fixture
def refiner(tiny, scene, spreads):
    """Makes refinements of a student that was looked at once in its training, and continues them."""
    teacher, frames, seen = scene

    def make(folder, *, every=2, heard=lambda *_: None):
        training = TRAINING.model_copy(update={"fidelity_every": every})
        student = tiny.student(teacher)
        checkpoints = CheckpointFolder(folder / "refine", "a", 9)
        found, watch = checkpoints.latest(), Watch(seen, student, every, TRAINED, heard)
        if found is None:
            own = {name: p.detach() for name, p in student.trained()}
            with torch.no_grad():
                own["model.action_out_proj.bias"].add_(0.25)
            watch.look(TRAINED, 0.5, own, never)
        batches = RefineBatches(frames, student, teacher, REFINE, training, 0.05)
        one = Refiner(student, teacher, batches, checkpoints, 1.0, watch)
        if found is not None:
            one.restore(found)
        return one

    return make


def weights(one):
    return {name: p.detach().clone() for name, p in one.student.trained()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def run(one, stopped=never):
    """The published weights after every step, those before the first included."""
    kept = {0: weights(one)}
    average = one.learners["student"].average
    one.run(lambda step, *_: kept.update({step: {n: w.clone() for n, w in average.items()}}), stopped)
    return kept


@pytest.mark.parametrize(("every", "looks"), [(0, [15]), (2, [12, 14, 15]), (5, [15]), (100, [15])])
def test_both_phases_are_in_the_curve_and_the_last_step_is_published(tmp_path, refiner, every, looks):
    one = refiner(tmp_path, every=every)
    kept = run(one)
    curve = one.watch.curve()
    assert [(look.step, look.phase) for look in curve.looks] == [
        (10, "training"), *((step, "refinement") for step in looks),
    ]  # fmt: skip
    assert (curve.steps, curve.published_step) == (15, 15)
    assert curve.reason == "refined for 5 steps from step 10, nearest to the teacher's distribution of the only look"
    assert same(weights(one), kept[STEPS])


@pytest.mark.parametrize(
    ("collapsed", "published", "reason"),
    [
        ([12, 14, 15], 10, "the refinement is left out: at step 15 draws spread 0.20 of the teacher's"),
        ([15], 14, "the rest of the refinement is left out: at step 15 draws spread 0.20 of the teacher's"),
        ([14, 15], 12, "the rest of the refinement is left out: "),
        ([12, 14], 15, "refined for 5 steps from step 10"),
        ([10, 15], 14, "the rest of the refinement is left out: "),
        ([10, 12, 14, 15], 15, "every look is collapsed"),
    ],
)
def test_a_collapsed_student_is_not_published(tmp_path, refiner, spreads, caplog, collapsed, published, reason):
    spreads.update(dict.fromkeys(collapsed, 0.2))
    one = refiner(tmp_path)
    with caplog.at_level(logging.WARNING):
        kept = run(one)
    curve = one.watch.curve()
    assert curve.published_step == published
    assert curve.reason.startswith(reason)
    assert same(weights(one), kept[published - TRAINED])
    warned = [record.message for record in caplog.records if record.name == "flowstill_trainer.refine"]
    assert warned == ([] if published == 15 else [f"publishing step {published} of 15: {curve.reason}"])


KILLS = [("step", 1), ("look", 12), ("step", 2), ("step", 3), ("look", 14), ("step", 4), ("look", 15), ("step", 5)]


@pytest.mark.parametrize("collapsed", [[], [14, 15], [12, 14, 15]])
def test_killed_again_and_again_the_same_is_published_bit_for_bit(tiny, tmp_path, refiner, spreads, collapsed):
    if tiny.kind != "smolvla" and collapsed != [14, 15]:
        pytest.skip("one of the others is enough")
    spreads.update(dict.fromkeys(collapsed, 0.2))
    whole = refiner(tmp_path / "whole")
    run(whole)
    killed_again(partial(refiner, tmp_path / "cut"), KILLS)
    again = refiner(tmp_path / "cut")
    run(again)
    assert again.watch.curve() == whole.watch.curve()
    assert same(weights(again), weights(whole))


@pytest.mark.parametrize("at", [12, 15])
def test_a_look_that_was_cut_short_is_made_later(tmp_path, refiner, at):
    whole = refiner(tmp_path / "whole")
    run(whole)
    looking = []
    cut = refiner(tmp_path / "cut", heard=lambda step, _: looking.append(step))
    with pytest.raises(Interrupted, match=f"stopped at step {at - TRAINED} of 5 of refinement; the checkpoint is"):
        run(cut, lambda: at in looking)
    assert cut.checkpoints.latest().looks == whole.watch.looks[: -1 if at == 15 else 1]
    again = refiner(tmp_path / "cut")
    run(again)
    assert again.watch.curve() == whole.watch.curve()
    assert same(weights(again), weights(whole))


def test_chunks_that_are_no_numbers_stop_the_refinement(tmp_path, refiner):
    one = refiner(tmp_path)
    bad = {name: torch.full_like(value, float("nan")) for name, value in weights(one).items()}
    with pytest.raises(NonFiniteLoss, match="step 12") as caught:
        one.watch.look(12, 0.1, bad, never)
    assert caught.value.field == "spec.method.refine"
