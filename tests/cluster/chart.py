"""The chart as tests use it: rendered documents, releases on a control plane, and the operator as a release runs it."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.processes import Background, start, wait_until

REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "helm/flowstill"
CRDS = ("distilljobs.flowstill.dev", "studentrollouts.flowstill.dev")
Values = dict[str, Any]


def leaves(values: Values, prefix: str = "") -> dict[str, Any]:
    """Every value by its dotted path; an empty map is a value."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def nested(paths: dict[str, Any]) -> Values:
    """Values from dotted paths."""
    result: Values = {}
    for path, value in paths.items():
        *parents, last = path.split(".")
        parent = result
        for name in parents:
            parent = parent.setdefault(name, {})
        parent[last] = value
    return result


@dataclass(frozen=True)
class Documents:
    """What the chart renders to."""

    all: list[dict[str, Any]]

    @classmethod
    def read(cls, text: str) -> "Documents":
        """The documents of a YAML text."""
        return cls([document for document in yaml.safe_load_all(text) if document])

    def of(self, kind: str) -> list[dict[str, Any]]:
        """All of a kind."""
        return [document for document in self.all if document["kind"] == kind]

    def operator(self) -> dict[str, Any]:
        """The Deployment, of which there is one."""
        (deployment,) = self.of("Deployment")
        return deployment

    def pod(self) -> dict[str, Any]:
        """The operator's pod template."""
        template: dict[str, Any] = self.operator()["spec"]["template"]
        return template

    def container(self) -> dict[str, Any]:
        """The operator's container, of which there is one."""
        container: dict[str, Any]
        (container,) = self.pod()["spec"]["containers"]
        return container

    def environment(self) -> dict[str, str]:
        """The operator's environment."""
        return {entry["name"]: entry["value"] for entry in self.container()["env"]}


Helm = Callable[..., str]
"""Runs helm, with ``values`` as its input."""
Render = Callable[[Values], Documents]
"""Renders the chart from dotted paths of values."""


@dataclass(frozen=True)
class Release:
    """A release of the chart in one namespace."""

    plane: ControlPlane
    namespace: str
    name: str = "fs"

    @property
    def fullname(self) -> str:
        """What its objects are called."""
        return f"{self.name}-flowstill"

    def install(self, values: Values | None = None, chart: Path = CHART) -> str:
        """Install or upgrade with exactly these values, and return what helm says."""
        command = ["upgrade", "--install", "--reset-values", self.name, str(chart), "--namespace", self.namespace]
        return self.plane.helm(*command, "--values", "-", stdin=json.dumps(values or {}))

    def uninstall(self) -> str:
        """Remove it, and return what helm says."""
        return self.plane.helm("uninstall", self.name, "--namespace", self.namespace, "--wait")

    def manifest(self) -> Documents:
        """What is installed."""
        return Documents.read(self.plane.helm("get", "manifest", self.name, "--namespace", self.namespace))

    def client_config(self, folder: Path) -> Path:
        """A kubeconfig with a token of the operator's account, and nothing else of the administrator's."""
        token = self.plane.kubectl("create", "token", self.fullname, "--namespace", self.namespace).strip()
        config = json.loads(self.plane.kubeconfig.read_text())
        config["users"] = [{"name": "test", "user": {"token": token}}]
        path = folder / f"{self.fullname}.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    @contextmanager
    def operator(self, folder: Path) -> Iterator[Background]:
        """Run the operator as the pod would: the environment of the Deployment, the account's token, no flags."""
        environment = {**os.environ, **self.manifest().environment(), "KUBECONFIG": str(self.client_config(folder))}
        environment["FLOWSTILL_HEALTH_PORT"] = "0"
        command = [str(Path(sys.executable).parent / "flowstill-operator")]
        process = start("operator", command, folder, environment)
        try:
            yield process
        finally:
            # Not stopped but killed, which is harmless and takes no seconds.
            process.process.kill()
            process.process.wait()
            print(process.log.read_text()[-4000:])


def status_of(plane: ControlPlane, namespace: str, name: str = "a") -> dict[str, Any]:
    """The status of a DistillJob."""
    status: dict[str, Any] = plane.get("distilljob", name, "--namespace", namespace).get("status") or {}
    return status


def wait_for_job(plane: ControlPlane, namespace: str, operator: Background, name: str = "a") -> None:
    """Wait until the DistillJob has a child and a status that says so."""

    def done() -> bool:
        conditions = {c["type"]: c["status"] for c in status_of(plane, namespace, name).get("conditions") or []}
        selector = f"flowstill.dev/owner-name={name}"
        jobs = plane.get("jobs", "--namespace", namespace, "--selector", selector)["items"]
        return conditions.get("Validated") == "True" and len(jobs) == 1

    wait_until(f"child and status of {namespace}/{name}", done, 60.0, (operator,))


def remove_crds(plane: ControlPlane) -> None:
    """Remove the CRDs and so every resource, whoever installed them."""
    plane.kubectl("delete", "crd", *CRDS, "--ignore-not-found", "--wait")
