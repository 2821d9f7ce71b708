"""Releases of the chart on a real API server as they come, change and go."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.chart import (
    CHART,
    CRDS,
    REPOSITORY,
    Release,
    nested,
    remove_crds,
    status_of,
    wait_for_job,
)
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.processes import CommandError, wait_until
from tests.cluster.operator_process import await_crds
from tests.cluster.resources import distill_job


@pytest.fixture
def release(control_plane: ControlPlane, namespace: str) -> Iterator[Release]:
    """A release that is not installed yet; whatever it leaves is removed."""
    remove_crds(control_plane)
    found = Release(control_plane, namespace)
    yield found
    control_plane.helm("uninstall", found.name, "--namespace", namespace, "--ignore-not-found")
    remove_crds(control_plane)


@pytest.fixture
def others(control_plane: ControlPlane) -> Iterator[tuple[str, str]]:
    """Two namespaces besides the release's."""
    names = control_plane.create_namespace("one"), control_plane.create_namespace("two")
    yield names
    control_plane.kubectl("delete", "namespace", *names, "--ignore-not-found", "--wait=false")


def exists(plane: ControlPlane, *what: str) -> bool:
    """Whether the object is there, and stays."""
    found = plane.kubectl(
        "get", *what, "--ignore-not-found", "-o", "jsonpath={.metadata.name},{.metadata.deletionTimestamp}"
    )
    return found.endswith(",")


def test_an_upgrade_changes_the_crds_and_keeps_the_resources(release: Release, tmp_path: Path) -> None:
    plane = release.plane
    release.install()
    await_crds(plane)
    plane.apply(distill_job(namespace=release.namespace))
    newer = tmp_path / "flowstill"
    shutil.copytree(CHART, newer)
    changed = newer / "files/crds/distilljobs.yaml"
    crd = yaml.safe_load(changed.read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    schema["teacher"]["properties"]["colour"] = {"type": "string", "maxLength": 10}
    changed.write_text(yaml.safe_dump(crd, sort_keys=False))
    selector = release.manifest().operator()["spec"]["selector"]
    plane.helm("upgrade", release.name, str(newer), "--namespace", release.namespace, "--reset-then-reuse-values")
    assert "colour" in plane.kubectl("get", "crd", CRDS[0], "-o", "json")
    assert exists(plane, "distilljob", "a", "-n", release.namespace)
    assert release.manifest().operator()["spec"]["selector"] == selector


def test_crds_and_resources_outlive_the_release_unless_told_otherwise(release: Release) -> None:
    plane = release.plane
    release.install()
    await_crds(plane)
    plane.apply(distill_job(namespace=release.namespace))
    release.uninstall()
    for name in CRDS:
        assert exists(plane, "crd", name)
    assert exists(plane, "distilljob", "a", "-n", release.namespace)
    assert not exists(plane, "deployment", f"{release.fullname}-operator", "-n", release.namespace)
    assert not exists(plane, "clusterrole", f"{release.fullname}-operator")

    said = release.install(nested({"crds.keep": False}))
    assert "Uninstalling removes the CustomResourceDefinitions" in said
    assert exists(plane, "distilljob", "a", "-n", release.namespace)
    release.uninstall()
    for name in CRDS:
        wait_until(f"{name} gone", lambda name=name: not plane.kubectl("get", "crd", name, "--ignore-not-found"), 30.0)


def test_the_stores_claim_is_bound_and_outlives_the_release(release: Release) -> None:
    plane = release.plane
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"store-{release.namespace}"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Delete",
            "hostPath": {"path": "/nonexistent"},
            "claimRef": {"namespace": release.namespace, "name": "flowstill-store"},
        },
    }
    plane.apply(volume)
    wanted = {"create": True, "size": "1Gi", "storageClassName": "-"}
    values = {"crds": {"enabled": False}, "store": {"claim": wanted}}
    claim = ("pvc", "flowstill-store", "-n", release.namespace)
    said = release.install(values)
    assert f"kubectl -n {release.namespace} get pvc flowstill-store" in said
    wait_until("bound claim", lambda: plane.get(*claim)["status"].get("phase") == "Bound", 60.0)
    release.uninstall()
    assert exists(plane, *claim)
    release.install(values)
    assert plane.get(*claim)["status"]["phase"] == "Bound"
    release.install({**values, "store": {"claim": {"create": False}}})
    assert exists(plane, *claim)
    plane.kubectl("delete", "pv", volume["metadata"]["name"], "--wait=false")


def test_a_namespaced_release_works_there_and_nowhere_else(
    release: Release, others: tuple[str, str], tmp_path: Path
) -> None:
    plane, (here, elsewhere) = release.plane, others
    said = release.install(nested({"operator.watchNamespaces": [here]}))
    assert f"works in namespaces {here}." in said
    await_crds(plane)
    assert not exists(plane, "clusterrole", f"{release.fullname}-operator")
    account = f"system:serviceaccount:{release.namespace}:{release.fullname}"
    for namespace, able in ((here, "yes"), (elsewhere, "no"), (release.namespace, "no")):
        try:
            answer = plane.kubectl("auth", "can-i", "list", "distilljobs", f"--as={account}", "-n", namespace)
        except CommandError as error:
            answer = error.stdout
        assert answer.strip() == able
    plane.apply(distill_job(namespace=elsewhere), distill_job(namespace=here))
    with release.operator(tmp_path) as operator:
        wait_for_job(plane, here, operator)
        plane.apply(distill_job("b", namespace=elsewhere), distill_job("b", namespace=here))
        wait_for_job(plane, here, operator, "b")
        log = operator.log.read_text()
    assert f"watching {here}\n" in log
    assert "WARNING" not in log
    assert status_of(plane, elsewhere) == status_of(plane, elsewhere, "b") == {}
    assert plane.get("jobs", "-n", elsewhere)["items"] == []


def test_a_second_release_needs_another_name_for_its_policy(release: Release, others: tuple[str, str]) -> None:
    plane, (one, two) = release.plane, others
    release.install(nested({"operator.watchNamespaces": [one]}))
    second = nested({"operator.watchNamespaces": [two], "crds.enabled": False, "rbac.aggregate": False})
    with pytest.raises(CommandError, match=f'"{release.fullname}-actions"'):
        Release(plane, two, release.name).install(second)
    other = Release(plane, two, "other")
    other.install(second)
    for name, namespace in ((release.fullname, one), (other.fullname, two)):
        binding = plane.get("validatingadmissionpolicybinding", f"{name}-actions")["spec"]
        assert binding["matchResources"]["namespaceSelector"]["matchExpressions"][0]["values"] == [namespace]
    other.uninstall()


def test_a_namespace_that_is_gone_does_not_stop_the_others(
    release: Release, others: tuple[str, str], tmp_path: Path
) -> None:
    plane, (gone, here) = release.plane, others
    values = nested({"operator.watchNamespaces": [gone, here]})
    release.install(values)
    await_crds(plane)
    plane.kubectl("delete", "namespace", gone)
    plane.apply(distill_job(namespace=here))
    with release.operator(tmp_path) as operator:
        wait_for_job(plane, here, operator)
        assert f"{gone} cannot be watched" in operator.log.read_text()
        plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": gone}})
        release.install(values)
        # Its pod would start again, and then hear that namespace too.
        assert operator.process.wait(60.0) == 0
        assert f"{gone} can be watched now" in operator.log.read_text()


def test_an_operator_waits_for_crds_that_come_later(release: Release, tmp_path: Path) -> None:
    plane = release.plane
    said = release.install(nested({"crds.enabled": False}))
    assert "installed no CustomResourceDefinitions" in said

    def waits() -> bool:
        return "are not installed" in operator.log.read_text()

    with release.operator(tmp_path) as operator:
        wait_until("an operator that waits", waits, 60.0, (operator,))
        operator.process.terminate()
        assert operator.process.wait(30.0) == 0
    operator.log.unlink()
    with release.operator(tmp_path) as operator:
        wait_until("an operator that waits", waits, 60.0, (operator,))
        plane.kubectl("apply", "-f", str(REPOSITORY / "crds"))
        await_crds(plane)
        plane.apply(distill_job(namespace=release.namespace))
        wait_for_job(plane, release.namespace, operator)
