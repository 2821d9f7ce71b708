"""Suspend and resume on a real API server: Jobs and pods are deleted by the real controllers.

The operator is real; only the kubelet is a stand-in.
"""

from typing import Any

from flowstill_operator.jobs import SPEC_ANNOTATION
from flowstill_operator.ranks import INDEX_ANNOTATION
from tests.cluster.api_client import Document
from tests.cluster.resources import distill_job
from tests.cluster.scene import Scene, student
from tests.cluster.waiting import until
from tests.unit.operator.builders import judged, records

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


def test_an_evaluation_in_shards_is_suspended_and_goes_on_in_the_same_folders(scene: Scene) -> None:
    scene.start("wide", student("a"), target=False, shards=2)
    scene.play("wide", "parity")
    before = scene.kubelet.shards("wide", 2)
    for pod in before:
        scene.kubelet.run(pod)
    scene.await_condition("wide", "Evaluated", "Running")
    scene.kubelet.end(before[0], records())
    until(lambda: "1 of 2 shards" in scene.condition("wide", "Evaluated")[2], "a shard is done")
    scene.objects.patch("studentrollouts", "wide", {"spec": {"suspend": True}})
    scene.await_phase("wide", "Suspended")
    assert [name for name in scene.jobs() if "rollouts" in name] == []
    assert scene.objects.list("pods", "flowstill.dev/owner-name=wide,flowstill.dev/role=rollouts") == []
    scene.objects.patch("studentrollouts", "wide", {"spec": {"suspend": False}})
    after = scene.kubelet.shards("wide", 2)
    assert [places(pod) for pod in after] == [places(pod) for pod in before], "a shard that was done finds its episodes"
    for pod in after:
        scene.kubelet.run(pod)
        scene.kubelet.end(pod, records())
    scene.play("wide", "judge", judged(rollouts=records().rollouts))
    scene.await_phase("wide", "Completed")
    assert "Resumed Suspended" in scene.events("wide", "Resumed Suspended")


def places(pod: Document) -> tuple[object, ...]:
    """What a shard does, and where its files are."""
    (container,) = pod["spec"]["containers"]
    metadata = pod["metadata"]["annotations"]
    return metadata[SPEC_ANNOTATION], metadata[INDEX_ANNOTATION], container["command"], container["volumeMounts"]


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
