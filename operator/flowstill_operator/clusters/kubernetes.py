"""Effects on Kubernetes, by the official client's asyncio API, on plain JSON."""

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kubernetes.aio import client, config

from flowstill.api import API_VERSION, GROUP, VERSION
from flowstill.api.children import ProgressReport
from flowstill_operator.children import Document, is_finished
from flowstill_operator.clusters.heard import JOB_UID_LABEL, Heard, HeardKind, Name
from flowstill_operator.clusters.interface import (
    AlreadyExists,
    Conflict,
    FieldOwned,
    Gone,
    Kind,
    Refused,
    Sample,
    Unavailable,
)
from flowstill_operator.clusters.prometheus import Prometheus
from flowstill_operator.jobs import OWNER_KIND
from flowstill_operator.steps import Note, timestamp

log = logging.getLogger(__name__)

FIELD_MANAGER = "flowstill"
USERS_FIELD_MANAGER = "flowstill-cli"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
REQUEST_TIMEOUT_SECONDS = 30.0
PAGE_SIZE = 200
"""Of lists: a page is in memory as a whole."""
COLLECTIONS: dict[Kind, tuple[str, str]] = {
    "DistillJob": (f"apis/{GROUP}/{VERSION}", "distilljobs"),
    "StudentRollout": (f"apis/{GROUP}/{VERSION}", "studentrollouts"),
    "Job": ("apis/batch/v1", "jobs"),
    "Service": ("api/v1", "services"),
    "Deployment": ("apis/apps/v1", "deployments"),
}
SELECTORS: dict[HeardKind, str] = {"Pod": OWNER_KIND, "Job": OWNER_KIND, "Deployment": f"{GROUP}/target=true"}
HEARD: dict[Kind, HeardKind] = {"DistillJob": "DistillJob", "StudentRollout": "StudentRollout", "Job": "Job"}


class ApiError(Unavailable):
    """The API server said no in a way that may pass."""

    def __init__(self, status: int, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"the API server answered {status}: {message}")
        self.status, self.retry_after = status, retry_after

    @property
    def denied(self) -> bool:
        """Whether it was a question of who asks."""
        return self.status in (401, 403)


async def connect() -> client.ApiClient:
    """A client by the pod's service account, else by the kubeconfig."""
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        await config.load_kube_config(client_configuration=configuration)
    return client.ApiClient(configuration)


def own_namespace() -> str:
    """The pod's own namespace, else that of the kubeconfig's current context."""
    try:
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        _, current = config.list_kube_config_contexts()
        return current["context"].get("namespace") or "default"


class KubernetesCluster:
    """A Cluster on a real API server.

    Pods of running Jobs come from the watch, so that no pass over a waiting resource lists a namespace.

    Args:
        api: the client.
        heard: what the watches said; what the answers of requests say is added.
        progress: what running pods said last.
        prometheus: whom to ask for measurements.
    """

    def __init__(
        self,
        api: client.ApiClient,
        heard: Heard | None = None,
        progress: Mapping[Name, ProgressReport] | None = None,
        prometheus: Prometheus | None = None,
    ) -> None:
        self._api = api
        self.heard = heard or Heard()
        self._progress = progress if progress is not None else {}
        self._prometheus = prometheus

    async def close(self) -> None:
        """Close every connection."""
        if self._prometheus is not None:
            await self._prometheus.close()
        await self._api.close()

    async def known_deployment(self, namespace: str, name: str) -> Document | None:
        """That Deployment, as it was heard of."""
        return self.heard.find("Deployment", namespace, name)

    async def known_jobs(self, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """The Jobs of the resource with those labels, as they were heard of."""
        return self.heard.jobs(namespace, labels)

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        """One object, or None."""
        status, body = await self._request("GET", _path(kind, namespace, name))
        if status == 404:
            if kind in HEARD:
                self.heard.absent(HEARD[kind], namespace, name)
            return None
        _check(status, body)
        self._note(kind, body)
        return body

    async def page(self, kind: HeardKind, namespace: str, token: str) -> Document:
        """One page of all objects of that kind that concern the operator.

        Args:
            kind: what is listed.
            namespace: where; empty for the whole cluster.
            token: of the page before; empty for the first.
        """
        prefix, plural = ("api/v1", "pods") if kind == "Pod" else COLLECTIONS[kind]
        within = f"namespaces/{quote(namespace)}/" if namespace else ""
        query = [("limit", str(PAGE_SIZE))]
        query += [("continue", token)] if token else []
        query += [("labelSelector", SELECTORS[kind])] if kind in SELECTORS else []
        status, body = await self._request("GET", f"/{prefix}/{within}{plural}", query=query)
        _check(status, body)
        return body

    async def pods(self, job: Document) -> list[Document]:
        """The pods of a Job: of a finished one as they are now, else as they were heard of."""
        if is_finished(job):
            return await self.find_pods(job["metadata"]["namespace"], {JOB_UID_LABEL: job["metadata"]["uid"]})
        return self.heard.pods(job)

    async def find_pods(self, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """The pods with those labels, as the API server has them now."""
        query = [("labelSelector", ",".join(f"{key}={value}" for key, value in labels.items()))]
        status, body = await self._request("GET", f"/api/v1/namespaces/{quote(namespace)}/pods", query=query)
        _check(status, body)
        pods: list[Document] = body.get("items") or []
        return pods

    async def find_jobs(self, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """The Jobs with those labels, as the API server has them now."""
        query = [("labelSelector", ",".join(f"{key}={value}" for key, value in labels.items()))]
        status, body = await self._request("GET", _path("Job", namespace), query=query)
        _check(status, body)
        jobs: list[Document] = body.get("items") or []
        return jobs

    async def find_rollout(self, namespace: str, uid: str) -> Document | None:
        """The StudentRollout with that UID; a list is asked for only when none of that UID was heard of."""
        known = self.heard.with_uid("StudentRollout", namespace, uid)
        if known is not None:
            found = await self.get("StudentRollout", namespace, known["metadata"]["name"])
            return found if found is not None and found["metadata"]["uid"] == uid else None
        token = ""
        while True:
            body = await self.page("StudentRollout", namespace, token)
            for item in body.get("items") or []:
                if item["metadata"]["uid"] == uid:
                    rollout: Document = item
                    return rollout
            token = body["metadata"].get("continue") or ""
            if not token:
                return None

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        """Delete in the foreground: while its pods end, and save a checkpoint, the Job is still there to be seen."""
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        status, body = await self._request("DELETE", _path("Job", namespace, name), body=options)
        # 409: a Job of that name, and not the one that was decided on.
        if status not in (404, 409):
            _check(status, body)

    async def progress(self, pod: Document) -> ProgressReport | None:
        """What the pod said last, unless that was long ago."""
        return self._progress.get((pod["metadata"]["namespace"], pod["metadata"]["name"]))

    async def create(self, manifest: Document) -> None:
        """Create a Job or a Service."""
        path = _path(manifest["kind"], manifest["metadata"]["namespace"])
        status, body = await self._request("POST", path, body=manifest, query=[("fieldManager", FIELD_MANAGER)])
        if status == 409:
            raise AlreadyExists(_message(body))
        _check(status, body)
        self._note(manifest["kind"], body)

    async def apply_deployment(self, manifest: Document) -> None:
        """Server-side apply, conditional on the UID and resourceVersion in the manifest, never forced."""
        await self._apply("Deployment", manifest, FIELD_MANAGER)

    async def apply_resource(self, manifest: Document) -> Document:
        """Server-side apply of a user's own resource, never forced; returns what is there now.

        Raises:
            Refused: the spec is invalid, or another one than the resource's, which is immutable.
            FieldOwned: another manager owns a field that would change.
            Gone: the namespace or the resource's kind is not there.
        """
        return await self._apply(manifest["kind"], manifest, USERS_FIELD_MANAGER)

    async def _apply(self, kind: Kind, manifest: Document, manager: str) -> Document:
        metadata = manifest["metadata"]
        status, body = await self._request(
            "PATCH",
            _path(kind, metadata["namespace"], metadata["name"]),
            body=manifest,
            query=[("fieldManager", manager), ("force", "false")],
            content_type="application/apply-patch+yaml",
        )
        causes = (body.get("details") or {}).get("causes") or []
        if status == 409 and any(cause.get("reason") == "FieldManagerConflict" for cause in causes):
            raise FieldOwned(_message(body))
        _check(status, body)
        return body

    async def measure(self, query: str) -> Sample:
        """The value now of that Prometheus query."""
        if self._prometheus is None:
            return Sample(None, "the operator has no Prometheus to ask; set the chart value monitoring.prometheusUrl")
        return await self._prometheus.ask(query)

    async def write_status(self, resource: Document, status: Document) -> None:
        """Replace the status; the resourceVersion that was observed travels along."""
        metadata = resource["metadata"]
        path = f"{_path(resource['kind'], metadata['namespace'], metadata['name'])}/status"
        code, body = await self._request("PUT", path, body={**resource, "status": status})
        if code in (400, 422):
            # An error of ours, not of the user's: tried again, so that it is seen and never becomes a state.
            raise ApiError(code, _message(body))
        _check(code, body)
        self._note(resource["kind"], body)

    def _note(self, kind: Kind, document: Document) -> None:
        """What an answer says is heard before the watch repeats it, so that the next look is not behind one's own."""
        if kind in HEARD:
            self.heard.note(HEARD[kind], document, told=False)

    async def record_event(self, resource: Document, note: Note) -> None:
        """Post an event whose name is a digest of what it says, so that saying it twice is harmless."""
        metadata = resource["metadata"]
        text = json.dumps([metadata["uid"], metadata.get("generation"), note.reason, note.message])
        now = timestamp(datetime.now(UTC))
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{metadata['name']}.{hashlib.sha256(text.encode()).hexdigest()[:16]}",
                "namespace": metadata["namespace"],
            },
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": resource["kind"],
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion"),
            },
            "type": note.type,
            "reason": note.reason,
            "message": note.message[:1024],
            "source": {"component": "flowstill-operator"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        path = f"/api/v1/namespaces/{quote(metadata['namespace'])}/events"
        code, body = await self._request("POST", path, body=event)
        if code != 409:
            _check(code, body)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Document | None = None,
        query: list[tuple[str, str]] | None = None,
        content_type: str = "application/json",
    ) -> tuple[int, Document]:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        serialized = await self._api.param_serialize(
            method,
            path,
            query_params=query or [],
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        response = await self._api.call_api(*serialized, _request_timeout=REQUEST_TIMEOUT_SECONDS)
        content = await response.read()
        try:
            parsed: Any = json.loads(content) if content else {}
        except ValueError:
            parsed = {"message": bytes(content[:512]).decode(errors="replace")}
        answer: Document = parsed if isinstance(parsed, dict) else {"items": parsed}
        after = response.headers.get("Retry-After", "")
        if response.status >= 400 and after.isdigit():
            # A server that sheds load says it in the header alone.
            answer.setdefault("details", {}).setdefault("retryAfterSeconds", int(after))
        return int(response.status), answer


def _path(kind: Kind, namespace: str, name: str | None = None) -> str:
    prefix, plural = COLLECTIONS[kind]
    path = f"/{prefix}/namespaces/{quote(namespace)}/{plural}"
    return path if name is None else f"{path}/{quote(name)}"


def _message(body: Document) -> str:
    return str(body.get("message") or body.get("reason") or "no message")


def _retry_after(body: Document) -> float:
    seconds = (body.get("details") or {}).get("retryAfterSeconds")
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def _is_ending(body: Document) -> bool:
    """Whether the answer is about a namespace that is being deleted, where nothing new may be made."""
    causes = (body.get("details") or {}).get("causes") or []
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def _check(status: int, body: Document) -> None:
    """Turn an answer that is no success into the error that says what it means."""
    if status < 300:
        return
    message = _message(body)
    match status:
        case 404:
            raise Gone(message)
        case 403 if _is_ending(body):
            raise Gone(message)
        case 409:
            raise Conflict(message)
        case 400 | 422:
            raise Refused(message)
        case _:
            raise ApiError(status, message, _retry_after(body))
