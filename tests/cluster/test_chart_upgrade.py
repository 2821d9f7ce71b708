"""From an older chart to today's while a child runs.

``charts/before-the-admission-policy.tgz`` is the chart as it was before it had a ValidatingAdmissionPolicy, and
``charts/distilljob.json`` what its operator made of a DistillJob: its first status, its Job, and the last words of the
trainer of that time. NAMESPACE, UID and HASH (of the UID, in the Job's name) stand for those of the run.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api_client import Document, Objects
from tests.cluster.chart import CHART, Release, remove_crds, status_of
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.processes import Background
from tests.cluster.operator_process import await_crds
from tests.cluster.resources import API_VERSION
from tests.cluster.stand_in_kubelet import StandInKubelet, stand_in
from tests.cluster.waiting import until

CHARTS = Path(__file__).parent / "charts"
OLD_CHART = CHARTS / "before-the-admission-policy.tgz"
POLICY = ("validatingadmissionpolicy", "fs-flowstill-actions", "--ignore-not-found", "-o", "name")


@pytest.fixture
def release(control_plane: ControlPlane, namespace: str) -> Iterator[Release]:
    """The old chart's release."""
    remove_crds(control_plane)
    found = Release(control_plane, namespace)
    found.install(chart=OLD_CHART)
    await_crds(control_plane)
    with stand_in(control_plane):
        yield found
    control_plane.helm("uninstall", found.name, "--namespace", namespace, "--ignore-not-found")
    remove_crds(control_plane)


def recorded(release: Release) -> Document:
    """What the old operator made of the DistillJob ``a``, which is created."""
    text = (CHARTS / "distilljob.json").read_text()
    spec = json.loads(text)["spec"]
    metadata = {"name": "a", "namespace": release.namespace}
    release.plane.apply({"apiVersion": API_VERSION, "kind": "DistillJob", "metadata": metadata, "spec": spec})
    uid = release.plane.get("distilljob", "a", "-n", release.namespace)["metadata"]["uid"]
    values = {"NAMESPACE": release.namespace, "UID": uid, "HASH": hashlib.sha256(uid.encode()).hexdigest()[:8]}
    for word, value in values.items():
        text = text.replace(word, value)
    found: Document = json.loads(text)
    return found


def await_phase(release: Release, phase: str, operator: Background) -> None:
    until(lambda: status_of(release.plane, release.namespace).get("phase") == phase, phase, operator.log.read_text)


def test_a_running_job_goes_through_an_upgrade_untouched(release: Release, tmp_path: Path) -> None:
    plane, objects = release.plane, Objects(release.plane, release.namespace)
    kubelet = StandInKubelet(objects)
    assert plane.kubectl("get", *POLICY) == ""
    made = recorded(release)
    patch = json.dumps({"status": made["status"]})
    plane.kubectl(
        "patch", "distilljob", "a", "-n", release.namespace, "--subresource=status", "--type=merge", "-p", patch
    )
    plane.kubectl("create", "-f", "-", stdin=json.dumps(made["job"]))
    pod = kubelet.child("a", "train")
    kubelet.run(pod)
    (before,) = objects.list("jobs")

    plane.helm("upgrade", release.name, str(CHART), "--namespace", release.namespace, "--reset-then-reuse-values")
    assert plane.kubectl("get", *POLICY) != ""
    with release.operator(tmp_path) as operator:
        await_phase(release, "Running", operator)
        kubelet.end(pod, json.dumps(made["result"]))
        await_phase(release, "Succeeded", operator)
    (after,) = objects.list("jobs")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert after["spec"] == before["spec"]
    writers = {entry["manager"] for entry in after["metadata"]["managedFields"]}
    assert writers == {"kubectl-create", "kube-controller-manager"}
    found = status_of(plane, release.namespace)
    assert found["image"] == made["status"]["image"]
    assert found["student"] == made["result"]["student"]
