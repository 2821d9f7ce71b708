"""The operator as a process against a real API server without nodes: its Jobs are made, and stay Pending."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.resources import distill_job

CRDS = Path(__file__).parents[2] / "crds"
OPERATOR = [
    str(Path(sys.executable).parent / "flowstill-operator"),
    "--trainer-image=localhost/trainer:test",
    "--evaluator-image=localhost/evaluator:test",
    "--store=pvc://flowstill-store",
    "--health-port=0",
]


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    control_plane.kubectl("apply", "-f", str(CRDS))
    control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    yield control_plane
    control_plane.kubectl("delete", "crd", "--all")


@pytest.fixture
def operator(plane: ControlPlane, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts operator processes; whatever still runs at the end is stopped."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / f"operator-{len(started)}.log").open("wb") as log:
            process = subprocess.Popen(OPERATOR, env=os.environ | plane.environment(), stdout=log, stderr=log)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=30)
    for log in sorted(tmp_path.glob("operator-*.log")):
        print(log.read_text()[-4000:])


def until(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > end:
            pytest.fail(f"did not happen within {seconds:.0f} s")
        time.sleep(0.5)
    return found


def test_a_killed_operator_goes_on_and_makes_one_job(
    plane: ControlPlane, namespace: str, operator: Callable[[], subprocess.Popen[bytes]]
) -> None:
    first = operator()
    plane.apply(distill_job(namespace=namespace))
    (job,) = until(lambda: plane.get("jobs", "-n", namespace)["items"])
    first.send_signal(signal.SIGKILL)
    first.wait(timeout=30)
    second = operator()
    found = until(lambda: plane.get("dj", "a", "-n", namespace).get("status", {}).get("conditions"))
    conditions = {c["type"]: (c["status"], c["reason"]) for c in found}
    assert conditions["Validated"] == ("True", "Valid")
    assert conditions["Trained"][0] == "Unknown"
    assert second.poll() is None
    jobs = plane.get("jobs", "-n", namespace)["items"]
    assert [j["metadata"]["uid"] for j in jobs] == [job["metadata"]["uid"]]
    (owner,) = job["metadata"]["ownerReferences"]
    assert owner["kind"] == "DistillJob"
    assert owner["controller"]
    assert job["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_a_spec_that_cannot_work_fails_with_a_condition_and_no_job(
    plane: ControlPlane, namespace: str, operator: Callable[[], subprocess.Popen[bytes]]
) -> None:
    operator()
    plane.apply(distill_job(namespace=namespace, teacher={"uri": "file:///somewhere/else"}))
    status = until(lambda: plane.get("dj", "a", "-n", namespace).get("status"))
    until(lambda: plane.get("dj", "a", "-n", namespace)["status"]["phase"] == "Failed")
    status = plane.get("dj", "a", "-n", namespace)["status"]
    (validated,) = [c for c in status["conditions"] if c["type"] == "Validated"]
    assert validated["status"] == "False"
    assert "spec.teacher.uri" in validated["message"]
    assert plane.get("jobs", "-n", namespace)["items"] == []
