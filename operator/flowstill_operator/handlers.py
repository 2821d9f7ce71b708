"""The kopf bindings: they hear, and put keys into the queue. Nothing is decided here."""

from collections.abc import Callable
from functools import partial
from typing import Any

import kopf

from flowstill.api import GROUP, VERSION
from flowstill_operator.children import Document
from flowstill_operator.clusters.kubernetes import KubernetesCluster
from flowstill_operator.engine.index import Dependents
from flowstill_operator.engine.loop import Key, ResourceKind
from flowstill_operator.engine.queue import KeyQueue
from flowstill_operator.jobs import OWNER_KIND, OWNER_NAME
from flowstill_operator.rollout.promote import TARGET_LABEL

PLURALS: dict[ResourceKind, str] = {"DistillJob": "distilljobs", "StudentRollout": "studentrollouts"}


class Ear:
    """Turns watch events into keys."""

    def __init__(
        self, queue: KeyQueue[Key], dependents: Dependents, cluster: KubernetesCluster, heard: Callable[[], None]
    ) -> None:
        self.queue = queue
        self.dependents = dependents
        self.cluster = cluster
        self.heard = heard

    def resource(self, kind: ResourceKind, event: Document) -> None:
        """A DistillJob or StudentRollout was seen, changed or deleted."""
        thing = event["object"]
        metadata = thing["metadata"]
        key = Key(kind, metadata["namespace"], metadata["name"])
        self.dependents.note(key, None if event["type"] == "DELETED" else thing)
        self.queue.add(key)

    def job(self, event: Document) -> None:
        """A Job of ours changed."""
        labels = event["object"]["metadata"].get("labels") or {}
        if OWNER_NAME in labels:
            self.cluster.note_job(event["object"], deleted=event["type"] == "DELETED")
        self.child(event)

    def child(self, event: Document) -> None:
        """A Job of ours, or a pod of one, changed."""
        metadata = event["object"]["metadata"]
        labels = metadata.get("labels") or {}
        kind, name = labels.get(OWNER_KIND), labels.get(OWNER_NAME)
        if kind in PLURALS and name:
            self.queue.add(Key(kind, metadata["namespace"], name))

    def pod(self, event: Document) -> None:
        """A pod of a Job of ours changed."""
        self.cluster.note_pod(event["object"], deleted=event["type"] == "DELETED")
        self.child(event)

    def deployment(self, event: Document) -> None:
        """A Deployment that may be a target changed."""
        self.cluster.note_deployment(event["object"], deleted=event["type"] == "DELETED")
        metadata = event["object"]["metadata"]
        for key in self.dependents.of("Deployment", metadata["namespace"], metadata["name"]):
            self.queue.add(key)


def bind(ear: Ear) -> kopf.OperatorRegistry:
    """The registry of all watches."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry, id="login")(_login)

    def hear(act: Callable[[Document], None], *resource: str, **filters: Any) -> None:
        async def on_event(event: Any, **_: Any) -> None:
            ear.heard()
            act(event)

        kopf.on.event(*resource, registry=registry, id=f"hear-{resource[-1]}", **filters)(on_event)

    hear(partial(ear.resource, "DistillJob"), GROUP, VERSION, PLURALS["DistillJob"])
    hear(partial(ear.resource, "StudentRollout"), GROUP, VERSION, PLURALS["StudentRollout"])
    hear(ear.job, "batch", "v1", "jobs", labels={OWNER_KIND: kopf.PRESENT})
    hear(ear.pod, "", "v1", "pods", labels={OWNER_KIND: kopf.PRESENT})
    hear(ear.deployment, "apps", "v1", "deployments", labels={TARGET_LABEL: "true"})
    return registry


async def _login(**context: Any) -> kopf.ConnectionInfo | None:
    """As the official client does it: the pod's service account, or outside a cluster the user's kubeconfig.

    kopf's own way needs the cluster's DNS to find the API server; this one takes the address that every pod is given.
    """
    info: kopf.ConnectionInfo | None = kopf.login_via_client(**context)
    return info


def settings() -> kopf.OperatorSettings:
    """Settings that make kopf an ear only: it posts nothing, writes nothing, scans nothing."""
    result = kopf.OperatorSettings()
    result.posting.enabled = False
    result.scanning.disabled = True
    # A watch that the server closes regularly cannot stay silent unnoticed.
    result.watching.server_timeout = 300
    result.watching.client_timeout = 330
    result.watching.connect_timeout = 30
    # Filtered on the server, so that a cluster's other pods cost nothing.
    for plural in ("jobs", "pods"):
        result.watching.label_selectors[plural] = OWNER_KIND
    result.watching.label_selectors["deployments"] = f"{TARGET_LABEL}=true"
    result.persistence.finalizer = f"{GROUP}/never-set"
    result.peering.standalone = True
    return result
