"""Every transition of a DistillJob, as a table."""

from dataclasses import replace

import pytest

from flowstill.api.children import ProgressReport
from flowstill_operator.children import Child
from flowstill_operator.distilljob.manifests import manifest
from flowstill_operator.distilljob.observe import read_resource
from flowstill_operator.distilljob.plan import child_refused, plan
from flowstill_operator.platform import kubernetes_platform, local_platform
from tests.unit.operator.builders import (
    NOW,
    PLATFORM,
    STUDENT,
    conditions,
    distill_spec,
    later,
    parity,
    resource,
    trained,
)


def observed(child=None, reader=None, status=None, spec=None, platform=PLATFORM, role="train"):
    document = resource("DistillJob", distill_spec() if spec is None else spec, status)
    found = read_resource(document, platform)
    children = {} if child is None else {role: child}
    return replace(found, children=children, readers={} if reader is None else {role: reader})


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
        (distill_spec(runtime={"nodes": 2}), LOCAL, "NodesRefused", "spec.runtime.nodes: this machine is one"),
        (distill_spec(runtime={"nodes": 65}), PLATFORM, "InvalidSpec", "spec.runtime.nodes"),
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


VALIDATED = distill_spec(validation={"after": True, "threshold": 0.01}, runtime={"image": "mine:1", "gpusPerNode": 4})


def validating():
    """The status after the student was published and its parity child was started."""
    waiting = dump(plan(observed(spec=VALIDATED), NOW).status)
    return dump(plan(observed(Child("Succeeded", result=trained()), status=waiting, spec=VALIDATED), NOW).status)


def checked(child=None, reader=None, status=None):
    seen = observed(child, reader, status or validating(), VALIDATED, role="parity")
    return plan(seen, later(30))


def test_parity_is_no_condition_of_a_job_that_does_not_ask_for_it():
    made = plan(observed(Child("Succeeded", result=trained()), status=begun()), NOW)
    assert made.status.phase == "Succeeded"
    assert "ParityVerified" not in conditions(made.status)


def test_after_publication_the_evaluator_compares_the_student_on_its_dataset():
    waiting = dump(plan(observed(spec=VALIDATED), NOW).status)
    first = observed(Child("Succeeded", result=trained()), status=waiting, spec=VALIDATED)
    made = plan(first, NOW)
    [wanted] = made.create
    assert (wanted.role, wanted.reader, wanted.image) == ("parity", False, "evaluator:1")
    assert (made.status.image, made.status.validation_image) == ("mine:1", "evaluator:1")
    assert (made.status.phase, made.status.student, made.status.completion_time) == ("Validating", STUDENT, None)
    found = conditions(made.status)
    assert (found["Trained"][0], found["Published"][0]) == ("True", "True")
    assert found["ParityVerified"] == ("Unknown", "Queued")
    assert "Complete" not in found
    task = wanted.task.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert (task["student"]["digest"], task["parity"]["threshold"]) == (STUDENT.digest, 0.01)
    assert (task["dataset"]["uri"], task["work"]) == ("store://datasets/d", "store://work/uid-1/parity")
    [container] = manifest(first, wanted, PLATFORM)["spec"]["template"]["spec"]["containers"]
    assert container["command"][:2] == ["flowstill-evaluate", "parity"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}


FAILED = parity(outcome="UserError", reason="ParityFailed", message="they differ by 0.5", difference=0.5)


@pytest.mark.parametrize(
    ("child", "reader", "phase", "reason", "creates"),
    [
        (Child("Queued"), None, "Validating", "Queued", 0),
        (Child("Running"), None, "Validating", "Running", 0),
        (Child("Succeeded", result=parity()), None, "Succeeded", "ParityHolds", 0),
        (Child("Succeeded", result=parity(difference=0.5)), None, "Failed", "ParityFailed", 0),
        (Child("Succeeded", result=parity(difference=None)), None, "Failed", "ResultIncomplete", 0),
        (Child("Failed", result=FAILED), None, "Failed", "ParityFailed", 0),
        (Child("Failed", reason="BackoffLimitExceeded"), None, "Failed", "BackoffLimitExceeded", 0),
        (Child("Running", ours=False), None, "Failed", "NameTaken", 0),
        (Child("Missing"), None, "Validating", "ReadingResult", 1),
        (Child("Succeeded"), None, "Validating", "ReadingResult", 1),
        (Child("Missing"), Child("Succeeded", result=parity()), "Succeeded", "ParityHolds", 0),
        (Child("Missing"), Child("Succeeded", result=FAILED), "Failed", "ParityFailed", 0),
        (Child("Missing"), Child("Failed"), "Failed", "ChildMissing", 0),
    ],
)  # fmt: skip
def test_what_a_started_parity_child_means(child, reader, phase, reason, creates):
    made = checked(child, reader)
    assert made.status.phase == phase
    assert conditions(made.status)["ParityVerified"][1] == reason
    assert [(wanted.role, wanted.reader) for wanted in made.create] == [("parity", True)] * creates
    assert conditions(made.status)["Trained"] == ("True", "Succeeded")
    assert made.status.student == STUDENT
    assert (made.requeue_after is None) == (phase in ("Succeeded", "Failed"))
    if phase == "Failed":
        assert conditions(made.status)["Failed"] == ("True", reason)
        assert made.status.message.endswith("(the student stays published, see status.student)")
        assert "Complete" not in conditions(made.status)
    if phase == "Succeeded":
        assert conditions(made.status)["Complete"] == ("True", "Succeeded")
        assert made.status.parity_difference == 1e-6


def test_a_refused_parity_job_says_nothing_about_the_training():
    waiting = dump(plan(observed(spec=VALIDATED), NOW).status)
    first = observed(Child("Succeeded", result=trained()), status=waiting, spec=VALIDATED)
    made = plan(child_refused(first, plan(first, NOW).create[0], "Refused", "no such account"), NOW)
    assert made.create == ()
    assert conditions(made.status)["Trained"] == ("True", "Succeeded")
    assert conditions(made.status)["ParityVerified"] == ("False", "Refused")
    assert made.status.message.startswith("parity: no such account")


def test_the_evaluator_of_the_first_attempt_stays():
    newer = kubernetes_platform("trainer:2", "evaluator:2", "pvc://claim")
    seen = observed(Child("Succeeded"), None, validating(), VALIDATED, newer, role="parity")
    made = plan(seen, NOW)
    assert [(wanted.image, wanted.reader) for wanted in made.create] == [("evaluator:1", True)]


def test_a_reused_student_is_compared_too_and_an_endless_message_keeps_its_end():
    waiting = dump(plan(observed(spec=VALIDATED), NOW).status)
    reused = Child("Succeeded", result=trained(reused=True))
    made = plan(observed(reused, status=waiting, spec=VALIDATED), NOW)
    assert [wanted.role for wanted in made.create] == ["parity"]
    made = checked(Child("Failed", result=parity(outcome="UserError", reason="ParityFailed", message="x" * 1024)))
    assert len(made.status.message) == 1024
    assert made.status.message.endswith("see status.student)")


def test_a_parity_reader_that_vanished_is_not_started_again():
    made = checked(Child("Missing"), status=dump(checked(Child("Missing")).status))
    assert made.create == ()
    assert conditions(made.status)["ParityVerified"] == ("False", "ChildMissing")
