"""What lists and watches have said, kept so that a look at a resource asks the API server for nothing.

News of one object may come twice, late, or overtaken by newer news: the greatest resourceVersion counts, also that of a
deletion. Objects are kept as JSON text, a fraction of what they take when read, and without what no decision needs.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Literal, NamedTuple, get_args

from flowstill.api import API_VERSION
from flowstill.api.children import ProgressReport
from flowstill_operator.children import Document, is_finished
from flowstill_operator.clusters.interface import JOB_NAME_LABEL, Kind, Sample
from flowstill_operator.jobs import OWNER_KIND, OWNER_NAME
from flowstill_operator.ranks import INDEX_ANNOTATION

HeardKind = Literal["DistillJob", "StudentRollout", "Deployment", "Job", "Pod"]
JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
MAX_GONE = 10_000
"""Deletions that are remembered against late news, of each kind."""
POD_LABELS = (OWNER_KIND, OWNER_NAME, JOB_NAME_LABEL, JOB_UID_LABEL)
METADATA = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp")

type Name = tuple[str, str]
"""Namespace and name."""


class Unheard(Exception):
    """It was not heard of, or hearsay is not enough: the API server has to be asked."""


class Entry(NamedTuple):
    """One object; ``told``: by a list or a watch, not only by the answer to a request."""

    version: int
    text: bytes
    told: bool


class Heard:
    """Every object that was heard of."""

    def __init__(self) -> None:
        self._known: dict[HeardKind, dict[Name, Entry]] = {kind: {} for kind in get_args(HeardKind)}
        self._gone: dict[HeardKind, OrderedDict[Name, int]] = {kind: OrderedDict() for kind in get_args(HeardKind)}
        self._members: dict[tuple[str, ...], set[str]] = {}
        """Names of pods by namespace and Job, of Jobs by namespace and owner."""

    def note(self, kind: HeardKind, document: Document, *, deleted: bool = False, told: bool = True) -> bool:
        """Take it in; whether it is news.

        ``told``: by a list or a watch. The answer to a request is known at once, and still news when a watch says it:
        whoever asked need not be the one whom it concerns.
        """
        metadata = document["metadata"]
        name, version = (metadata["namespace"], metadata["name"]), int(metadata["resourceVersion"])
        known, gone = self._known[kind].get(name), self._gone[kind].get(name, 0)
        if known is not None and version == known.version and not deleted:
            self._known[kind][name] = known._replace(told=known.told or told)
            return told and not known.told
        if version <= max(gone, known.version if known else 0):
            return False
        if deleted:
            self._drop(kind, name, version)
            return True
        text = json.dumps(SLIM[kind](document), separators=(",", ":")).encode()
        self._known[kind][name] = Entry(version, text, told)
        group = _group(kind, metadata)
        if group is not None:
            self._members.setdefault(group, set()).add(name[1])
        return True

    def keep_only(self, kind: HeardKind, namespace: str, names: Collection[Name], version: int) -> list[Name]:
        """A list of that version had these names and no others; returns those that are gone.

        ``namespace``: of the list; empty for the whole cluster.
        """
        gone = [
            name
            for name, entry in self._known[kind].items()
            if name not in names and entry.version <= version and namespace in ("", name[0])
        ]
        for name in gone:
            self._drop(kind, name, version)
        return gone

    def absent(self, kind: HeardKind, namespace: str, name: str) -> None:
        """The API server says that it is not there."""
        known = self._known[kind].get((namespace, name))
        if known is not None:
            self._drop(kind, (namespace, name), known.version)

    def find(self, kind: HeardKind, namespace: str, name: str) -> Document | None:
        """One object as it was heard of last."""
        entry = self._known[kind].get((namespace, name))
        found: Document | None = None if entry is None else json.loads(entry.text)
        return found

    def with_uid(self, kind: HeardKind, namespace: str, uid: str) -> Document | None:
        """The object of that kind with that UID."""
        for name, entry in self._known[kind].items():
            if name[0] == namespace and uid.encode() in entry.text:
                found: Document = json.loads(entry.text)
                if found["metadata"]["uid"] == uid:
                    return found
        return None

    def pods(self, job: Document) -> list[Document]:
        """The pods of that very Job."""
        namespace, name, uid = (job["metadata"][key] for key in ("namespace", "name", "uid"))
        pods = self._group("Pod", namespace, (namespace, name))
        # A resumed resource has a Job of the same name again, and pods of the first may still be known.
        return [pod for pod in pods if pod["metadata"]["labels"].get(JOB_UID_LABEL) == uid]

    def jobs(self, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """The Jobs of the resource with those labels."""
        return self._group("Job", namespace, (namespace, labels[OWNER_KIND], labels[OWNER_NAME]))

    def all_pods(self) -> Iterable[tuple[Name, bytes]]:
        """Every pod, as JSON text."""
        return ((name, entry.text) for name, entry in self._known["Pod"].items())

    def _group(self, kind: HeardKind, namespace: str, group: tuple[str, ...]) -> list[Document]:
        found = (self.find(kind, namespace, name) for name in sorted(self._members.get(group, ())))
        return [document for document in found if document is not None]

    def _drop(self, kind: HeardKind, name: Name, version: int) -> None:
        document = self.find(kind, *name)
        self._known[kind].pop(name, None)
        gone = self._gone[kind]
        gone[name] = version
        gone.move_to_end(name)
        if len(gone) > MAX_GONE:
            gone.popitem(last=False)
        group = None if document is None else _group(kind, document["metadata"])
        if group is not None:
            self._members[group].discard(name[1])
            if not self._members[group]:
                del self._members[group]


class Hearsay:
    """The reading half of a cluster, by what was heard alone.

    It never says that something is not there: that is asked for. Nor does it speak of a Job that has ended, whose pods
    decide.
    """

    def __init__(self, heard: Heard, progress: Mapping[Name, ProgressReport]) -> None:
        self._heard = heard
        self._progress = progress

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        """One object. Raises Unheard."""
        if kind == "Deployment" or kind == "Service":
            raise Unheard(kind)
        found = self._heard.find(kind, namespace, name)
        if found is None:
            raise Unheard(name)
        return found

    async def pods(self, job: Document) -> list[Document]:
        """The pods of a Job that has not ended. Raises Unheard."""
        if is_finished(job):
            raise Unheard(job["metadata"]["name"])
        return self._heard.pods(job)

    async def find_pods(self, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """Raises Unheard: whoever asks wants to know that there are no others."""
        raise Unheard(str(labels))

    async def find_jobs(self, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """Raises Unheard: whoever asks wants to know that there are no others."""
        raise Unheard(str(labels))

    async def known_jobs(self, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """The Jobs of the resource with those labels."""
        return self._heard.jobs(namespace, labels)

    async def known_deployment(self, namespace: str, name: str) -> Document | None:
        """That Deployment."""
        return self._heard.find("Deployment", namespace, name)

    async def find_rollout(self, namespace: str, uid: str) -> Document | None:
        """Raises Unheard: whoever asks decides on it."""
        raise Unheard(uid)

    async def measure(self, query: str) -> Sample:
        """Raises Unheard: a measurement is a request."""
        raise Unheard(query)

    async def progress(self, pod: Document) -> ProgressReport | None:
        """What the pod said last, unless that was long ago."""
        return self._progress.get((pod["metadata"]["namespace"], pod["metadata"]["name"]))


def _group(kind: HeardKind, metadata: Document) -> tuple[str, ...] | None:
    labels = metadata.get("labels") or {}
    if kind == "Pod" and JOB_NAME_LABEL in labels:
        return metadata["namespace"], labels[JOB_NAME_LABEL]
    if kind == "Job" and OWNER_NAME in labels and OWNER_KIND in labels:
        return metadata["namespace"], labels[OWNER_KIND], labels[OWNER_NAME]
    return None


def _pick(document: Document, keys: Iterable[str]) -> Document:
    return {key: document[key] for key in keys if key in document}


def _resource(kind: HeardKind, document: Document) -> Document:
    metadata = {key: value for key, value in document["metadata"].items() if key != "managedFields"}
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if key != LAST_APPLIED}
    metadata["annotations"] = annotations
    return {**document, "apiVersion": API_VERSION, "kind": kind, "metadata": metadata}


def _job(job: Document) -> Document:
    """A Job without most of its template, which the operator has written and no longer reads."""
    spec = {key: value for key, value in job["spec"].items() if key not in ("template", "podFailurePolicy", "selector")}
    containers = [_pick(c, ("name", "image")) for c in job["spec"]["template"]["spec"]["containers"]]
    spec["template"] = {"spec": {"containers": containers}}
    metadata = _pick(job["metadata"], (*METADATA, "labels", "ownerReferences"))
    return {"metadata": metadata, "spec": spec, "status": job.get("status") or {}}


def _pod(pod: Document) -> Document:
    metadata = pod["metadata"]
    kept = _pick(metadata, METADATA)
    kept["labels"] = _pick(metadata.get("labels") or {}, POD_LABELS)
    kept["annotations"] = _pick(metadata.get("annotations") or {}, (INDEX_ANNOTATION,))
    status = pod.get("status") or {}
    return {"metadata": kept, "status": _pick(status, ("phase", "conditions", "containerStatuses", "podIP"))}


SLIM: dict[HeardKind, Callable[[Document], Document]] = {
    # Whoever reports drift reads who manages which field.
    "Deployment": lambda document: document,
    "DistillJob": lambda document: _resource("DistillJob", document),
    "StudentRollout": lambda document: _resource("StudentRollout", document),
    "Job": _job,
    "Pod": _pod,
}
