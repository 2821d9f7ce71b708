"""Promotion: what a Deployment serves, and the one conditional write that changes it.

The entry of ``FLOWSTILL_POLICY`` and the annotations that record it travel in one server-side apply by field
manager ``flowstill``, conditional on the resourceVersion that was decided on. It is never forced: what somebody
else owns stays theirs.
"""

import re
from dataclasses import dataclass

from flowstill.api import GROUP
from flowstill.api.fields import StatusRef
from flowstill.api.studentrollout import DeploymentTarget
from flowstill_operator.children import Document
from flowstill_operator.steps import TargetChange

TARGET_LABEL = f"{GROUP}/target"
POLICY = f"{GROUP}/policy"
PREVIOUS = f"{GROUP}/previous"
ROLLOUT = f"{GROUP}/rollout"
REFERENCE = re.compile(r"^(?P<uri>(file|pvc|store)://[^\s?#@]+)@(?P<digest>sha256:[0-9a-f]{64})$")


@dataclass(frozen=True)
class Target:
    """A Deployment as a rollout sees it. ``problem`` says why nothing may be written to it."""

    problem: str | None = None
    container: str = ""
    served: str = ""
    recorded: str = ""
    rollout: str = ""
    resource_version: str = ""
    available: bool = False
    availability: str = ""


def read_target(deployment: Document | None, wanted: DeploymentTarget) -> Target:
    """What the Deployment serves, and whether it is available in its newest version."""
    if deployment is None:
        return Target(problem=f"there is no Deployment {wanted.name} in this namespace")
    metadata = deployment["metadata"]
    if (metadata.get("labels") or {}).get(TARGET_LABEL) != "true":
        return Target(problem=f'Deployment {wanted.name} is not labelled {TARGET_LABEL}: "true"')
    containers = deployment["spec"]["template"]["spec"]["containers"]
    names = [container["name"] for container in containers]
    if wanted.container is None and len(names) > 1:
        listed = ", ".join(names)
        return Target(problem=f"Deployment {wanted.name} has containers {listed}: set spec.target.deployment.container")
    name = wanted.container or names[0]
    container = next((c for c in containers if c["name"] == name), None)
    if container is None:
        return Target(problem=f"Deployment {wanted.name} has no container {name}: see spec.target.deployment.container")
    annotations = metadata.get("annotations") or {}
    available, availability = _availability(deployment)
    return Target(
        container=name,
        served=_served(container, wanted.env),
        recorded=annotations.get(POLICY, ""),
        rollout=annotations.get(ROLLOUT, ""),
        resource_version=metadata.get("resourceVersion", ""),
        available=available,
        availability=availability,
    )


def reference(ref: StatusRef) -> str:
    """The text of ``FLOWSTILL_POLICY``."""
    return f"{ref.uri}@{ref.digest}"


def parse_reference(text: str) -> StatusRef | None:
    """``URI@sha256:HEX``, or None when it is anything else."""
    match = REFERENCE.match(text)
    return StatusRef(uri=match["uri"], digest=match["digest"]) if match else None


def put(target: Target, wanted: DeploymentTarget, student: StatusRef, uid: str) -> TargetChange:
    """Serve the student, and record what was served before and who did it."""
    policy = reference(student)
    annotations = ((POLICY, policy), (PREVIOUS, target.served), (ROLLOUT, uid))
    return TargetChange(wanted.name, target.container, wanted.env, policy, annotations, target.resource_version)


def put_back(target: Target, wanted: DeploymentTarget, previous: str) -> TargetChange:
    """Serve again what was served before: the previous entry, or none where there was none."""
    annotations = ((POLICY, previous),) if previous else ()
    return TargetChange(
        wanted.name, target.container, wanted.env, previous or None, annotations, target.resource_version
    )


def deployment_patch(change: TargetChange, namespace: str) -> Document:
    """The applied configuration: all that field manager ``flowstill`` owns of this Deployment."""
    env = [{"name": change.env, "value": change.value}] if change.value is not None else []
    patch: Document = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": change.deployment,
            "namespace": namespace,
            "resourceVersion": change.resource_version,
            "annotations": dict(change.annotations),
        },
    }
    if env:
        patch["spec"] = {"template": {"spec": {"containers": [{"name": change.container, "env": env}]}}}
    return patch


def _served(container: Document, env: str) -> str:
    entry: Document = next((e for e in container.get("env") or [] if e.get("name") == env), {})
    if "valueFrom" in entry:
        return "(valueFrom)"
    return entry.get("value") or ""


def _availability(deployment: Document) -> tuple[bool, str]:
    """The rule of ``kubectl rollout status``: seen, all replicas new, none old, all available."""
    status = deployment.get("status") or {}
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return False, "the new version was not seen by the Deployment controller yet"
    replicas = deployment["spec"].get("replicas", 1)
    updated, total = status.get("updatedReplicas", 0), status.get("replicas", 0)
    available = status.get("availableReplicas", 0)
    text = f"{updated} of {replicas} replicas are new, {available} available, {max(0, total - updated)} old"
    return updated >= replicas and total <= updated and available >= updated, text
