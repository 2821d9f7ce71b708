"""Queues by the real Kueue: its controller manager suspends, admits and preempts the operator's Jobs.

The operator and Kubernetes' controllers are real too; only the kubelet is a stand-in.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowstill_operator.children import QUEUE_LABEL
from flowstill_operator.jobs import GPU
from tests.cluster.api_client import Document
from tests.cluster.faults.calls import Call
from tests.cluster.faults.proxy import FaultProxy, running_proxy
from tests.cluster.harness.cache import Report
from tests.cluster.harness.cluster import running_control_plane
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.kueue_process import running_kueue
from tests.cluster.operator_process import CRDS, OperatorProcess, await_crds, running_operator
from tests.cluster.resources import distill_job
from tests.cluster.scene import Scene, student
from tests.cluster.stand_in_kubelet import is_waiting, stand_in
from tests.cluster.waiting import until
from tests.unit.operator.builders import judged, records, trained

pytestmark = pytest.mark.long

PLURAL = "distilljobs"
QUEUE = "robots"
URGENT = "urgent"
KUEUE = {"apiVersion": "kueue.x-k8s.io/v1beta2"}
INTERRUPTED = trained(outcome="Interrupted", reason="Interrupted", student=None, message="a checkpoint is saved")
QUIET_SECONDS = 15.0
HOLD = "test.flowstill.dev/hold"
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
WITHOUT_POD_COLLECTION = {"kube-controller-manager": ["--controllers=*,-pod-garbage-collector-controller"]}
"""It ends pods that are told to end and are on no node, which here is for the stand-in kubelet to do."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kueue")


@pytest.fixture(scope="module")
def plane(report: Report, folder: Path) -> Iterator[ControlPlane]:
    """Not that of the other tests: Kueue stands between its API server and every Job."""
    with (
        running_control_plane(report, flags=WITHOUT_POD_COLLECTION) as plane,
        running_kueue(plane, folder, report),
        stand_in(plane),
    ):
        # They go with the control plane: to delete them all is to wait for what Kueue holds on to.
        plane.kubectl("apply", "-f", str(CRDS))
        await_crds(plane)
        plane.apply(
            {**KUEUE, "kind": "ResourceFlavor", "metadata": {"name": "gpus"}},
            {**KUEUE, "kind": "WorkloadPriorityClass", "metadata": {"name": URGENT}, "value": 1000},
        )
        yield plane


@pytest.fixture(scope="module")
def running(plane: ControlPlane, folder: Path) -> Iterator[tuple[FaultProxy, OperatorProcess]]:
    """An operator whose requests are counted on their way."""
    with (
        running_proxy(plane, folder, 0) as proxy,
        running_operator(plane, folder, kubeconfig=proxy.kubeconfig) as operator,
    ):
        yield proxy, operator


@pytest.fixture
def scene(plane: ControlPlane, running: tuple[FaultProxy, OperatorProcess]) -> Scene:
    assert running[1].is_running()
    return Scene(plane, plane.create_namespace(), patience=90.0)


def grant(scene: Scene, gpus: int) -> None:
    """A ClusterQueue of that many GPUs for this namespace alone."""
    flavor = {"name": "gpus", "resources": [{"name": GPU, "nominalQuota": gpus}]}
    spec = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": scene.namespace}},
        "resourceGroups": [{"coveredResources": [GPU], "flavors": [flavor]}],
        "preemption": {"withinClusterQueue": "LowerPriority"},
    }
    scene.plane.apply({**KUEUE, "kind": "ClusterQueue", "metadata": {"name": scene.namespace}, "spec": spec})


def open_queue(scene: Scene, gpus: int, name: str = QUEUE) -> None:
    """A LocalQueue that takes from it."""
    grant(scene, gpus)
    metadata = {"name": name, "namespace": scene.namespace}
    spec = {"clusterQueue": scene.namespace}
    scene.plane.apply({**KUEUE, "kind": "LocalQueue", "metadata": metadata, "spec": spec})


def start(scene: Scene, name: str, *, queue: str = QUEUE, **runtime: Any) -> None:
    scene.plane.apply(distill_job(name, scene.namespace, runtime={"queueName": queue, **runtime}))


def run(scene: Scene, name: str) -> Document:
    """Its pod, which runs, and the operator has seen it."""
    pod = scene.kubelet.child(name, "train")
    scene.kubelet.run(pod)
    scene.await_condition(name, "Trained", "Running", PLURAL)
    assert scene.condition(name, "Admitted", PLURAL)[:2] == ("True", "Admitted")
    return pod


def await_quota(scene: Scene, name: str, plural: str = PLURAL) -> str:
    """It waits for quota, and says so; its message."""
    message = scene.await_condition(name, "Admitted", "WaitingForQuota", plural)
    assert scene.condition(name, "Admitted", plural)[0] == "False"
    return message


def pods_of(scene: Scene, name: str) -> list[Document]:
    return scene.objects.list("pods", f"flowstill.dev/owner-name={name}")


def hold(scene: Scene, pod: Document) -> Document:
    """A pod without a node goes as soon as it is told to end; a real one takes its time, as this one does now."""
    finalizers = {"finalizers": [HOLD, *pod["metadata"]["finalizers"]]}
    return scene.objects.patch("pods", pod["metadata"]["name"], {"metadata": finalizers})


def interrupt(scene: Scene, pod: Document) -> None:
    """A held pod is told to end, saves its checkpoint, ends as a child of ours does, and is gone."""
    name = pod["metadata"]["name"]

    def told() -> bool:
        found = scene.objects.get("pods", name)
        return found is not None and "deletionTimestamp" in found["metadata"]

    until(told, "the pod is told to end", lambda: scene.objects.get("pods", name), scene.patience)
    scene.kubelet.end(pod, INTERRUPTED, exit_code=143)
    found = scene.objects.get("pods", name)
    assert found is not None
    left = [finalizer for finalizer in found["metadata"]["finalizers"] if finalizer != HOLD]
    scene.objects.patch("pods", name, {"metadata": {"finalizers": left}})


def urgent(scene: Scene, name: str = URGENT, gpus: int = 1) -> None:
    """Somebody's Job of a higher priority in the same queue, which takes so many GPUs."""
    container = {
        "name": "work",
        "image": "localhost/work:test",
        "resources": {"limits": {GPU: str(gpus)}},
        "securityContext": RESTRICTED,
    }
    labels = {QUEUE_LABEL: QUEUE, "kueue.x-k8s.io/priority-class": URGENT}
    spec = {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}
    metadata = {"name": name, "namespace": scene.namespace, "labels": labels}
    scene.plane.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec})


def finish(scene: Scene, name: str = URGENT) -> None:
    """That Job is admitted, runs and ends well."""

    def waiting() -> Document | None:
        pods = scene.objects.list("pods", f"batch.kubernetes.io/job-name={name}")
        return next((pod for pod in pods if is_waiting(pod)), None)

    pod = until(waiting, f"a pod of {name}", lambda: workloads(scene), scene.patience)
    assert pod is not None
    scene.kubelet.run(pod)
    scene.kubelet.end(pod, "")


def workloads(scene: Scene) -> list[Document]:
    """What Kueue knows of this namespace's Jobs."""
    found: list[Document] = scene.plane.get("workloads.kueue.x-k8s.io", "--namespace", scene.namespace)["items"]
    return found


def asked(scene: Scene, proxy: FaultProxy) -> list[Call]:
    """What the operator has asked of this namespace so far, watches left out."""
    return [call for call in proxy.calls if not call.watch and call.namespace == scene.namespace]


def passes(operator: OperatorProcess) -> float:
    """How often the operator has looked at any resource."""
    _, text = operator.read("/metrics")
    return sum(float(value) for value in re.findall(r"^flowstill_reconcile_total\{[^}]*\} (\S+)$", text, re.MULTILINE))


def test_the_second_waits_without_a_request_and_follows_the_first(
    scene: Scene, running: tuple[FaultProxy, OperatorProcess]
) -> None:
    proxy, operator = running
    open_queue(scene, 1)
    start(scene, "first")
    pod = run(scene, "first")
    start(scene, "second")
    assert QUEUE in await_quota(scene, "second")
    assert scene.status("second", PLURAL)["phase"] == "Queued"
    assert scene.events("second", "WaitingForQuota Admitted").count("WaitingForQuota Admitted") == 1
    time.sleep(2)
    calls, looks = len(asked(scene, proxy)), passes(operator)
    time.sleep(QUIET_SECONDS)
    assert [call.path for call in asked(scene, proxy)[calls:]] == []
    # The one that runs is looked at every 30 s.
    assert passes(operator) <= looks + 1
    assert pods_of(scene, "second") == []
    scene.kubelet.end(pod, trained())
    scene.await_phase("first", "Succeeded", PLURAL)
    scene.await_condition("second", "Admitted", "Admitted", PLURAL)
    scene.play("second", "train")
    status = scene.await_phase("second", "Succeeded", PLURAL)
    assert status["attempts"] == 1


def test_a_queue_that_is_not_there_is_waited_for(scene: Scene) -> None:
    start(scene, "lost", queue="nobody")
    assert "nobody" in await_quota(scene, "lost")

    def inadmissible() -> bool:
        conditions = [c for found in workloads(scene) for c in found.get("status", {}).get("conditions", [])]
        return any(c["type"] == "QuotaReserved" and c["reason"] == "Inadmissible" for c in conditions)

    until(inadmissible, "Kueue says that it has no such queue", lambda: workloads(scene), scene.patience)
    assert scene.status("lost", PLURAL)["phase"] == "Queued"
    open_queue(scene, 1, "nobody")
    scene.play("lost", "train")
    scene.await_phase("lost", "Succeeded", PLURAL)


def test_a_preempted_training_returns_to_the_queue_and_nothing_is_counted(scene: Scene) -> None:
    """No failure at all is allowed, and it is preempted twice: while it runs, and while its pod waits for a node."""
    open_queue(scene, 1)
    start(scene, "patient", backoffLimit=0)
    pod = hold(scene, run(scene, "patient"))
    urgent(scene)
    interrupt(scene, pod)
    await_quota(scene, "patient")
    assert scene.status("patient", PLURAL)["phase"] == "Queued"
    finish(scene)
    scene.kubelet.child("patient", "train")
    scene.await_condition("patient", "Admitted", "Admitted", PLURAL)
    urgent(scene, "more-urgent")
    await_quota(scene, "patient")
    finish(scene, "more-urgent")
    scene.play("patient", "train")
    status = scene.await_phase("patient", "Succeeded", PLURAL)
    (job,) = scene.objects.list("jobs", "flowstill.dev/owner-name=patient")
    assert job["status"].get("failed", 0) == 0
    assert (status["attempts"], status.get("disruptions", 0)) == (1, 0)


def test_several_nodes_are_admitted_all_or_none_and_preempted_together(scene: Scene) -> None:
    open_queue(scene, 1)
    start(scene, "wide", nodes=2, backoffLimit=0)
    await_quota(scene, "wide")
    until(lambda: workloads(scene), "Kueue has seen the Job")
    assert pods_of(scene, "wide") == []
    grant(scene, 2)
    pods = [hold(scene, pod) for pod in scene.kubelet.ranks("wide", 1, 2)]
    for pod in pods:
        scene.kubelet.run(pod)
    scene.await_condition("wide", "Trained", "Running", PLURAL)
    urgent(scene)
    for pod in pods:
        interrupt(scene, pod)
    await_quota(scene, "wide")
    finish(scene)
    for pod in (pods := scene.kubelet.ranks("wide", 1, 2)):
        scene.kubelet.run(pod)
    for pod in pods:
        scene.kubelet.end(pod, trained())
    status = scene.await_phase("wide", "Succeeded", PLURAL)
    assert (status["attempts"], status.get("disruptions", 0)) == (1, 0)


def test_a_deadline_counts_no_time_in_the_queue(scene: Scene) -> None:
    open_queue(scene, 1)
    start(scene, "first")
    first = run(scene, "first")
    start(scene, "second", activeDeadlineSeconds=5)
    await_quota(scene, "second")
    time.sleep(7)
    assert scene.status("second", PLURAL)["phase"] == "Queued"
    scene.kubelet.end(first, trained())
    interrupt(scene, hold(scene, run(scene, "second")))
    scene.await_phase("second", "Failed", PLURAL)
    assert scene.condition("second", "Failed", PLURAL)[1] == "DeadlineExceeded"


def test_what_is_queued_may_be_suspended_and_resumed(scene: Scene) -> None:
    open_queue(scene, 1)
    start(scene, "first")
    first = run(scene, "first")
    start(scene, "second")
    await_quota(scene, "second")
    scene.objects.patch(PLURAL, "second", {"spec": {"suspend": True}})
    status = scene.await_phase("second", "Suspended", PLURAL)
    assert status["attempts"] == 0, "nothing has begun"
    until(lambda: len(workloads(scene)) == 1, "Kueue has forgotten it", lambda: workloads(scene))
    scene.kubelet.end(first, trained())
    scene.await_phase("first", "Succeeded", PLURAL)
    assert pods_of(scene, "second") == []
    scene.objects.patch(PLURAL, "second", {"spec": {"suspend": False}})
    scene.play("second", "train")
    status = scene.await_phase("second", "Succeeded", PLURAL)
    assert (status["attempts"], status.get("disruptions", 0)) == (1, 0)


def test_an_evaluation_in_shards_is_preempted_and_runs_only_what_is_left(scene: Scene) -> None:
    open_queue(scene, 2)
    runtime = {"queueName": QUEUE, "gpusPerNode": 1, "backoffLimit": 0}
    scene.start("wide", student("a"), target=False, shards=2, runtime=runtime)
    scene.play("wide", "parity")
    done, pod = scene.kubelet.shards("wide", 2)
    for each in (done, pod):
        scene.kubelet.run(each)
    scene.await_condition("wide", "Evaluated", "Running")
    scene.kubelet.end(done, records())
    until(lambda: "1 of 2 shards" in scene.condition("wide", "Evaluated")[2], "a shard is done")
    pod = hold(scene, pod)
    urgent(scene, gpus=2)
    interrupt(scene, pod)
    await_quota(scene, "wide", "studentrollouts")
    finish(scene)
    (again,) = scene.kubelet.shards("wide", 1)
    scene.kubelet.run(again)
    scene.kubelet.end(again, records())
    scene.play("wide", "judge", judged(rollouts=records().rollouts))
    scene.await_phase("wide", "Completed")


def test_shards_that_the_quota_does_not_hold_together_run_one_after_another(scene: Scene) -> None:
    open_queue(scene, 1)
    scene.start("narrow", student("a"), target=False, shards=2, runtime={"queueName": QUEUE, "gpusPerNode": 1})
    scene.play("narrow", "parity")
    (first,) = scene.kubelet.shards("narrow", 1)
    scene.kubelet.run(first)
    scene.await_condition("narrow", "Evaluated", "Running")
    assert [pod["metadata"]["uid"] for pod in pods_of(scene, "narrow") if is_waiting(pod)] == []
    scene.kubelet.end(first, records())
    (second,) = scene.kubelet.shards("narrow", 1)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    scene.kubelet.run(second)
    until(lambda: "1 of 2 shards" in scene.condition("narrow", "Evaluated")[2], "the second shard runs")
    scene.kubelet.end(second, records())
    scene.play("narrow", "judge", judged(rollouts=records().rollouts))
    scene.await_phase("narrow", "Completed")
