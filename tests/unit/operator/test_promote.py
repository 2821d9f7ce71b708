"""What a Deployment says, and what is applied to it."""

import pytest

from flowstill.api.fields import StatusRef
from flowstill.api.studentrollout import DeploymentTarget
from flowstill_operator.rollout.promote import (
    deployment_patch,
    mark_completed,
    parse_reference,
    put,
    put_back,
    read_target,
)
from tests.unit.operator.builders import STUDENT, deployment, digest

WANTED = DeploymentTarget(name="robot")
OLD = f"store://students/old@{digest('9')}"


def test_the_patch_holds_only_what_is_ours():
    change = put(read_target(deployment(OLD), WANTED), WANTED, STUDENT, "uid-1")
    assert deployment_patch(change, "robots") == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "robot",
            "namespace": "robots",
            "uid": "uid-robot",
            "resourceVersion": "7",
            "annotations": {
                "flowstill.dev/policy": f"{STUDENT.uri}@{STUDENT.digest}",
                "flowstill.dev/previous": OLD,
                "flowstill.dev/rollout": "uid-1",
            },
        },
        "spec": {
            "template": {
                "spec": {
                    "containers": [
                        {
                            "name": "policy",
                            "env": [{"name": "FLOWSTILL_POLICY", "value": f"{STUDENT.uri}@{STUDENT.digest}"}],
                        }
                    ]
                }
            }
        },
    }


STUDENT_TEXT = f"{STUDENT.uri}@{STUDENT.digest}"
OLDER = f"store://students/older@{digest('8')}"
POLICY, PREVIOUS, COMPLETED, ROLLOUT = (
    f"flowstill.dev/{key}" for key in ("policy", "previous", "last-completed", "rollout")
)


@pytest.mark.parametrize("completed", [None, OLDER])
@pytest.mark.parametrize("served", [None, OLD])
def test_every_write_carries_the_whole_record(served, completed):
    known = {COMPLETED: completed} if completed else {}
    before = read_target(deployment(served, completed=completed), WANTED)
    made = put(before, WANTED, STUDENT, "uid-1")
    record = {POLICY: STUDENT_TEXT, PREVIOUS: served or "", ROLLOUT: "uid-1"}
    assert dict(made.annotations) == {**record, **known}
    serving = read_target(deployment(STUDENT_TEXT, completed=completed, rollout="uid-1"), WANTED)
    done = mark_completed(serving, WANTED, STUDENT, served or "", "uid-1")
    assert dict(done.annotations) == {**record, COMPLETED: STUDENT_TEXT}
    assert done.value == STUDENT_TEXT
    back = put_back(serving, WANTED, served or "")
    assert dict(back.annotations) == {**({POLICY: served} if served else {}), **known}
    assert back.value == served


def test_absence_is_put_back_by_applying_nothing():
    patch = deployment_patch(put_back(read_target(deployment(), WANTED), WANTED, ""), "robots")
    assert "spec" not in patch
    assert patch["metadata"]["annotations"] == {}
    patch = deployment_patch(put_back(read_target(deployment(), WANTED), WANTED, OLD), "robots")
    assert patch["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] == OLD


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["metadata"]["labels"].clear(), "is not labelled"),
        (lambda d: d["metadata"]["labels"].clear(), "kubectl label deployment robot flowstill.dev/target=true"),
        (lambda d: d["spec"]["template"]["spec"]["containers"].append({"name": "sidecar"}), "policy, sidecar"),
    ],
)
def test_problems_are_said(change, words):
    found = deployment()
    change(found)
    assert words in read_target(found, WANTED).problem


def test_missing_deployment_and_container():
    assert "spec.target.deployment.name: there is no Deployment robot" in read_target(None, WANTED).problem
    assert "no container x" in read_target(deployment(), DeploymentTarget(name="robot", container="x")).problem


@pytest.mark.parametrize(
    ("change", "available"),
    [
        ({}, True),
        ({"observedGeneration": 2}, False),
        ({"updatedReplicas": 1}, False),
        ({"replicas": 3}, False),
        ({"availableReplicas": 1}, False),
    ],
)
def test_available_means_rolled_out(change, available):
    found = deployment()
    found["status"].update(change)
    assert read_target(found, WANTED).available is available


@pytest.mark.parametrize("text", ["", "store://a", "hf://a@" + digest("a"), f"store://a@{digest('a')}x", "(valueFrom)"])
def test_only_pinned_references_are_references(text):
    assert parse_reference(text) is None


def test_a_pinned_reference():
    assert parse_reference(OLD).digest == digest("9")
    commit = "0123456789abcdef0123456789abcdef01234567"
    for uri in ("s3://models/students/a", f"hf://org/student@{commit}", f"hf://org/student@{commit}/deep/down"):
        assert parse_reference(f"{uri}@{digest('9')}") == StatusRef(uri=uri, digest=digest("9"))
    for uri in ("hf://org/student@main", "hf://org/student", f"s3://models/a@{commit}", "https://h/x"):
        assert parse_reference(f"{uri}@{digest('9')}") is None
