"""Evaluations in shards and in rounds on a real API server: the Jobs are completed and failed by the real controllers.

The operator is real; only the kubelet is a stand-in.
"""

import json

from flowstill_operator.jobs import SPEC_ANNOTATION
from flowstill_operator.ranks import INDEX_ANNOTATION
from tests.cluster.api_client import Document
from tests.cluster.scene import Scene, student
from tests.cluster.waiting import until
from tests.unit.operator.builders import gates, judged, records

STUDENT = student("a")
SELECTOR = "flowstill.dev/role=rollouts"


def start(scene: Scene, name: str, shards: int, **runtime: int) -> list[Document]:
    """The pods of all shards run, and the operator has seen it."""
    scene.start(name, STUDENT, target=False, shards=shards, runtime=runtime)
    scene.play(name, "parity")
    pods = scene.kubelet.shards(name, shards)
    for pod in pods:
        scene.kubelet.run(pod)
    scene.await_condition(name, "Evaluated", "Running")
    return pods


def task_of(pod: Document) -> Document:
    found: Document = json.loads(pod["metadata"]["annotations"][SPEC_ANNOTATION])
    return found


def test_a_lost_shard_is_run_again_and_not_counted(scene: Scene) -> None:
    pods = start(scene, "lost", 3, backoffLimit=0)
    assert [pod["metadata"]["annotations"][INDEX_ANNOTATION] for pod in pods] == ["0", "1", "2"]
    assert task_of(pods[0]) == task_of(pods[2])
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["command"][-1].endswith("/rollouts/$(JOB_COMPLETION_INDEX)")
        assert "JOB_COMPLETION_INDEX" in [variable["name"] for variable in container["env"]]
    scene.kubelet.end(pods[0], records())
    name = pods[1]["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": scene.namespace}}
    path = f"/api/v1/namespaces/{scene.namespace}/pods/{name}/eviction"
    scene.plane.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    scene.kubelet.end(pods[1], "", exit_code=143)
    (again,) = scene.kubelet.shards("lost", 1)
    assert again["metadata"]["annotations"][INDEX_ANNOTATION] == "1"
    scene.kubelet.run(again)
    said = "1 of 3 shards are done"
    until(lambda: scene.condition("lost", "Evaluated")[2] == said, said, lambda: scene.status("lost"))
    scene.kubelet.end(pods[2], records())
    scene.kubelet.end(again, records())
    judge = scene.kubelet.child("lost", "judge")
    assert task_of(judge)["rounds"] == [{"work": f"store://work/{scene_uid(scene, 'lost')}/rollouts", "shards": 3}]
    (job,) = scene.objects.list("jobs", SELECTOR)
    assert (job["status"]["succeeded"], job["status"]["completedIndexes"]) == (3, "0-2")
    assert not job["status"].get("failedIndexes")
    assert "rollouts" not in scene.status("lost")
    scene.kubelet.end(judge, judged(rollouts=records().rollouts))
    status = scene.await_phase("lost", "Completed")
    assert status["rollouts"] == records().rollouts.model_dump()


def scene_uid(scene: Scene, name: str) -> str:
    found = scene.objects.get("studentrollouts", name)
    assert found is not None
    uid: str = found["metadata"]["uid"]
    return uid


def test_a_shard_that_fails_too_often_fails_the_rollout_in_its_words(scene: Scene) -> None:
    pods = start(scene, "broken", 2, backoffLimit=1)
    error = records(outcome="Error", reason="FlowstillError", message="no simulator starts", rollouts=None)
    scene.kubelet.end(pods[1], error, exit_code=1)
    # The Job's controller waits some seconds before it tries a shard again.
    (again,) = scene.kubelet.shards("broken", 1)
    assert again["metadata"]["annotations"][INDEX_ANNOTATION] == "1"
    scene.kubelet.run(again)
    scene.kubelet.end(again, error, exit_code=1)
    status = scene.await_phase("broken", "Failed")
    assert status["message"] == "rollouts: shard 2 of 2: no simulator starts"
    assert scene.condition("broken", "Evaluated")[:2] == ("False", "FlowstillError")
    (job,) = scene.objects.list("jobs", SELECTOR)
    assert job["status"]["failedIndexes"] == "1"
    assert set(scene.jobs()) == {"broken-parity", "broken-rollouts"}


def test_undecided_gates_take_a_second_round(scene: Scene) -> None:
    scene.start("more", STUDENT, target=False, episodesPerTask=50, maxEpisodesPerTask=200)
    scene.play("more", "parity")
    scene.play("more", "rollouts")
    undecided = judged(None, wanted_episodes=100, evidence=None, gates=gates(P1="Inconclusive"))
    scene.play("more", "judge", undecided)
    second = scene.kubelet.child("more", "rollouts", number=2)
    assert {key: task_of(second)[key] for key in ("firstEpisode", "episodes")} == {"firstEpisode": 50, "episodes": 50}
    status = scene.status("more")
    assert (status["round"], status["episodes"], status["rounds"]) == (2, 100, [50, 50])
    assert "evidence" not in status
    scene.play("more", "rollouts", number=2)
    judge = scene.kubelet.child("more", "judge", number=2)
    assert [part["work"].rpartition("/")[2] for part in task_of(judge)["rounds"]] == ["rollouts", "rollouts-2"]
    scene.play("more", "judge", judged(), number=2)
    status = scene.await_phase("more", "Completed")
    assert (status["round"], status["gatesSummary"]) == (2, "9/9 Pass")
    assert set(scene.jobs()) == {f"more-{role}" for role in ("parity", "rollouts", "judge", "rollouts-2", "judge-2")}
    found = scene.events("more", "Completed Completed")
    assert found.index("MoreEpisodes Evaluated") > found.index("Evaluated Evaluated")
    assert len(scene.objects.list("pods", "flowstill.dev/owner-name=more")) == 5
