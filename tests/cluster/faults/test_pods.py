"""What children leave behind when their pod, its node or its words are lost."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from flowstill.api.children import Result
from flowstill_operator.children import is_finished
from tests.cluster.faults import history
from tests.cluster.faults.proxy import FaultProxy
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.resources import distill_job
from tests.cluster.scene import Scene, student, text
from tests.cluster.waiting import until
from tests.unit.operator.builders import parity, trained

STUDENT = student("a")
CUT = 4096
"""Bytes of a termination message that a kubelet keeps."""


def read_back(scene: Scene, name: str, role: str, result: Result, folder: Path) -> None:
    """The reader's own program, on a folder such as the child leaves behind, says what its pod would say."""
    pod = scene.kubelet.child(name, role, reader=True)
    *program, _ = pod["spec"]["containers"][0]["command"]
    (folder / "result.json").write_text(result.model_dump_json(by_alias=True, exclude_none=True))
    message = folder / "message"
    environment = {**os.environ, "FLOWSTILL_TERMINATION_LOG": str(message)}
    subprocess.run([*program, str(folder)], env=environment, check=True)
    scene.kubelet.run(pod)
    scene.kubelet.end(pod, message.read_text())


def cut(result: Result) -> str:
    """What a kubelet would keep of a message that is too long: no JSON."""
    said = json.loads(result.model_dump_json(by_alias=True, exclude_none=True))
    whole = json.dumps({**said, "message": "x" * CUT})[:CUT]
    with pytest.raises(json.JSONDecodeError):
        json.loads(whole)
    return whole


def test_a_termination_message_that_was_cut_is_read_from_the_folder(
    scene: Scene, proxy: FaultProxy, tmp_path: Path
) -> None:
    scene.start("cut", STUDENT, target=False)
    scene.play("cut", "parity", cut(parity()))
    scene.await_condition("cut", "Validated", "ReadingResult")
    read_back(scene, "cut", "parity", parity(), tmp_path)
    scene.await_condition("cut", "Validated", "ParityPassed")
    until(lambda: "cut-rollouts" in scene.jobs(), "it goes on", scene.jobs)
    history.check(proxy.calls, scene.namespace)
    made = history.created_jobs(proxy.calls, scene.namespace)
    assert made == {"cut-parity": 1, "cut-parity-read": 1, "cut-rollouts": 1}


def test_what_neither_a_message_nor_a_folder_says_is_a_failure_in_words(scene: Scene) -> None:
    scene.start("mute", STUDENT, target=False)
    scene.play("mute", "parity", cut(parity()))
    pod = scene.kubelet.child("mute", "parity", reader=True)
    scene.kubelet.run(pod)
    scene.kubelet.end(pod, cut(parity()))
    status = scene.await_phase("mute", "Failed")
    words = "the child succeeded, but neither its termination message nor its result.json could be read"
    assert words in status["message"]
    assert scene.condition("mute", "Validated")[:2] == ("False", "ResultUnreadable")


def test_a_node_that_is_lost_with_a_completed_pod_on_it(
    scene: Scene, proxy: FaultProxy, operator: OperatorProcess, tmp_path: Path
) -> None:
    """The pod ended well and its Job is complete; before the operator looks, the pod is collected with its node."""
    scene.plane.apply(distill_job("node", scene.namespace))
    pod = scene.kubelet.child("node", "train")
    scene.kubelet.run(pod)
    scene.await_condition("node", "Trained", "Running", "distilljobs")
    operator.kill()
    scene.kubelet.end(pod, trained())
    until(lambda: is_finished(scene.objects.list("jobs")[0]), "the Job is complete", lambda: scene.objects.list("jobs"))
    scene.objects.delete("pods", pod["metadata"]["name"])
    until(lambda: not scene.objects.list("pods"), "its pod is gone", lambda: scene.objects.list("pods"))
    operator.start()
    scene.await_condition("node", "Trained", "ReadingResult", "distilljobs")
    read_back(scene, "node", "train", trained(), tmp_path)
    status = scene.await_phase("node", "Succeeded", "distilljobs")
    assert f"{status['student']['uri']}@{status['student']['digest']}" == text(STUDENT)
    assert history.created_jobs(proxy.calls, scene.namespace) == {"node-train": 1, "node-train-read": 1}


def test_a_node_that_is_lost_with_a_running_pod_costs_no_second_job(scene: Scene, proxy: FaultProxy) -> None:
    """The Job's own controller makes another pod; the operator only tells."""
    scene.plane.apply(distill_job("lost", scene.namespace))
    first = scene.kubelet.child("lost", "train")
    scene.kubelet.run(first)
    scene.await_condition("lost", "Trained", "Running", "distilljobs")
    scene.objects.delete("pods", first["metadata"]["name"])
    second = scene.kubelet.child("lost", "train")
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    scene.kubelet.run(second)
    scene.kubelet.end(second, trained())
    scene.await_phase("lost", "Succeeded", "distilljobs")
    assert history.created_jobs(proxy.calls, scene.namespace) == {"lost-train": 1}
