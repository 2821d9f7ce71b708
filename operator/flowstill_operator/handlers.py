"""The kopf bindings: they hear, remember, and put keys into the queue. Nothing is decided here."""

from collections.abc import Callable, Collection
from typing import Any

import kopf

from flowstill.api import GROUP, VERSION
from flowstill_operator.children import Document
from flowstill_operator.clusters.heard import Heard, HeardKind, Name
from flowstill_operator.clusters.kubernetes import PAGE_SIZE
from flowstill_operator.engine.index import Dependents
from flowstill_operator.engine.loop import Key, ResourceKind
from flowstill_operator.engine.queue import KeyQueue
from flowstill_operator.jobs import OWNER_KIND, OWNER_NAME
from flowstill_operator.quiet import NoComparison
from flowstill_operator.rollout.promote import TARGET_LABEL

IDLE_SECONDS = 1.0
"""How long kopf keeps a task, and what it heard last, for each object that was heard of."""
PLURALS: dict[ResourceKind, str] = {"DistillJob": "distilljobs", "StudentRollout": "studentrollouts"}


class Ear:
    """Turns news into keys. News that is not newer than what is known changes nothing, and wakes nobody."""

    def __init__(
        self, queue: KeyQueue[Key], dependents: Dependents, heard: Heard, listened: Callable[[], None]
    ) -> None:
        self.queue = queue
        self.dependents = dependents
        self.heard = heard
        self.listened = listened

    def news(self, kind: HeardKind, thing: Document, *, deleted: bool = False) -> None:
        """An object was seen, changed or deleted."""
        if self.heard.note(kind, thing, deleted=deleted):
            self._look(kind, thing["metadata"], None if deleted else thing)

    def listed(self, kind: HeardKind, namespace: str, names: Collection[Name], version: int) -> None:
        """A list of that version had these and no others: what was not in it was deleted unheard.

        ``namespace``: of the list; empty for the whole cluster.
        """
        for name in self.heard.keep_only(kind, namespace, names, version):
            if kind in (*PLURALS, "Deployment"):
                self._look(kind, {"namespace": name[0], "name": name[1]}, None)

    def _look(self, kind: HeardKind, metadata: Document, thing: Document | None) -> None:
        """Queue the resource itself, or that of a child, or those that have the Deployment as their target."""
        if kind in PLURALS:
            key = Key(kind, metadata["namespace"], metadata["name"])
            if thing is None:
                # One of them may wait until this rollout has watched its student.
                for other in self.dependents.beside(key):
                    self.queue.add(other)
            self.dependents.note(key, thing)
            self.queue.add(key)
            return
        if kind == "Deployment":
            for key in self.dependents.of(kind, metadata["namespace"], metadata["name"]):
                self.queue.add(key)
            return
        self.child(metadata)

    def child(self, metadata: Document) -> None:
        """There is news of a child: look at its resource."""
        labels = metadata.get("labels") or {}
        owner, name = labels.get(OWNER_KIND), labels.get(OWNER_NAME)
        if owner in PLURALS and name:
            self.queue.add(Key(owner, metadata["namespace"], name))


def bind(ear: Ear) -> kopf.OperatorRegistry:
    """The registry of all watches."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry, id="login")(_login)

    def hear(act: Callable[[Document, bool], None], *resource: str, **filters: Any) -> None:
        async def on_event(event: Any, **_: Any) -> None:
            ear.listened()
            act(event["object"], event["type"] == "DELETED")
            _strip(event["object"])

        kopf.on.event(*resource, registry=registry, id=f"hear-{resource[-1]}", **filters)(on_event)

    def news(kind: HeardKind) -> Callable[[Document, bool], None]:
        return lambda thing, deleted: ear.news(kind, thing, deleted=deleted)

    hear(news("DistillJob"), GROUP, VERSION, PLURALS["DistillJob"])
    hear(news("StudentRollout"), GROUP, VERSION, PLURALS["StudentRollout"])
    hear(news("Job"), "batch", "v1", "jobs", labels={OWNER_KIND: kopf.PRESENT})
    hear(news("Pod"), "", "v1", "pods", labels={OWNER_KIND: kopf.PRESENT})
    hear(news("Deployment"), "apps", "v1", "deployments", labels={TARGET_LABEL: "true"})
    return registry


def _strip(thing: Document) -> None:
    """Let go of what was heard: kopf holds each object some seconds longer, and there may be thousands at once."""
    for key in ("spec", "status"):
        thing.pop(key, None)
    thing["metadata"].pop("managedFields", None)


async def _login(**context: Any) -> kopf.ConnectionInfo | None:
    """As the official client does it: the pod's service account, or outside a cluster the user's kubeconfig.

    kopf's own way needs the cluster's DNS to find the API server; this one takes the address that every pod is given.
    """
    info: kopf.ConnectionInfo | None = kopf.login_via_client(**context)
    return info


def settings(silence_seconds: float) -> kopf.OperatorSettings:
    """Settings that make kopf an ear only: it posts nothing, writes nothing, scans nothing.

    ``silence_seconds``: after which a watch is begun anew.
    """
    result = kopf.OperatorSettings()
    result.posting.enabled = False
    result.scanning.disabled = True
    # A watch that the server closes regularly cannot stay silent unnoticed.
    result.watching.inactivity_timeout = silence_seconds
    result.watching.server_timeout = 300
    result.watching.client_timeout = 330
    result.watching.connect_timeout = 30
    result.watching.chunk_size = PAGE_SIZE
    result.queueing.idle_timeout = IDLE_SECONDS
    # Filtered on the server, so that a cluster's other pods cost nothing.
    for plural in ("jobs", "pods"):
        result.watching.label_selectors[plural] = OWNER_KIND
    result.watching.label_selectors["deployments"] = f"{TARGET_LABEL}=true"
    result.persistence.diffbase_storage = NoComparison()
    result.persistence.finalizer = f"{GROUP}/never-set"
    result.peering.standalone = True
    return result
