"""The test cluster itself: what it builds, what it runs, and what it leaves behind."""

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import binaries
from tests.cluster.harness.binaries import Tool
from tests.cluster.harness.cache import Report, content_key
from tests.cluster.harness.certificates import create_authority
from tests.cluster.harness.cluster import running_control_plane
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.errors import HarnessError
from tests.cluster.harness.images import Image
from tests.cluster.harness.node import Node
from tests.cluster.harness.processes import CommandError, run

_PAUSE = Tool("pause", binaries.TOOLS / "pause", ".")


def _job(image: str, code: str) -> dict[str, Any]:
    pod = {
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "main",
                "image": image,
                "imagePullPolicy": "Never",
                "command": ["python3", "-c", code],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    }
    spec = {"backoffLimit": 0, "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": spec}


def _apply_job(plane: ControlPlane, namespace: str, job: dict[str, Any]) -> None:
    job["metadata"]["namespace"] = namespace
    plane.apply(job)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWSTILL_CACHE", str(tmp_path))
    return tmp_path


def test_no_certificate_is_issued_over_another(tmp_path: Path) -> None:
    authority = create_authority(tmp_path)
    first = authority.issue("a", "/CN=one")
    before = first.certificate.read_bytes()
    with pytest.raises(HarnessError, match="another name"):
        authority.issue("a", "/CN=two")
    assert first.certificate.read_bytes() == before


def test_a_binary_is_built_once(own_cache: Path) -> None:
    lines: list[str] = []
    first = binaries.ensure((_PAUSE,), lines.append)["pause"]
    assert first.is_relative_to(own_cache)
    assert len(lines) == 2
    built = first.stat().st_mtime_ns
    assert binaries.ensure((_PAUSE,), lines.append)["pause"].stat().st_mtime_ns == built
    assert len(lines) == 2


def test_a_damaged_binary_is_built_again(own_cache: Path) -> None:
    path = binaries.ensure((_PAUSE,))["pause"]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert binaries.ensure((_PAUSE,))["pause"].read_bytes() == whole


def test_without_go_the_error_says_what_to_install(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(own_cache))
    with pytest.raises(HarnessError, match=r"install Go 1\.26"):
        binaries.ensure((_PAUSE,))


def test_a_failed_build_leaves_no_binary(own_cache: Path, tmp_path: Path) -> None:
    module = tmp_path / "broken"
    module.mkdir()
    (module / "go.mod").write_text("module broken\n\ngo 1.26.0\n")
    (module / "main.go").write_text("package main\n\nfunc main() { undefined() }\n")
    with pytest.raises(HarnessError, match="undefined: undefined"):
        binaries.ensure((Tool("broken", module, "."),))
    assert not list((own_cache / "bin").glob("*/broken"))


def test_the_control_plane_is_of_the_pinned_version(control_plane: ControlPlane) -> None:
    version = control_plane.kubectl("get", "--raw=/version")
    assert f'"gitVersion": "v{binaries.KUBERNETES_VERSION}"' in version


def test_jobs_get_pods_that_wait_for_a_node(control_plane: ControlPlane, namespace: str) -> None:
    _apply_job(control_plane, namespace, _job("localhost/any:1", "pass"))
    control_plane.kubectl(
        "wait", "--namespace", namespace, "--for=jsonpath={.status.active}=1", "job/job", "--timeout=60s"
    )
    pods = control_plane.get("pods", "--namespace", namespace)["items"]
    assert [pod["status"]["phase"] for pod in pods] == ["Pending"]


def test_a_privileged_pod_is_refused(control_plane: ControlPlane, namespace: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root", "namespace": namespace}}
    with pytest.raises(CommandError) as failure:
        control_plane.apply({**pod, "spec": {"containers": [{"name": "main", "image": "localhost/any:1"}]}})
    assert 'violates PodSecurity "restricted' in failure.value.stderr


def test_helm_reaches_the_cluster(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: probe\nversion: 0.1.0\n")
    (tmp_path / "templates" / "map.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: probe\ndata:\n  release: {{ .Release.Name }}\n"
    )
    control_plane.helm("install", "mine", str(tmp_path), "--namespace", namespace)
    assert control_plane.get("configmap", "probe", "--namespace", namespace)["data"] == {"release": "mine"}


def test_a_stopped_control_plane_leaves_nothing(report: Report) -> None:
    with running_control_plane(report) as plane:
        folder = plane.folder
        assert str(folder) in run(["ps", "-eww", "-o", "args"])
    assert not folder.exists()
    assert str(folder) not in run(["ps", "-eww", "-o", "args"])


@pytest.mark.containers
def test_nothing_holds_an_older_image(node: Node, tmp_path: Path) -> None:
    containerfile = tmp_path / "Containerfile"
    containerfile.write_text("FROM scratch\nCOPY number /number\n")

    def load(number: int) -> str:
        (tmp_path / "number").write_text(str(number))
        name = f"localhost/flowstill-numbered:{content_key(str(number))}"
        return node.load(node.images.ensure(Image(name, containerfile, tmp_path)))

    older = load(1)
    first = node.containerd.digests()[older]
    second = load(2)
    assert second in node.containerd.names()
    assert first not in node.containerd.digests().values()


@pytest.mark.containers
def test_a_restricted_job_completes_and_its_message_is_read_back(node: Node, node_namespace: str) -> None:
    plane, image = node.plane, node.load(node.images.base())
    _apply_job(plane, node_namespace, _job(image, "open('/dev/termination-log', 'w').write('hello')"))
    plane.kubectl("wait", "--namespace", node_namespace, "--for=condition=Complete", "job/job", "--timeout=90s")
    (pod,) = plane.get("pods", "--namespace", node_namespace)["items"]
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] == "hello"


@pytest.mark.containers
def test_a_pod_writes_to_a_claim_and_reaches_the_api(node: Node, node_namespace: str, tmp_path: Path) -> None:
    plane, image = node.plane, node.load(node.images.base())
    node.volume("store", tmp_path / "store", node_namespace)
    job = _job(
        image,
        "import socket; socket.create_connection(('10.96.0.1', 443), 10); open('/store/reached', 'w').write('yes')",
    )
    pod = job["spec"]["template"]["spec"]
    pod["volumes"] = [{"name": "store", "persistentVolumeClaim": {"claimName": "store"}}]
    pod["containers"][0]["volumeMounts"] = [{"name": "store", "mountPath": "/store"}]
    _apply_job(plane, node_namespace, job)
    plane.kubectl("wait", "--namespace", node_namespace, "--for=condition=Complete", "job/job", "--timeout=90s")
    assert (tmp_path / "store" / "reached").read_text() == "yes"
