"""Promotion on a real API server: the operator is real, so are all controllers; only the kubelet is a stand-in."""

import json

import pytest

from tests.cluster.scene import EXAMPLE, TARGET, TARGET_PODS, Scene, student, text
from tests.cluster.waiting import until
from tests.unit.operator.builders import judged

FIRST, SECOND = student("a"), student("b")


def ours(scene: Scene) -> list[dict]:
    """What field manager ``flowstill`` owns of the Deployment."""
    return [entry for entry in scene.target()["metadata"]["managedFields"] if entry["manager"] == "flowstill"]


def in_order(wanted: list[str], found: list[str]) -> bool:
    rest = iter(found)
    return all(item in rest for item in wanted)


EVENTS = [
    "Queued Validated", "Running Validated", "ParityPassed Validated",
    "Queued Evaluated", "Running Evaluated", "Evaluated Evaluated",
    "Queued GatesPassed", "Running GatesPassed", "GatesPassed GatesPassed",
    "Promoting Promoted", "WaitingForDeployment Promoted", "Available Promoted", "Completed Completed",
]  # fmt: skip


def test_a_judged_student_is_served(scene: Scene) -> None:
    scene.deploy()
    uid = scene.start("good", FIRST)
    scene.judge("good")
    scene.await_condition("good", "Promoted", "WaitingForDeployment")
    assert scene.entry() == text(FIRST)
    assert scene.record() == {"policy": text(FIRST), "previous": "", "rollout": uid}
    scene.await_available()
    status = scene.await_phase("good", "Completed")
    assert {c["type"]: c["status"] for c in status["conditions"]} == dict.fromkeys(
        ("Validated", "Evaluated", "GatesPassed", "Promoted", "Completed"), "True"
    )
    assert scene.record() == {
        "policy": text(FIRST), "previous": "", "rollout": uid, "last-completed": text(FIRST)
    }  # fmt: skip
    assert scene.revision() == 2
    assert set(scene.jobs()) == {"good-parity", "good-rollouts", "good-judge"}
    (fields,) = ours(scene)
    assert fields["operation"] == "Apply"
    owned = fields["fieldsV1"]
    assert set(owned["f:metadata"]["f:annotations"]) == {
        f"f:flowstill.dev/{key}" for key in ("policy", "previous", "last-completed", "rollout")
    }
    (container,) = owned["f:spec"]["f:template"]["f:spec"]["f:containers"].items()
    assert container[0] == 'k:{"name":"policy"}'
    assert list(container[1]["f:env"]) == ['k:{"name":"FLOWSTILL_POLICY"}']
    found = scene.events("good", EVENTS[-1])
    assert in_order(EVENTS, found), found
    assert len(found) == len(set(found))
    header, row = scene.plane.kubectl("get", "sr", "good", "-n", scene.namespace).splitlines()
    assert header.split() == ["NAME", "PHASE", "STUDENT", "SUCCESS", "BASELINE", "GATES", "AGE"]
    assert row.split()[:7] == ["good", "Completed", FIRST.digest, "199/200", "175/200", "9/9", "Pass"]
    # Git applies the same Deployment again, and the deleted rollout owns nothing of it: the student stays.
    scene.plane.kubectl("apply", "-n", scene.namespace, "-f", str(EXAMPLE))
    scene.plane.kubectl("delete", "sr", "good", "-n", scene.namespace, "--timeout=20s")
    assert scene.entry() == text(FIRST)
    assert scene.record()["last-completed"] == text(FIRST)
    assert "ownerReferences" not in scene.target()["metadata"]


def test_a_student_that_does_not_become_available_is_taken_back(scene: Scene) -> None:
    scene.deploy()
    scene.start("first", FIRST, deadline=10)
    scene.judge("first")
    scene.await_condition("first", "Promoted", "WaitingForDeployment")
    until(lambda: len(scene.objects.list("pods", TARGET_PODS)) == 2, "a new pod beside the old one")
    status = scene.await_phase("first", "RolledBack")
    assert scene.condition("first", "Promoted")[:2] == ("False", "RolledBack")
    assert "not available after 10 s: 1 of 1 replicas are new, 1 available, 1 old" in status["message"]
    assert scene.entry() is None
    assert scene.record() == {}
    env = [e["name"] for e in scene.target()["spec"]["template"]["spec"]["containers"][0]["env"]]
    assert env == ["FLOWSTILL_STORE", "HF_HUB_OFFLINE", "HOME"]
    scene.await_available()
    assert scene.revision() == 3
    found = [e.removesuffix(" Promoted") for e in scene.events("first", "RolledBack Completed")]
    assert in_order(["Promoting", "WaitingForDeployment", "NotAvailable", "RolledBack"], found), found


def test_the_policy_of_an_earlier_promotion_is_put_back(scene: Scene) -> None:
    scene.deploy()
    scene.start("first", FIRST)
    scene.judge("first")
    scene.serve("first")
    uid = scene.start("second", SECOND, deadline=10)
    scene.judge("second")
    scene.await_condition("second", "Promoted", "WaitingForDeployment")
    assert scene.entry() == text(SECOND)
    known = {"last-completed": text(FIRST)}
    assert scene.record() == {"policy": text(SECOND), "previous": text(FIRST), "rollout": uid, **known}
    status = scene.await_phase("second", "RolledBack")
    assert status["baseline"] == FIRST.model_dump()
    assert status["previous"] == text(FIRST)
    assert scene.entry() == text(FIRST)
    assert scene.record() == {"policy": text(FIRST), **known}
    scene.await_available()


@pytest.mark.parametrize(("verdict", "phase"), [("Fail", "Rejected"), ("Inconclusive", "Inconclusive")])
def test_without_nine_passes_the_target_is_not_touched(scene: Scene, verdict: str, phase: str) -> None:
    scene.deploy()
    scene.start("judged", FIRST)
    scene.play("judged", "parity")
    scene.play("judged", "rollouts")
    before = scene.target()["metadata"]
    scene.play("judged", "judge", judged(verdict))
    status = scene.await_phase("judged", phase)
    assert status["gatesSummary"] == "8/9 Pass"
    assert f"P1 {verdict}" in status["message"]
    assert status["evidence"]["digest"].startswith("sha256:")
    after = scene.target()["metadata"]
    assert (after["resourceVersion"], after["generation"]) == (before["resourceVersion"], before["generation"])


def test_another_policy_than_the_evaluated_one_supersedes(scene: Scene) -> None:
    scene.deploy()
    scene.start("late", FIRST)
    scene.play("late", "parity")
    scene.await_phase("late", "Evaluating")
    other = text(SECOND)
    scene.plane.kubectl("set", "env", f"deployment/{TARGET}", "-n", scene.namespace, f"FLOWSTILL_POLICY={other}")
    scene.await_phase("late", "Superseded")
    assert scene.condition("late", "Superseded")[:2] == ("True", "BaselineChanged")
    truth, reason, message = scene.condition("late", "Evaluated")
    assert (truth, reason) == ("False", "BaselineChanged")
    assert other in message
    until(lambda: set(scene.jobs()) == {"late-parity"}, "the evaluation is stopped", scene.jobs)
    assert scene.entry() == other
    assert ours(scene) == []


def test_an_entry_that_somebody_else_applies_is_never_forced(scene: Scene) -> None:
    scene.deploy()
    container = {"name": "policy", "env": [{"name": "FLOWSTILL_POLICY", "value": text(SECOND)}]}
    entry = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": TARGET, "namespace": scene.namespace},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }
    scene.plane.kubectl("apply", "--server-side", "--field-manager=other", "-f", "-", stdin=json.dumps(entry))
    scene.start("refused", FIRST)
    scene.judge("refused")
    status = scene.await_phase("refused", "Failed")
    truth, reason, message = scene.condition("refused", "Promoted")
    assert (truth, reason) == ("False", "FieldOwned")
    for words in ('conflict with "other"', 'env[name="FLOWSTILL_POLICY"].value', "by envFrom"):
        assert words in message
    assert status["baseline"]["digest"] == SECOND.digest
    assert scene.entry() == text(SECOND)
    assert ours(scene) == []


def test_a_rollout_waits_for_its_target(scene: Scene) -> None:
    scene.start("early", FIRST)
    message = scene.await_condition("early", "Validated", "WaitingForTarget")
    assert f"spec.target.deployment.name: there is no Deployment {TARGET}" in message
    assert scene.status("early")["phase"] == "Pending"
    scene.deploy(labelled=False)
    scene.plane.kubectl("annotate", "sr", "early", "-n", scene.namespace, "look=again")
    until(lambda: "is not labelled" in scene.condition("early", "Validated")[2], "the label is asked for")
    assert scene.jobs() == {}
    scene.plane.kubectl("label", "deployment", TARGET, "-n", scene.namespace, "flowstill.dev/target=true")
    until(lambda: set(scene.jobs()) == {"early-parity"}, "the rollout has begun", lambda: scene.status("early"))
    scene.play("early", "parity")
    scene.await_condition("early", "Validated", "ParityPassed")
