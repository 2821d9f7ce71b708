"""``flowstill distill --runtime kubernetes`` against a real API server, as a user with a kubeconfig gives it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.harness.controlplane import ControlPlane

CRDS = Path(__file__).parents[2] / "crds"
FLOWSTILL = str(Path(sys.executable).parent / "flowstill")
INPUTS = ("store://teachers/reach-around", "--dataset", "pvc://robots/datasets/reach-around")
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    control_plane.kubectl("apply", "-f", str(CRDS))
    control_plane.kubectl("wait", "--for=condition=Established", "-f", str(CRDS), "--timeout=60s")
    yield control_plane
    control_plane.kubectl("delete", "-f", str(CRDS))


@pytest.fixture
def distill(plane: ControlPlane, tmp_path: Path) -> Command:
    """The installed command in a folder of its own; ``config`` replaces the administrator's kubeconfig."""

    def give(*flags: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = plane.environment() | ({"KUBECONFIG": str(config)} if config else {})
        command = [FLOWSTILL, "distill", *INPUTS, "--runtime", "kubernetes", *flags]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return give


def test_the_job_is_applied_and_kubectl_repeats_it(
    plane: ControlPlane, namespace: str, distill: Command, tmp_path: Path
) -> None:
    said = distill("--namespace", namespace, "--steps", "20", "--validate-after", "--gpus", "0")
    assert said.returncode == 0, said.stderr
    assert f"kubectl --namespace {namespace} get dj reach-around --watch" in said.stdout
    assert plane.server in said.stdout
    found = plane.get("dj", "reach-around", "-n", namespace, "--show-managed-fields")
    managers = [(entry["manager"], entry["operation"]) for entry in found["metadata"]["managedFields"]]
    assert managers == [("flowstill-cli", "Apply")]
    spec = found["spec"]
    assert (spec["teacher"]["uri"], spec["dataset"]["uri"]) == (INPUTS[0], INPUTS[2])
    assert (spec["training"]["steps"], spec["training"]["warmupSteps"]) == (20, 2)
    assert (spec["validation"], spec["runtime"]["gpusPerNode"]) == ({"after": True}, 0)

    # Once more, by the command, by kubectl's client and by its server-side apply: nothing changes.
    manifest = tmp_path / "reach-around.yaml"
    assert yaml.safe_load(manifest.read_text())["metadata"]["namespace"] == namespace
    assert distill("--namespace", namespace, "--steps", "20", "--validate-after", "--gpus", "0").returncode == 0
    plane.kubectl("apply", "--server-side", "-f", str(manifest))
    plane.kubectl("apply", "-f", str(manifest))
    after = plane.get("dj", "reach-around", "-n", namespace)
    assert (after["metadata"]["uid"], after["metadata"]["generation"]) == (found["metadata"]["uid"], 1)

    said = distill("--namespace", namespace, "--steps", "30")
    assert said.returncode == 2
    assert 'conflicts with "kubectl"' in said.stderr
    assert "somebody else manages it; give another --name" in said.stderr


def test_another_spec_needs_another_name(plane: ControlPlane, namespace: str, distill: Command) -> None:
    assert distill("--namespace", namespace, "--steps", "20").returncode == 0
    said = distill("--namespace", namespace, "--steps", "30")
    assert said.returncode == 2
    assert "spec.training is immutable" in said.stderr
    assert said.stderr.rstrip().endswith("give another --name")
    assert plane.get("dj", "reach-around", "-n", namespace)["spec"]["training"]["steps"] == 20
    assert distill("--namespace", namespace, "--steps", "30", "--name", "second").returncode == 0
    assert plane.get("dj", "second", "-n", namespace)["spec"]["training"]["steps"] == 30


def test_the_namespace_is_that_of_the_kubeconfigs_context(
    plane: ControlPlane, namespace: str, distill: Command, tmp_path: Path
) -> None:
    value = yaml.safe_load(plane.kubeconfig.read_text())
    [context] = [one for one in value["contexts"] if one["name"] == value["current-context"]]
    context["context"]["namespace"] = namespace
    config = tmp_path / "kubeconfig"
    config.write_text(yaml.safe_dump(value))
    said = distill("--name", "here", config=config)
    assert said.returncode == 0, said.stderr
    assert plane.get("dj", "here", "-n", namespace)["metadata"]["name"] == "here"


def test_what_the_cluster_refuses_is_said_with_the_fix(
    plane: ControlPlane, namespace: str, distill: Command, tmp_path: Path
) -> None:
    said = distill("--namespace", "nowhere")
    assert said.returncode == 2
    assert 'namespaces "nowhere" not found' in said.stderr
    assert "correct --namespace" in said.stderr

    said = distill("--namespace", namespace, config=plane.client_config("stranger", "/CN=stranger"))
    assert said.returncode == 2
    assert 'User "stranger" cannot patch resource "distilljobs"' in said.stderr
    assert "your account may not do that there" in said.stderr

    value = yaml.safe_load(plane.kubeconfig.read_text())
    value["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    config = tmp_path / "dead"
    config.write_text(yaml.safe_dump(value))
    said = distill("--namespace", namespace, config=config)
    assert said.returncode == 2
    assert "https://127.0.0.1:1 cannot be reached" in said.stderr
    assert "KUBECONFIG" in said.stderr
    assert plane.get("dj", "-n", namespace)["items"] == []


def test_a_cluster_without_the_crds_says_what_to_install(plane: ControlPlane, namespace: str, distill: Command) -> None:
    plane.kubectl("delete", "-f", str(CRDS))
    try:
        said = distill("--namespace", namespace)
    finally:
        plane.kubectl("apply", "-f", str(CRDS))
        plane.kubectl("wait", "--for=condition=Established", "-f", str(CRDS), "--timeout=60s")
    assert said.returncode == 2
    assert "install Flowstill's CRDs (its chart does)" in said.stderr
