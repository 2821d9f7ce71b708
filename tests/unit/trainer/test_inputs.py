"""The input key changes with what changes the student, and with nothing else."""

import pytest

from flowstill.api.distilljob import DistillJobSpec
from flowstill_trainer.inputs import describe_inputs, inputs_digest

BASE = {"teacher": {"uri": "store://teachers/a"}, "dataset": {"uri": "store://datasets/a"}}
A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def key(teacher_digest=A, dataset_digest=B, **change):
    return inputs_digest(DistillJobSpec.model_validate(BASE | change), teacher_digest, dataset_digest)


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"checkpointEvery": 7, "keepCheckpoints": 5}},
        {"training": {"gradientAccumulation": 4, "parallel": "fsdp"}},
        {"runtime": {"gpusPerNode": 4}},
        {"teacher": {"uri": "store://teachers/elsewhere"}},
    ],
)
def test_what_does_not_change_the_student(change):
    assert key(**change) == key()


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"seed": 1}},
        {"training": {"precision": "fp32"}},
        {"training": {"fidelityEvery": 100}},
        {"method": {"targetSteps": 2}},
        {"method": {"refine": {"steps": 100}}},
        {"student": {"draws": 16}},
        {"student": {"stateOut": True}},
        {"teacher": {"uri": "store://teachers/a", "steps": 4}},
        {"dataset": {"uri": "store://datasets/a", "episodes": [0, 1]}},
        {"export": {"precision": "fp32"}},
        {"export": {"precision": "fp16"}},
        {"export": {"split": True}},
    ],
)
def test_what_changes_the_student(change):
    assert key(**change) != key()


def test_every_option_of_refinement_changes_the_key_and_without_it_nothing_speaks_of_it():
    options = [{}, {"steps": 7}, {"learningRate": 1e-3}, {"fakeLearningRate": 1e-3}, {"fakeSteps": 3}]
    assert len({key(method={"refine": {"steps": 5} | option}) for option in options}) == 5
    assert key(method={"refine": {"steps": 0}}) == key(method={"refine": {"steps": 0, "fakeSteps": 3}})
    spec = DistillJobSpec.model_validate(BASE | {"method": {"refine": {"steps": 0}}})
    assert "refine" not in describe_inputs(spec, A, B)["method"]


def test_digests_change_the_key():
    assert len({key(), key(teacher_digest=B), key(dataset_digest=A)}) == 3
