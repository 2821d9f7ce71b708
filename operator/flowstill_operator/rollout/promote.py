"""Promotion: what a Deployment serves, and the one conditional write that changes it.

The entry of ``FLOWSTILL_POLICY`` and the annotations that record it travel in one server-side apply by field
manager ``flowstill``, conditional on the UID and resourceVersion that were decided on (without the UID, an apply to
a deleted Deployment is an attempt to create one). It is never forced: what somebody else owns stays theirs. An apply
takes away what an earlier one had and it has not, so each carries the whole record:

==================  ====================  =======================  =====================
annotation          the student is put    it became available      it is taken back
==================  ====================  =======================  =====================
``policy``          the student           the student              the previous, or none
``previous``        what was served       what was served          none
``last-completed``  as it was             the student              as it was [1]_
``rollout``         the rollout's UID     the rollout's UID        none
``watched-until``   the longest soak      none                     none
==================  ====================  =======================  =====================

.. [1] But for the student itself, which had completed and was taken back when it was promoted once more.

With a window to be watched in, "it became available" is the end of the window, and ``watched-until`` says when
that is at the latest: until then no other rollout replaces the student.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flowstill.api import GROUP
from flowstill.api.fields import StatusRef
from flowstill.api.studentrollout import DeploymentTarget
from flowstill.api.uris import REFERENCE
from flowstill_operator.children import Document
from flowstill_operator.steps import TargetChange, parse_timestamp

TARGET_LABEL = f"{GROUP}/target"
POLICY = f"{GROUP}/policy"
PREVIOUS = f"{GROUP}/previous"
LAST_COMPLETED = f"{GROUP}/last-completed"
ROLLOUT = f"{GROUP}/rollout"
WATCHED_UNTIL = f"{GROUP}/watched-until"


@dataclass(frozen=True)
class Target:
    """A Deployment as a rollout sees it.

    ``problem`` says why nothing may be written to it; ``managers``: who owns the entry of the policy.
    """

    problem: str | None = None
    container: str = ""
    served: str = ""
    policy: str = ""
    previous: str = ""
    last_completed: str = ""
    rollout: str = ""
    watched_until: str = ""
    selector: Mapping[str, str] = field(default_factory=dict)
    managers: tuple[str, ...] = ()
    uid: str = ""
    resource_version: str = ""
    available: bool = False
    availability: str = ""

    @property
    def says(self) -> str:
        """What it serves, in words."""
        return self.served or "no policy of ours"

    @property
    def is_ours(self) -> bool:
        """Whether what is served was put by a rollout, and by nobody else since."""
        return self.rollout != "" and self.policy == self.served

    def before(self, policy: str) -> str:
        """What is served where ``policy`` is not; where it is already, what it replaced."""
        return self.previous if self.is_ours and self.served == policy else self.served

    def proven(self, policy: str) -> str:
        """What a roll-back from ``policy`` puts: what is served, unless a rollout put it and it has not completed."""
        proven = self.last_completed if self.is_ours else self.served
        return proven if proven != policy else self.before(policy)

    @property
    def soaking_until(self) -> datetime | None:
        """When the window of what is served is over at the latest; None when nothing of ours is being watched."""
        if not self.watched_until or self.policy != self.served:
            return None
        try:
            return parse_timestamp(self.watched_until)
        except ValueError:
            # Somebody else wrote it.
            return None


def read_target(deployment: Document | None, wanted: DeploymentTarget) -> Target:
    """What the Deployment serves, and whether it is available in its newest version."""
    field = "spec.target.deployment"
    if deployment is None:
        where = f"{field}.name: there is no Deployment {wanted.name} in this namespace"
        return Target(problem=f'{where}; create it with the label {TARGET_LABEL}: "true"')
    metadata = deployment["metadata"]
    if (metadata.get("labels") or {}).get(TARGET_LABEL) != "true":
        fix = f"allow it by: kubectl label deployment {wanted.name} {TARGET_LABEL}=true"
        return Target(problem=f'{field}.name: Deployment {wanted.name} is not labelled {TARGET_LABEL}: "true"; {fix}')
    containers = deployment["spec"]["template"]["spec"]["containers"]
    names = [container["name"] for container in containers]
    listed = f"Deployment {wanted.name} has containers {', '.join(names)}"
    if wanted.container is None and len(names) > 1:
        return Target(problem=f"{field}.container: {listed}; create a rollout with a new name that says which")
    name = wanted.container or names[0]
    container = next((c for c in containers if c["name"] == name), None)
    if container is None:
        return Target(problem=f"{field}.container: {listed}, and no container {name}; create a rollout with a new name")
    annotations = metadata.get("annotations") or {}
    available, availability = _availability(deployment)
    return Target(
        container=name,
        served=_served(container, wanted.env),
        policy=annotations.get(POLICY, ""),
        previous=annotations.get(PREVIOUS, ""),
        last_completed=annotations.get(LAST_COMPLETED, ""),
        rollout=annotations.get(ROLLOUT, ""),
        watched_until=annotations.get(WATCHED_UNTIL, ""),
        managers=_managers(metadata.get("managedFields") or [], name, wanted.env),
        selector=(deployment["spec"].get("selector") or {}).get("matchLabels") or {},
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        available=available,
        availability=availability,
    )


def reference(ref: StatusRef) -> str:
    """The text of ``FLOWSTILL_POLICY``."""
    return f"{ref.uri}@{ref.digest}"


def parse_reference(text: str) -> StatusRef | None:
    """``URI@sha256:HEX``, or None when it is anything else."""
    match = re.match(REFERENCE, text)
    return StatusRef(uri=match["uri"], digest=match["digest"]) if match else None


def put(target: Target, wanted: DeploymentTarget, student: StatusRef, uid: str, until: str = "") -> TargetChange:
    """Serve the student, and record what was served before, who did it, and until when it is watched."""
    policy, completed = reference(student), target.last_completed
    return _change(target, wanted, policy, previous=target.before(policy), completed=completed, uid=uid, until=until)


def mark_completed(
    target: Target, wanted: DeploymentTarget, student: StatusRef, previous: str, uid: str
) -> TargetChange:
    """Record that the student, which is served, became available."""
    policy = reference(student)
    return _change(target, wanted, policy, previous=previous, completed=policy, uid=uid)


def put_back(target: Target, wanted: DeploymentTarget, previous: str) -> TargetChange:
    """Serve again what was proven before: that entry, or none where there was none."""
    completed = target.last_completed if target.last_completed != target.served else ""
    return _change(target, wanted, previous, completed=completed)


def _change(
    target: Target,
    wanted: DeploymentTarget,
    policy: str,
    *,
    previous: str | None = None,
    completed: str = "",
    uid: str = "",
    until: str = "",
) -> TargetChange:
    """The write that leaves exactly these as ours; an empty ``previous`` says that there was no entry."""
    record = {POLICY: policy or None, PREVIOUS: previous, LAST_COMPLETED: completed or None}
    record |= {ROLLOUT: uid or None, WATCHED_UNTIL: until or None}
    annotations = tuple((key, value) for key, value in record.items() if value is not None)
    return TargetChange(
        deployment=wanted.name,
        container=target.container,
        env=wanted.env,
        value=policy or None,
        annotations=annotations,
        uid=target.uid,
        resource_version=target.resource_version,
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
            "uid": change.uid,
            "resourceVersion": change.resource_version,
            "annotations": dict(change.annotations),
        },
    }
    if env:
        patch["spec"] = {"template": {"spec": {"containers": [{"name": change.container, "env": env}]}}}
    return patch


def _managers(fields: Sequence[Document], container: str, env: str) -> tuple[str, ...]:
    """The field managers that own the value of that container's entry; others may still own its name."""
    path = ("f:spec", "f:template", "f:spec", "f:containers", _key(container), "f:env", _key(env))
    found = []
    for entry in fields:
        node: Any = entry.get("fieldsV1") or {}
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and ("f:value" in node or "f:valueFrom" in node):
            found.append(str(entry.get("manager", "")))
    return tuple(dict.fromkeys(found))


def _key(name: str) -> str:
    """How managed fields name an item of a list by its name."""
    return f'k:{{"name":{json.dumps(name)}}}'


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
