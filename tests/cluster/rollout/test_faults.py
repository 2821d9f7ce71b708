"""What goes wrong on the way, on a real API server: children that fail or vanish, operators killed or doubled.

The operator is real, so are all controllers; only the kubelet is a stand-in.
"""

import os
import subprocess
import time
from pathlib import Path

import pytest
from kubernetes.aio import client, config

from flowstill.api.children import TASK, Result, TrainTask
from flowstill.api.studentrollout import DeploymentTarget
from flowstill_operator.clusters.interface import AlreadyExists, Conflict, FieldOwned, Refused
from flowstill_operator.clusters.kubernetes import KubernetesCluster
from flowstill_operator.jobs import SPEC_ANNOTATION
from flowstill_operator.rollout.promote import deployment_patch, put, read_target
from flowstill_operator.told import MAX_TOLD
from tests.cluster.api_client import Document
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.operator_process import OperatorProcess, running_operator
from tests.cluster.resources import distill_job
from tests.cluster.scene import TARGET, Scene, student, text
from tests.cluster.waiting import until
from tests.unit.operator.builders import judged, parity

STUDENT = student("a")


def test_health_and_metrics_answer_while_it_works(scene: Scene, operator: OperatorProcess) -> None:
    scene.start("busy", STUDENT, target=False)
    scene.play("busy", "parity")
    scene.await_condition("busy", "Validated", "ParityPassed")
    assert operator.read("/healthz")[0] == 200
    assert operator.read("/readyz") == (200, "ready")

    def metrics() -> dict[str, float]:
        code, text = operator.read("/metrics")
        assert code == 200
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    def counted(values: dict[str, float]) -> bool:
        return (
            values['flowstill_reconcile_total{kind="StudentRollout",outcome="ok"}'] >= 3
            and values['flowstill_reconcile_seconds_count{kind="StudentRollout"}'] >= 3
            and values.get('flowstill_resources{kind="StudentRollout",phase="Evaluating"}') == 1
        )

    # They follow the write of the status by a moment.
    until(lambda: counted(metrics()), "three reconciles and the phase are counted", metrics)
    values = metrics()
    assert values['flowstill_children_created_total{role="parity"}'] == 1
    assert "flowstill_queue_depth" in values


def test_a_users_error_fails_at_once_and_in_its_own_words(scene: Scene) -> None:
    scene.start("wrong", STUDENT, target=False)
    words = "spec.student: store://students/a has no manifest.json; publish it with flowstill store push"
    error = Result(kind="Parity", outcome="UserError", reason="NotAnArtifact", message=words)
    scene.play("wrong", "parity", error, exit_code=65)
    status = scene.await_phase("wrong", "Failed")
    assert status["message"] == f"parity: {words}"
    assert scene.condition("wrong", "Validated") == ("False", "NotAnArtifact", words)
    (job,) = scene.objects.list("jobs")
    (failed,) = [c for c in job["status"]["conditions"] if c["type"] == "Failed"]
    assert failed["reason"] == "PodFailurePolicy"
    assert len(scene.objects.list("pods")) == 1


def test_an_image_that_cannot_be_pulled_is_said(scene: Scene) -> None:
    scene.start("absent", STUDENT, target=False)
    pod = scene.kubelet.child("absent", "parity")
    words = 'failed to pull image "localhost/evaluator:test": not found'
    scene.kubelet.hold(pod, "ErrImagePull", words)
    assert scene.await_condition("absent", "Validated", "ErrImagePull") == words
    assert words in scene.status("absent")["message"]
    scene.kubelet.run(pod)
    scene.await_condition("absent", "Validated", "Running")


def test_the_result_of_a_deleted_job_is_read_from_its_folder(scene: Scene, tmp_path: Path) -> None:
    scene.start("lost", STUDENT, target=False)
    scene.kubelet.run(scene.kubelet.child("lost", "parity"))
    scene.await_condition("lost", "Validated", "Running")
    (job,) = scene.objects.list("jobs")
    scene.objects.delete("jobs", job["metadata"]["name"])
    scene.await_condition("lost", "Validated", "ReadingResult")
    pod = scene.kubelet.child("lost", "parity", reader=True)
    # The pod's own program, on a folder such as the child leaves behind, says what the pod would say.
    *program, work = pod["spec"]["containers"][0]["command"]
    assert work.startswith("/var/run/flowstill/volumes/flowstill-store/work/")
    (tmp_path / "result.json").write_text(parity().model_dump_json(by_alias=True, exclude_none=True))
    message = tmp_path / "message"
    environment = {**os.environ, "FLOWSTILL_TERMINATION_LOG": str(message)}
    subprocess.run([*program, str(tmp_path)], env=environment, check=True)
    scene.kubelet.run(pod)
    scene.kubelet.end(pod, message.read_text())
    scene.await_condition("lost", "Validated", "ParityPassed")
    until(lambda: set(scene.jobs()) == {"lost-parity-read", "lost-rollouts"}, "one Job more", scene.jobs)


def test_a_task_as_long_as_can_be_reaches_its_pod_whole(scene: Scene) -> None:
    """At the bound that is kept for annotations, with letters of four bytes and what must be escaped."""
    env = [{"name": f"V{i}", "value": "🤖\n" * 512} for i in range(32)]
    annotations = {f"example.com/{i}": "é" * 256 for i in range(16)}
    episodes = list(range(10**9, 10**9 + 9900))
    runtime = {"env": env, "annotations": annotations}
    dataset = {"uri": "store://d", "episodes": episodes}
    scene.plane.apply(distill_job("long", scene.namespace, runtime=runtime, dataset=dataset))
    metadata = scene.kubelet.child("long", "train")["metadata"]
    text = metadata["annotations"][SPEC_ANNOTATION]
    assert MAX_TOLD - 20_000 < len(text.encode()) < MAX_TOLD
    task = TASK.validate_json(text)
    assert isinstance(task, TrainTask)
    assert [variable.model_dump() for variable in task.spec.runtime.env] == env
    assert task.spec.dataset.episodes == episodes


def test_a_task_that_is_too_long_is_refused_by_its_field(scene: Scene) -> None:
    dataset = {"uri": "store://d", "episodes": list(range(10**15, 10**15 + 10_000))}
    env = [{"name": f"V{i}", "value": "🤖" * 1024} for i in range(16)]
    scene.plane.apply(distill_job("longer", scene.namespace, runtime={"env": env}, dataset=dataset))
    status = scene.await_phase("longer", "Failed", "distilljobs")
    assert status["message"].startswith("spec.dataset.episodes: ")
    assert scene.condition("longer", "Validated", "distilljobs")[:2] == ("False", "SpecTooLong")
    assert scene.jobs() == {}


def test_a_deleted_distilljob_takes_its_job_along(scene: Scene) -> None:
    scene.plane.apply(distill_job("gone", scene.namespace))
    scene.kubelet.run(scene.kubelet.child("gone", "train"))
    scene.plane.kubectl("delete", "dj", "gone", "-n", scene.namespace, "--timeout=20s")
    until(lambda: not scene.objects.list("jobs") and not scene.objects.list("pods"), "its Job is collected", scene.jobs)


def test_all_can_be_deleted_while_no_operator_is_there(scene: Scene, operator: OperatorProcess) -> None:
    scene.deploy()
    scene.start("served", STUDENT)
    scene.judge("served")
    scene.serve("served")
    scene.start("busy", student("b"), target=False)
    scene.plane.apply(distill_job("training", scene.namespace))
    for name, role in (("busy", "parity"), ("training", "train")):
        scene.kubelet.run(scene.kubelet.child(name, role))
    scene.await_condition("busy", "Validated", "Running")
    scene.await_condition("training", "Trained", "Running", "distilljobs")
    ours = ("distilljobs", "studentrollouts")
    # One of ours would wait for ever for an operator that is gone.
    assert [thing["metadata"].get("finalizers") for kind in ours for thing in scene.objects.list(kind)] == [None] * 3
    revision = scene.revision()
    operator.kill()
    try:
        scene.plane.kubectl("delete", "dj,sr", "--all", "-n", scene.namespace, "--timeout=20s")
        assert [scene.objects.list(kind) for kind in ours] == [[], []]
        children = "flowstill.dev/owner-name"
        until(lambda: not scene.jobs() and not scene.objects.list("pods", children), "their Jobs go too", scene.jobs)
        assert scene.entry() == text(STUDENT)
    finally:
        operator.start()
        operator.await_ready()
    assert (scene.jobs(), scene.entry(), scene.revision()) == ({}, text(STUDENT), revision)
    assert operator.is_running()


@pytest.mark.parametrize("healthy", [True, False])
def test_killed_right_after_the_deployment_was_changed(scene: Scene, operator: OperatorProcess, healthy: bool) -> None:
    scene.deploy()
    scene.start("cut", STUDENT, deadline=120 if healthy else 10)
    scene.play("cut", "parity")
    scene.play("cut", "rollouts")
    judge = scene.kubelet.child("cut", "judge")
    scene.kubelet.end(judge, judged())
    end = time.monotonic() + 60
    while scene.entry() is None:
        assert time.monotonic() < end, scene.status("cut")
    operator.kill()
    assert scene.status("cut")["phase"] in ("Judging", "Promoting")
    operator.start()
    if healthy:
        scene.await_available()
    scene.await_phase("cut", "Completed" if healthy else "RolledBack")
    assert scene.entry() == (text(STUDENT) if healthy else None)
    scene.await_available()
    assert scene.revision() == (2 if healthy else 3)


def test_two_operators_at_once_make_one_of_everything(
    scene: Scene, plane: ControlPlane, operator: OperatorProcess, tmp_path: Path
) -> None:
    scene.deploy()
    with running_operator(plane, tmp_path, "second") as second:
        scene.start("both", STUDENT)
        scene.judge("both")
        until(lambda: scene.entry() is not None, "the student is set", lambda: scene.status("both"))
        scene.await_available()
        status = scene.await_phase("both", "Completed")
        assert operator.is_running()
        assert second.is_running()
        assert status["gatesSummary"] == "9/9 Pass"
        assert sorted(scene.jobs()) == ["both-judge", "both-parity", "both-rollouts"]
        events = scene.events("both", "Completed Completed")
        assert len(events) == len(set(events))


async def test_what_the_server_refuses_is_told_apart(scene: Scene) -> None:
    scene.deploy()
    scene.start("raced", STUDENT, target=False)
    scene.kubelet.child("raced", "parity")
    scene.await_condition("raced", "Validated", "Unschedulable")
    configuration = client.Configuration()
    await config.load_kube_config(config_file=str(scene.plane.kubeconfig), client_configuration=configuration)
    async with client.ApiClient(configuration) as api:
        cluster = KubernetesCluster(api)
        seen = await cluster.get("StudentRollout", scene.namespace, "raced")
        target = await cluster.get("Deployment", scene.namespace, TARGET)
        assert seen is not None
        assert target is not None
        scene.objects.patch("studentrollouts", "raced", {"status": {"message": "written meanwhile"}}, status=True)
        with pytest.raises(Conflict):
            await cluster.write_status(seen, {**seen["status"], "message": "lost update"})
        assert scene.status("raced")["message"] != "lost update"
        (job,) = scene.objects.list("jobs")
        again = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": job["metadata"]["name"], "namespace": scene.namespace},
            "spec": {"template": {"spec": job["spec"]["template"]["spec"]}},
        }
        with pytest.raises(AlreadyExists):
            await cluster.create(again)
        again["metadata"]["name"] = "No Such Name"
        with pytest.raises(Refused, match=r"metadata\.name"):
            await cluster.create(again)
        deployment = DeploymentTarget(name=TARGET, container="policy")

        def change(found: Document) -> Document:
            return deployment_patch(put(read_target(found, deployment), deployment, STUDENT, "uid"), scene.namespace)

        scene.objects.patch("deployments", TARGET, {"metadata": {"annotations": {"look": "again"}}})
        with pytest.raises(Conflict):
            await cluster.apply_deployment(change(target))
        owned = change(scene.target())
        owned["spec"]["template"]["spec"]["containers"][0]["env"][0]["name"] = "HOME"
        with pytest.raises(FieldOwned, match='conflict with "kubectl'):
            await cluster.apply_deployment(owned)
        last = change(scene.target())
        scene.objects.delete("deployments", TARGET)
        with pytest.raises(Conflict):
            await cluster.apply_deployment(last)
