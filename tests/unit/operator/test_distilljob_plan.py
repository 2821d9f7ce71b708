"""Every transition of a DistillJob, as a table."""

import pytest

from flowstill.api.children import ProgressReport
from flowstill_operator.children import Child
from flowstill_operator.distilljob.observe import Observed, read_resource
from flowstill_operator.distilljob.plan import child_refused, plan
from flowstill_operator.platform import kubernetes_platform, local_platform
from tests.unit.operator.builders import (
    NOW,
    PLATFORM,
    STUDENT,
    conditions,
    distill_spec,
    later,
    resource,
    trained,
)


def observed(child=None, reader=None, status=None, spec=None, platform=PLATFORM):
    document = resource("DistillJob", distill_spec() if spec is None else spec, status)
    found = read_resource(document, platform)
    changes = {key: value for key, value in {"child": child, "reader": reader}.items() if value is not None}
    return Observed(**{**found.__dict__, **changes})


def dump(status):
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def begun():
    return dump(plan(observed(), NOW).status)


def test_a_new_resource_wants_its_trainer_and_says_so():
    made = plan(observed(), NOW)
    assert [(wanted.role, wanted.reader, wanted.image) for wanted in made.create] == [("train", False, "trainer:1")]
    assert made.status.phase == "Queued"
    assert conditions(made.status) == {"Validated": ("True", "Valid"), "Trained": ("Unknown", "Queued")}
    assert made.status.observed_generation == 1
    assert made.status.image == "trainer:1"
    assert made.status.start_time == "2026-01-02T03:04:05Z"
    assert made.create[0].task.work == "store://work/uid-1/train"
    assert [note.reason for note in made.events] == ["Valid", "Queued"]


USER_ERROR = trained(outcome="UserError", reason="TeacherRejected", student=None)
INTERRUPTED = trained(outcome="Interrupted", reason="Interrupted", student=None)


def test_the_image_of_the_first_attempt_stays():
    newer = kubernetes_platform("trainer:2", "evaluator:2", "pvc://claim")
    made = plan(observed(Child("Succeeded"), status=begun(), platform=newer), NOW)
    assert made.create[0].reader
    assert made.create[0].image == "trainer:1"


@pytest.mark.parametrize(
    ("child", "reader", "phase", "reason", "creates"),
    [
        (Child("Queued"), None, "Queued", "Queued", 0),
        (Child("Queued", reason="ImagePullBackOff", message="no such image"), None, "Queued", "ImagePullBackOff", 0),
        (Child("Running", attempts=2), None, "Running", "Running", 0),
        (Child("Succeeded", result=trained()), None, "Succeeded", "Succeeded", 0),
        (Child("Succeeded", result=trained(reused=True)), None, "Succeeded", "Reused", 0),
        (Child("Succeeded", result=trained(student=None)), None, "Failed", "ResultIncomplete", 0),
        (Child("Succeeded", result=USER_ERROR), None, "Failed", "TeacherRejected", 0),
        (Child("Failed", result=USER_ERROR), None, "Failed", "TeacherRejected", 0),
        (Child("Failed", result=INTERRUPTED, reason="DeadlineExceeded"), None, "Failed", "DeadlineExceeded", 0),
        (Child("Failed", reason="BackoffLimitExceeded"), None, "Failed", "BackoffLimitExceeded", 0),
        (Child("Running", ours=False), None, "Failed", "NameTaken", 0),
        (Child("Missing"), None, "Queued", "ReadingResult", 1),
        (Child("Succeeded"), None, "Queued", "ReadingResult", 1),
        (Child("Succeeded"), Child("Running"), "Queued", "ReadingResult", 0),
        (Child("Succeeded"), Child("Succeeded", result=trained()), "Succeeded", "Succeeded", 0),
        (Child("Missing"), Child("Succeeded", result=trained()), "Succeeded", "Succeeded", 0),
        (Child("Missing"), Child("Failed"), "Failed", "ChildMissing", 0),
        (Child("Succeeded"), Child("Failed"), "Failed", "ResultUnreadable", 0),
        (Child("Succeeded"), Child("Succeeded"), "Failed", "ResultUnreadable", 0),
        (Child("Succeeded"), Child("Running", ours=False), "Failed", "NameTaken", 0),
    ],
)  # fmt: skip
def test_what_a_started_child_means(child, reader, phase, reason, creates):
    made = plan(observed(child, reader, begun()), later(30))
    assert made.status.phase == phase
    assert conditions(made.status)["Trained"][1] == reason
    assert len(made.create) == creates
    assert all(wanted.reader for wanted in made.create)
    assert ("Failed" in conditions(made.status)) == (phase == "Failed")
    if phase in ("Succeeded", "Failed"):
        assert made.requeue_after is None
        assert made.status.completion_time == "2026-01-02T03:04:35Z"
    else:
        assert made.requeue_after is not None


def test_a_reader_that_vanished_is_not_started_again():
    reading = dump(plan(observed(Child("Missing"), status=begun()), NOW).status)
    made = plan(observed(Child("Missing"), status=reading), NOW)
    assert made.create == ()
    assert conditions(made.status)["Failed"] == ("True", "ChildMissing")


def test_success_names_the_student():
    made = plan(observed(Child("Succeeded", result=trained()), status=begun()), NOW)
    assert made.status.student == STUDENT
    assert conditions(made.status)["Published"][0] == conditions(made.status)["Complete"][0] == "True"


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_terminal_status_is_final(phase):
    status = {**begun(), "phase": phase}
    made = plan(observed(Child("Missing"), status=status, spec={"nonsense": 1}), NOW)
    assert dump(made.status) == status
    assert (made.create, made.events, made.requeue_after) == ((), (), None)


def test_progress_is_taken_over():
    report = ProgressReport(activity="training", step=3, total_steps=12, loss=0.01406117808073759)
    made = plan(observed(Child("Running", progress=report), status=begun()), NOW)
    assert made.status.progress.progress_percentage == 25
    assert made.status.progress.loss == 0.01406
    assert made.status.progress.last_updated_time == "2026-01-02T03:04:05Z"


def test_attempts_never_go_down():
    status = {**begun(), "attempts": 3}
    assert plan(observed(Child("Running", attempts=1), status=status), NOW).status.attempts == 3


OWN_GPUS = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
LOCAL = local_platform("file:///tmp/store")


@pytest.mark.parametrize(
    ("spec", "platform", "reason", "words"),
    [
        (distill_spec(teacher={"uri": "file:///t"}), PLATFORM, "UriRefused", "spec.teacher.uri"),
        (distill_spec(dataset={"uri": "pvc://c/d"}), LOCAL, "UriRefused", "spec.dataset.uri"),
        (distill_spec(teacher={"uri": "store://a/../b"}), PLATFORM, "UriRefused", "'..'"),
        (distill_spec(), kubernetes_platform("t", "e", None), "NoDefaultStore", "store.uri"),
        (distill_spec(student={"draws": 4}), PLATFORM, "InvalidSpec", "spec.student.draws must be 1 or 8"),
        (distill_spec(training={"step": 4}), PLATFORM, "InvalidSpec", "spec.training.step: unknown field"),
        (distill_spec(runtime={"env": [{"name": "FLOWSTILL_STORE"}]}), PLATFORM, "EnvRefused", "FLOWSTILL_STORE"),
        (distill_spec(runtime=OWN_GPUS), PLATFORM, "ResourcesRefused", "gpusPerNode"),
        ({}, PLATFORM, "InvalidSpec", "spec.teacher"),
    ],
)  # fmt: skip
def test_a_spec_that_cannot_work_fails_once_with_the_field_named(spec, platform, reason, words):
    made = plan(observed(spec=spec, platform=platform), NOW)
    assert made.create == ()
    assert made.requeue_after is None
    assert made.status.phase == "Failed"
    assert conditions(made.status) == {"Validated": ("False", reason), "Failed": ("True", reason)}
    assert words in made.status.message
    assert {note.type for note in made.events} == {"Warning"}


def test_a_refused_job_fails_with_the_api_servers_words():
    first = observed()
    wanted = plan(first, NOW).create[0]
    made = plan(child_refused(first, wanted, "Refused", "metadata.labels: Invalid value"), NOW)
    assert made.create == ()
    assert made.status.message == "metadata.labels: Invalid value"
    assert conditions(made.status)["Failed"] == ("True", "Refused")
