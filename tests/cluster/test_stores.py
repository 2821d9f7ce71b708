"""Buckets and the hub on a real API server: what a resource may name, and how its children get their credentials."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.operator_process import OperatorProcess, installed_crds
from tests.cluster.resources import distill_job
from tests.cluster.scene import Scene
from tests.cluster.stand_in_kubelet import stand_in

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SECRET = "a-secret-that-nobody-may-see"
FLAGS = (
    "--store=s3://models/flowstill",
    "--store-work=pvc://scratch",
    "--s3-endpoint=https://minio.storage:9000",
    "--s3-secret=store-keys",
    "--hub=true",
    "--hub-secret=hub-token",
)


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    with installed_crds(control_plane), stand_in(control_plane):
        yield control_plane


@pytest.fixture
def operator(plane: ControlPlane, tmp_path: Path) -> Iterator[OperatorProcess]:
    process = OperatorProcess(plane, tmp_path, "operator", *FLAGS)
    process.start()
    try:
        process.await_ready()
        yield process
    finally:
        process.kill()


@pytest.fixture
def scene(plane: ControlPlane, namespace: str, operator: OperatorProcess) -> Scene:
    return Scene(plane, namespace)


def env(pod: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in pod["spec"]["containers"][0]["env"]}


def test_a_child_gets_the_secret_of_its_namespace_and_nobody_else_hears_it(
    scene: Scene, operator: OperatorProcess
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET}
    metadata = {"name": "store-keys", "namespace": scene.namespace}
    scene.plane.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys})
    teacher = {"uri": f"hf://org/pi0@{COMMIT}"}
    scene.plane.apply(distill_job(namespace=scene.namespace, teacher=teacher, dataset={"uri": "s3://models/data"}))
    pod = scene.kubelet.child("a", "train")
    told = env(pod)
    assert told["AWS_SECRET_ACCESS_KEY"] == {"secretKeyRef": {"name": "store-keys", "key": "AWS_SECRET_ACCESS_KEY"}}
    assert told["HF_TOKEN"] == {"secretKeyRef": {"name": "hub-token", "key": "HF_TOKEN"}}
    assert told["FLOWSTILL_STORE"] == "s3://models/flowstill"
    assert pod["spec"]["containers"][0]["command"][-1].startswith("/var/run/flowstill/volumes/scratch/")

    words = 'secret "hub-token" not found'
    scene.kubelet.hold(pod, "CreateContainerConfigError", words)
    message = scene.await_condition("a", "Trained", "CreateContainerConfigError", "distilljobs")
    assert words in message

    scene.kubelet.run(pod)
    scene.await_condition("a", "Trained", "Running", "distilljobs")
    everything = scene.plane.kubectl("get", "distilljobs,jobs,pods,events", "-n", scene.namespace, "-o", "json")
    for text in (everything, operator.log()):
        assert SECRET not in text


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"teacher": {"uri": "s3://others/x"}}, "UriRefused", "children may use the buckets models"),
        ({"teacher": {"uri": "s3://models/../others"}}, "UriRefused", "must not contain '..'"),
        (
            {"runtime": {"env": [{"name": "AWS_ENDPOINT_URL_S3", "value": "http://evil"}]}},
            "EnvRefused",
            "spec.runtime.env: AWS_ENDPOINT_URL_S3 says where stores are",
        ),
    ],
)
def test_what_leads_elsewhere_starts_nothing(scene: Scene, changes: dict[str, Any], reason: str, words: str) -> None:
    scene.plane.apply(distill_job(namespace=scene.namespace, **changes))
    scene.await_phase("a", "Failed", "distilljobs")
    assert words in scene.await_condition("a", "Validated", reason, "distilljobs")
    assert scene.jobs() == {}
