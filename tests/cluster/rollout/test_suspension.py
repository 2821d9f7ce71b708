"""Suspend and resume on a real API server: Jobs and pods are deleted by the real controllers.

The operator is real; only the kubelet is a stand-in.
"""

from typing import Any

from tests.cluster.resources import distill_job
from tests.cluster.scene import Scene, student
from tests.cluster.waiting import until

PLURAL = "distilljobs"
HOLD = "test.flowstill.dev/hold"


def start(scene: Scene, name: str, **runtime: Any) -> None:
    scene.plane.apply(distill_job(name, scene.namespace, runtime={"gpusPerNode": 0, **runtime}))


def suspend(scene: Scene, name: str, wanted: bool) -> None:
    scene.objects.patch(PLURAL, name, {"spec": {"suspend": wanted}})


def test_a_training_is_suspended_resumed_and_ends(scene: Scene) -> None:
    """Its pod ends slowly, and the next Job waits for it though the user has changed their mind."""
    start(scene, "held")
    pod = scene.kubelet.child("held", "train")
    scene.kubelet.run(pod)
    scene.await_condition("held", "Trained", "Running", PLURAL)
    (first,) = scene.jobs().items()
    name = pod["metadata"]["name"]
    scene.objects.patch("pods", name, {"metadata": {"finalizers": [HOLD, *pod["metadata"]["finalizers"]]}})
    suspend(scene, "held", True)
    assert "save a checkpoint" in scene.await_condition("held", "Suspended", "Suspending", PLURAL)
    until(lambda: "deletionTimestamp" in (scene.objects.get("pods", name) or {})["metadata"], "its pod is told to end")
    suspend(scene, "held", False)
    assert scene.jobs() == dict([first])
    suspend(scene, "held", True)
    scene.objects.patch("pods", name, {"metadata": {"finalizers": []}})
    scene.await_phase("held", "Suspended", PLURAL)
    assert scene.jobs() == {}
    assert scene.objects.list("pods", "flowstill.dev/owner-name=held") == []
    suspend(scene, "held", False)
    scene.play("held", "train")
    status = scene.await_phase("held", "Succeeded", PLURAL)
    assert (status["attempts"], status["disruptions"]) == (2, 1)
    (second,) = scene.jobs().items()
    assert (second[0], second[1] != first[1]) == (first[0], True)
    assert scene.condition("held", "Suspended", PLURAL)[:2] == ("False", "Resumed")
    assert "Resumed Suspended" in scene.events("held", "Resumed Suspended")


def test_a_rollout_is_suspended_while_it_evaluates(scene: Scene) -> None:
    scene.start("paused", student("a"), target=False)
    scene.play("paused", "parity")
    pod = scene.kubelet.child("paused", "rollouts")
    scene.kubelet.run(pod)
    scene.await_condition("paused", "Evaluated", "Running")
    scene.objects.patch("studentrollouts", "paused", {"spec": {"suspend": True}})
    scene.await_phase("paused", "Suspended")
    assert [name for name in scene.jobs() if "rollouts" in name] == []
    scene.objects.patch("studentrollouts", "paused", {"spec": {"suspend": False}})
    scene.play("paused", "rollouts")
    scene.play("paused", "judge")
    scene.await_phase("paused", "Completed")


def test_whoever_queues_jobs_holds_one_back(scene: Scene) -> None:
    """As Kueue does it: the Job's own ``suspend``, which the operator reads and leaves alone."""
    start(scene, "queued", queueName="robots")
    scene.kubelet.child("queued", "train")
    (job,) = scene.objects.list("jobs", "kueue.x-k8s.io/queue-name=robots")
    name = job["metadata"]["name"]
    scene.objects.patch("jobs", name, {"spec": {"suspend": True}})
    scene.await_condition("queued", "Admitted", "WaitingForQuota", PLURAL)
    assert scene.status("queued", PLURAL)["phase"] == "Queued"
    scene.objects.patch("jobs", name, {"spec": {"suspend": False}})
    scene.await_condition("queued", "Admitted", "Admitted", PLURAL)
    scene.play("queued", "train")
    scene.await_phase("queued", "Succeeded", PLURAL)
