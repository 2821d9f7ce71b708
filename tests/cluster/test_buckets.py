"""A student between buckets, with its dataset on a hub: real pods, real servers, keys and token from a Secret."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flowstill.api.fields import ArtifactRef
from flowstill.artifacts.stores import fetch
from flowstill_operator import cli
from tests.cluster.chart import Documents, Release, nested, remove_crds
from tests.cluster.harness.network import NODE_ADDRESS
from tests.cluster.harness.node import Node
from tests.cluster.harness.processes import CommandError
from tests.cluster.operator_process import await_crds
from tests.cluster.resources import distill_job
from tests.cluster.waiting import until
from tests.support.hub_server import TOKEN, Hub, hub_server
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, s3_server

pytestmark = [pytest.mark.containers, pytest.mark.long, pytest.mark.timeout(2700)]

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
STORE, TEACHER = "s3://models/flowstill", "s3://teachers/reach-around"
DATASET = "datasets/lab/reach-around"
KEYS, WORK = "store-keys", "scratch"
SMALL: dict[str, Any] = {
    "teacher": {"uri": TEACHER},
    "method": {"targetSteps": 2, "mixRatio": 0.5, "bankSize": 0, "refine": {"steps": 0}},
    "training": {"steps": 10, "batchSize": 8, "warmupSteps": 2, "precision": "fp32"},
    "runtime": {"gpusPerNode": 0},
    "validation": {"after": True},
}


@dataclass(frozen=True)
class Robots:
    """A namespace with keys and a claim to work on, and a release whose store is a bucket.

    Attributes:
        server: of both buckets.
        hub: which has the dataset, for those with the token only.
        work: the folder behind the claim.
    """

    release: Release
    namespace: str
    server: S3Server
    hub: Hub
    work: Path

    def kubectl(self, *arguments: str) -> str:
        """In the namespace."""
        return self.release.plane.kubectl(*arguments, "--namespace", self.namespace)

    def put_keys(self, secret_key: str) -> None:
        """Write the Secret."""
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": secret_key, "HF_TOKEN": TOKEN}
        metadata = {"name": KEYS, "namespace": self.namespace}
        self.release.plane.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys})

    def distil(self, name: str) -> dict[str, Any]:
        """A DistillJob's status at its end."""
        plane = self.release.plane
        dataset = {"uri": f"hf://{DATASET}@{self.hub.head(DATASET)}"}
        plane.apply(distill_job(name, self.namespace, **SMALL, dataset=dataset))

        def status() -> dict[str, Any]:
            found: dict[str, Any] = plane.get("dj", name, "--namespace", self.namespace).get("status", {})
            return found

        until(lambda: status().get("phase") in ("Succeeded", "Failed"), f"{name} ends", self.look, limit=900.0)
        return status()

    def pods(self, name: str) -> list[dict[str, Any]]:
        """Of that DistillJob's children."""
        select = ("--selector", f"flowstill.dev/owner-name={name}")
        found: list[dict[str, Any]] = self.release.plane.get("pods", *select, "--namespace", self.namespace)["items"]
        return found

    def log(self, pod: dict[str, Any]) -> str:
        """What it wrote."""
        return self.kubectl("logs", pod["metadata"]["name"])

    def look(self) -> str:
        """What a person would look at when it does not go on."""
        said = [self.kubectl("get", "dj,jobs,pods", "-o", "wide"), self.kubectl("get", "events")]
        with suppress(CommandError):
            said.append(self.kubectl("logs", "--selector", "flowstill.dev/owner-kind", "--tail=40", "--prefix"))
        return "\n".join(said)


@pytest.fixture(scope="module")
def robots(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robots]:
    plane, work = node.plane, tmp_path_factory.mktemp("work")
    system, namespace = plane.create_namespace("system"), plane.create_namespace("robots")
    node.volume(WORK, work, namespace)
    with (
        s3_server(address=NODE_ADDRESS) as server,
        hub_server(NODE_ADDRESS) as hub,
        pytest.MonkeyPatch.context() as patch,
    ):
        files = (path for path in (QUICKSTART / "dataset").rglob("*") if path.is_file())
        hub.commit(DATASET, {str(path.relative_to(QUICKSTART / "dataset")): path.read_bytes() for path in files})
        for bucket in ("models", "teachers"):
            server.bucket(bucket)
        for name, value in (server.environment() | {"FLOWSTILL_STORE": STORE}).items():
            patch.setenv(name, value)
        assert cli.main(["store", "push", str(QUICKSTART / "teacher"), TEACHER]) == 0
        # The command says in this process where its own store is.
        patch.setenv("FLOWSTILL_STORE", STORE)
        values = {
            "store.uri": STORE,
            "store.work": f"pvc://{WORK}",
            "store.s3.endpoint": server.url,
            "store.s3.secret": KEYS,
            "store.s3.buckets": ["teachers"],
            "store.hub.enabled": True,
            "store.hub.endpoint": hub.url,
            "store.hub.secret": KEYS,
            "networkPolicy.enabled": True,
            "networkPolicy.childNamespaces": [namespace],
            "imagePullPolicy": "Never",
        }
        for part in ("operator", "trainer", "evaluator"):
            repository, _, tag = node.load(node.images.project(part)).rpartition(":")
            values |= {f"{part}.image.repository": repository, f"{part}.image.tag": tag}
        found = Robots(Release(plane, system), namespace, server, hub, work)
        found.put_keys(SECRET_KEY)
        try:
            found.release.install(nested(values))
            await_crds(plane)
            deployment = f"deployment/{found.release.fullname}-operator"
            plane.kubectl("rollout", "status", deployment, "--namespace", system, "--timeout=180s")
            yield found
        finally:
            found.release.uninstall()
            remove_crds(plane)


def test_a_student_is_distilled_from_a_bucket_and_a_hub_into_another_bucket(robots: Robots) -> None:
    status = robots.distil("bucket")
    assert status["phase"] == "Succeeded", robots.look()
    student = status["student"]
    place = robots.server.root / "models" / "flowstill" / "students" / student["digest"].replace(":", "-")
    assert (place / "manifest.json").is_file()
    manifest = json.loads((fetch(ArtifactRef(**student)) / "manifest.json").read_text())
    assert manifest["kind"] == "Student"
    assert json.dumps(manifest).count(TEACHER) == 1
    assert not list(robots.work.glob("**/students/sha256-*/manifest.json")), "the claim is for work"

    pods = robots.pods("bucket")
    assert {pod["metadata"]["labels"]["flowstill.dev/role"] for pod in pods} == {"train", "parity"}
    assert {pod["status"]["phase"] for pod in pods} == {"Succeeded"}
    logs = [robots.log(pod) for pod in pods]
    everything = robots.kubectl("get", "dj,jobs,pods,events", "-o", "json")
    written = "".join([everything, *logs, *(path.read_text() for path in robots.work.rglob("*.json"))])
    assert SECRET_KEY not in written
    assert TOKEN not in written
    assert {token for _, _, token in robots.hub.asked} == {f"Bearer {TOKEN}"}
    assert robots.hub.large_asked, "large files come from another server"
    assert {token for _, token in robots.hub.large_asked} == {None}


def test_its_network_policy_is_of_these_pods_and_lets_them_reach_the_server(robots: Robots) -> None:
    """The pods are those of the test before; this node's network enforces none."""
    policies = Documents(robots.release.plane.get("networkpolicies", "--namespace", robots.namespace)["items"])
    (policy,) = policies.of("NetworkPolicy")
    (selected,) = policy["spec"]["podSelector"]["matchExpressions"]
    assert selected["operator"] == "Exists"
    assert all(selected["key"] in pod["metadata"]["labels"] for pod in robots.pods("bucket"))
    open_ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", [])}
    assert open_ports == {53, *(int(url.rpartition(":")[2]) for url in (robots.server.url, robots.hub.url))}


def test_keys_that_the_server_refuses_fail_it_after_one_pod_with_the_fix(robots: Robots) -> None:
    robots.put_keys("another-secret-0001")
    try:
        status = robots.distil("refused")
    finally:
        robots.put_keys(SECRET_KEY)
    assert status["phase"] == "Failed", robots.look()
    assert "refuses these credentials" in status["message"]
    assert "store.s3.secret" in status["message"]
    assert len(robots.pods("refused")) == 1
