"""Training on several nodes on a real API server: the Jobs are failed, completed and collected by the real controllers.

The operator is real; only the kubelet is a stand-in.
"""

import json
from typing import Any

from flowstill_operator.ranks import INDEX_ANNOTATION
from tests.cluster.api_client import Document
from tests.cluster.resources import distill_job
from tests.cluster.scene import Scene
from tests.cluster.waiting import until
from tests.unit.operator.builders import STUDENT, trained

PLURAL = "distilljobs"
HOLD = "test.flowstill.dev/hold"


def start(scene: Scene, name: str, **runtime: Any) -> None:
    scene.plane.apply(distill_job(name, scene.namespace, runtime={"nodes": 2, "gpusPerNode": 0, **runtime}))


def run(scene: Scene, name: str, attempt: int) -> list[Document]:
    """Both ranks of that attempt run, and the operator has seen it."""
    pods = scene.kubelet.ranks(name, attempt, 2)
    for pod in pods:
        scene.kubelet.run(pod)
    scene.await_condition(name, "Trained", "Running", PLURAL)
    return pods


def attempts(scene: Scene, name: str) -> list[str]:
    """Names of the Jobs, without the hash, and how each ended."""
    found = []
    for job in scene.objects.list("jobs", f"flowstill.dev/owner-name={name}"):
        ends = [c["type"] for c in job["status"].get("conditions", []) if c["type"] in ("Complete", "Failed")]
        found.append(" ".join([job["metadata"]["name"].rpartition("-")[0], *ends]))
    return sorted(found)


def test_ranks_have_names_and_the_service_knows_them(scene: Scene) -> None:
    start(scene, "named")
    pods = scene.kubelet.ranks("named", 1, 2)
    (service,) = scene.objects.list("services", "flowstill.dev/owner-name=named")
    (job,) = scene.objects.list("jobs")
    assert service["metadata"]["creationTimestamp"] <= job["metadata"]["creationTimestamp"]
    assert service["metadata"]["ownerReferences"] == job["metadata"]["ownerReferences"]
    assert service["spec"]["clusterIP"] == "None"
    name = job["metadata"]["name"]
    for index, pod in enumerate(pods):
        assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == (f"{name}-{index}", service["metadata"]["name"])
        (container,) = pod["spec"]["containers"]
        assert "JOB_COMPLETION_INDEX" in [variable["name"] for variable in container["env"]]
        assert container["command"][container["command"].index("--node-rank") + 1] == "$(JOB_COMPLETION_INDEX)"
        address = {"podIP": f"10.1.0.{index + 1}", "podIPs": [{"ip": f"10.1.0.{index + 1}"}]}
        scene.objects.patch("pods", pod["metadata"]["name"], {"status": address}, status=True)

    def known() -> list[tuple[str, str]]:
        slices = scene.objects.list("endpointslices", f"kubernetes.io/service-name={service['metadata']['name']}")
        endpoints = [endpoint for one in slices for endpoint in one["endpoints"] or []]
        return sorted((e.get("hostname", ""), e["addresses"][0]) for e in endpoints)

    # Though none of them is ready.
    wanted = [(f"{name}-0", "10.1.0.1"), (f"{name}-1", "10.1.0.2")]
    until(lambda: known() == wanted, "both ranks have a name", known)
    scene.plane.kubectl("delete", "dj", "named", "-n", scene.namespace, "--timeout=20s")
    until(
        lambda: not scene.objects.list("services") and not scene.objects.list("jobs"),
        "Service and Job are collected",
        lambda: scene.objects.list("services"),
    )


def test_a_failed_attempt_is_followed_by_another_of_all_ranks(scene: Scene) -> None:
    start(scene, "again", ttlSecondsAfterFinished=1)
    first = run(scene, "again", 1)
    held = first[0]["metadata"]["name"]
    scene.objects.patch("pods", held, {"metadata": {"finalizers": [HOLD, *first[0]["metadata"]["finalizers"]]}})
    scene.kubelet.end(first[1], "", exit_code=137)
    until(lambda: "deletionTimestamp" in scene.objects.get("pods", held)["metadata"], "rank 0 is told to end")
    # It saves, and is slow about it: nothing else may begin meanwhile.
    scene.await_condition("again", "Trained", "AttemptFailed", PLURAL)
    assert "waiting until all its pods have ended" in scene.condition("again", "Trained", PLURAL)[2]
    assert len(scene.objects.list("jobs")) == 1
    scene.kubelet.end(first[0], trained(outcome="Interrupted", reason="Interrupted", student=None), exit_code=143)
    until(lambda: "exit code 137" in scene.condition("again", "Trained", PLURAL)[2], "why it failed is said")
    message = scene.condition("again", "Trained", PLURAL)[2]
    assert "attempt 1 failed" in message
    assert scene.status("again", PLURAL)["attempts"] == 1
    scene.objects.patch("pods", held, {"metadata": {"finalizers": None}})
    second = run(scene, "again", 2)
    assert {pod["metadata"]["annotations"][INDEX_ANNOTATION] for pod in second} == {"0", "1"}
    assert not {pod["metadata"]["uid"] for pod in first} & {pod["metadata"]["uid"] for pod in second}
    assert attempts(scene, "again") == ["again-train-1 Failed", "again-train-2"]
    assert scene.status("again", PLURAL)["attempts"] == 2
    # Rank 0 speaks, though another ends later.
    scene.kubelet.end(second[0], trained())
    scene.kubelet.end(second[1], "not for anybody")
    status = scene.await_phase("again", "Succeeded", PLURAL)
    assert status["student"] == STUDENT.model_dump()
    assert (status["attempts"], status["disruptions"]) == (2, 0)
    # Both Jobs have been there until the end, and have a second to live.
    until(lambda: attempts(scene, "again") == [], "the Jobs are collected", lambda: attempts(scene, "again"))
    assert scene.status("again", PLURAL) == status
    assert len(scene.objects.list("services", "flowstill.dev/owner-name=again")) == 1


def test_an_evicted_rank_costs_no_attempt_and_the_last_one_does(scene: Scene) -> None:
    start(scene, "moved", backoffLimit=0)
    pods = run(scene, "moved", 1)
    name = pods[1]["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": scene.namespace}}
    path = f"/api/v1/namespaces/{scene.namespace}/pods/{name}/eviction"
    scene.plane.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    scene.kubelet.end(pods[1], "", exit_code=143)
    second = run(scene, "moved", 2)
    status = scene.status("moved", PLURAL)
    assert (status["attempts"], status["disruptions"]) == (2, 1)
    scene.kubelet.end(second[0], trained(outcome="Error", reason="RuntimeError", student=None, message="x"), 1)
    status = scene.await_phase("moved", "Failed", PLURAL)
    assert status["message"] == "attempt 2 failed, and spec.runtime.backoffLimit is 0: x"
    assert attempts(scene, "moved") == ["moved-train-1 Failed", "moved-train-2 Failed"]


def test_a_users_error_of_any_rank_is_final_and_its_words_are_found(scene: Scene) -> None:
    start(scene, "wrong")
    pods = run(scene, "wrong", 1)
    # Rank 0 is still at it when the Job is failed, and its pod goes before anybody reads its words.
    scene.kubelet.end(pods[1], "", exit_code=65)
    scene.await_condition("wrong", "Trained", "ReadingResult", PLURAL)
    reader = scene.kubelet.child("wrong", "train", reader=True)
    words = "spec.teacher.uri: store://t has no manifest.json"
    scene.kubelet.run(reader)
    scene.kubelet.end(reader, trained(outcome="UserError", reason="NotAnArtifact", student=None, message=words))
    status = scene.await_phase("wrong", "Failed", PLURAL)
    assert status["message"] == words
    assert status["attempts"] == 1
    assert attempts(scene, "wrong") == ["wrong-train-1 Failed", "wrong-train-read Complete"]
