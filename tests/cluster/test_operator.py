"""The operator as a process against a real API server without nodes: its Jobs are made, and stay Pending."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.operator_process import OperatorProcess, installed_crds, running_operator
from tests.cluster.resources import distill_job
from tests.cluster.waiting import until


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    with installed_crds(control_plane):
        yield control_plane


@pytest.fixture
def operator(plane: ControlPlane, tmp_path: Path) -> Iterator[OperatorProcess]:
    with running_operator(plane, tmp_path) as process:
        yield process


def test_a_killed_operator_goes_on_and_makes_one_job(
    plane: ControlPlane, namespace: str, operator: OperatorProcess
) -> None:
    plane.apply(distill_job(namespace=namespace))
    (job,) = until(lambda: plane.get("jobs", "-n", namespace)["items"], "its Job is made", operator.log)
    operator.kill()
    operator.start()
    operator.await_ready()
    passes = 'flowstill_reconcile_total{kind="DistillJob",outcome="ok"}'
    until(lambda: passes in operator.read("/metrics")[1], "the second life has looked at it", operator.log)
    found = until(
        lambda: plane.get("dj", "a", "-n", namespace).get("status", {}).get("conditions"), "a condition", operator.log
    )
    conditions = {c["type"]: (c["status"], c["reason"]) for c in found}
    assert conditions["Validated"] == ("True", "Valid")
    assert conditions["Trained"][0] == "Unknown"
    assert operator.is_running()
    jobs = plane.get("jobs", "-n", namespace)["items"]
    assert [j["metadata"]["uid"] for j in jobs] == [job["metadata"]["uid"]]
    (owner,) = job["metadata"]["ownerReferences"]
    assert owner["kind"] == "DistillJob"
    assert owner["controller"]
    assert job["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_a_spec_that_cannot_work_fails_with_a_condition_and_no_job(
    plane: ControlPlane, namespace: str, operator: OperatorProcess
) -> None:
    plane.apply(distill_job(namespace=namespace, teacher={"uri": "file:///somewhere/else"}))
    until(
        lambda: plane.get("dj", "a", "-n", namespace).get("status", {}).get("phase") == "Failed",
        "it has failed",
        operator.log,
    )
    status = plane.get("dj", "a", "-n", namespace)["status"]
    (validated,) = [c for c in status["conditions"] if c["type"] == "Validated"]
    assert validated["status"] == "False"
    assert "spec.teacher.uri" in validated["message"]
    assert plane.get("jobs", "-n", namespace)["items"] == []
