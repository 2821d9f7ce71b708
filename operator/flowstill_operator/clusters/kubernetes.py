"""Effects on Kubernetes, by the official client's asyncio API, on plain JSON."""

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from kubernetes.aio import client, config
from pydantic import ValidationError

from flowstill.api import API_VERSION, GROUP, VERSION
from flowstill.api.children import ProgressReport
from flowstill.errors import FlowstillError
from flowstill_operator.children import Document, is_finished
from flowstill_operator.clusters.interface import (
    JOB_NAME_LABEL,
    AlreadyExists,
    Conflict,
    FieldOwned,
    Gone,
    Kind,
    Refused,
    Sample,
)
from flowstill_operator.clusters.prometheus import Prometheus
from flowstill_operator.jobs import OWNER_KIND, OWNER_NAME, PROGRESS_PORT
from flowstill_operator.ranks import INDEX_ANNOTATION
from flowstill_operator.steps import Note, timestamp

log = logging.getLogger(__name__)

FIELD_MANAGER = "flowstill"
JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"
USERS_FIELD_MANAGER = "flowstill-cli"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
REQUEST_TIMEOUT_SECONDS = 30.0
PROGRESS_TIMEOUT_SECONDS = 2.0
COLLECTIONS: dict[Kind, tuple[str, str]] = {
    "DistillJob": (f"apis/{GROUP}/{VERSION}", "distilljobs"),
    "StudentRollout": (f"apis/{GROUP}/{VERSION}", "studentrollouts"),
    "Job": ("apis/batch/v1", "jobs"),
    "Service": ("api/v1", "services"),
    "Deployment": ("apis/apps/v1", "deployments"),
}


class ApiError(FlowstillError):
    """The API server said no in a way that may pass."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the API server answered {status}: {message}")
        self.status = status

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
    """

    def __init__(self, api: client.ApiClient, prometheus: Prometheus | None = None) -> None:
        self._api = api
        self._prometheus = prometheus
        self._http: aiohttp.ClientSession | None = None
        self._pods: dict[tuple[str, str], dict[str, Document]] = {}
        self._deployments: dict[tuple[str, str], Document] = {}
        self._jobs: dict[tuple[str, str, str], dict[str, Document]] = {}

    async def close(self) -> None:
        """Close every connection."""
        if self._http is not None:
            await self._http.close()
        if self._prometheus is not None:
            await self._prometheus.close()
        await self._api.close()

    def note_pod(self, pod: Document, *, deleted: bool) -> None:
        """Remember what the watch says about a child's pod."""
        metadata = pod["metadata"]
        labels = metadata.get("labels") or {}
        job = labels.get(JOB_NAME_LABEL)
        if job is None:
            return
        pods = self._pods.setdefault((metadata["namespace"], job), {})
        if deleted:
            pods.pop(metadata["name"], None)
            if not pods:
                del self._pods[metadata["namespace"], job]
        else:
            kept = {key: metadata[key] for key in ("name", "namespace", "creationTimestamp") if key in metadata}
            index = (metadata.get("annotations") or {}).get(INDEX_ANNOTATION)
            kept |= {} if index is None else {"annotations": {INDEX_ANNOTATION: index}}
            kept |= {"labels": {JOB_UID_LABEL: labels.get(JOB_UID_LABEL)}}
            pods[metadata["name"]] = {"metadata": kept, "status": pod.get("status") or {}}

    def note_job(self, job: Document, *, deleted: bool) -> None:
        """Remember what the watch says about a child's Job, as far as deleting it needs."""
        metadata = job["metadata"]
        owner = _owner(metadata["namespace"], metadata["labels"])
        jobs = self._jobs.setdefault(owner, {})
        if deleted:
            jobs.pop(metadata["name"], None)
            if not jobs:
                del self._jobs[owner]
        else:
            wanted = ("name", "namespace", "uid", "labels", "ownerReferences", "deletionTimestamp")
            kept = {key: metadata[key] for key in wanted if key in metadata}
            conditions = (job.get("status") or {}).get("conditions") or []
            jobs[metadata["name"]] = {"metadata": kept, "status": {"conditions": conditions}}

    def note_deployment(self, deployment: Document, *, deleted: bool) -> None:
        """Remember what the watch says about a Deployment that may be a target."""
        metadata = deployment["metadata"]
        if deleted:
            self._deployments.pop((metadata["namespace"], metadata["name"]), None)
        else:
            self._deployments[metadata["namespace"], metadata["name"]] = deployment

    async def known_deployment(self, namespace: str, name: str) -> Document | None:
        """That Deployment, as the watch saw it."""
        return self._deployments.get((namespace, name))

    async def known_jobs(self, namespace: str, labels: Mapping[str, str]) -> list[Document]:
        """The Jobs of the resource with those labels, as the watch saw them."""
        return list(self._jobs.get(_owner(namespace, labels), {}).values())

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        """One object, or None."""
        status, body = await self._request("GET", _path(kind, namespace, name))
        if status == 404:
            return None
        _check(status, body)
        return body

    async def pods(self, job: Document) -> list[Document]:
        """The pods of a Job: of a finished one as they are now, else as the watch saw them."""
        namespace, name, uid = (job["metadata"][key] for key in ("namespace", "name", "uid"))
        if is_finished(job):
            return await self.find_pods(namespace, {JOB_UID_LABEL: uid})
        # A resumed resource has a Job of the same name again, and the watch may still know pods of the first.
        seen = self._pods.get((namespace, name), {}).values()
        return [pod for pod in seen if pod["metadata"]["labels"][JOB_UID_LABEL] == uid]

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

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        """Delete in the foreground: while its pods end, and save a checkpoint, the Job is still there to be seen."""
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        status, body = await self._request("DELETE", _path("Job", namespace, name), body=options)
        # 409: a Job of that name, and not the one that was decided on.
        if status not in (404, 409):
            _check(status, body)

    async def progress(self, pod: Document) -> ProgressReport | None:
        """Ask the pod itself; nothing depends on its answer."""
        address = (pod.get("status") or {}).get("podIP")
        if not address:
            return None
        host = f"[{address}]" if ":" in address else address
        if self._http is None:
            timeout = aiohttp.ClientTimeout(total=PROGRESS_TIMEOUT_SECONDS)
            self._http = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        try:
            async with self._http.get(f"http://{host}:{PROGRESS_PORT}/progress") as response:
                response.raise_for_status()
                return ProgressReport.model_validate_json(await response.content.read(65_536))
        except (aiohttp.ClientError, TimeoutError, OSError, ValidationError) as error:
            log.debug("no progress from %s: %s", address, error)
            return None

    async def create(self, manifest: Document) -> None:
        """Create a Job or a Service."""
        path = _path(manifest["kind"], manifest["metadata"]["namespace"])
        status, body = await self._request("POST", path, body=manifest, query=[("fieldManager", FIELD_MANAGER)])
        if status == 409:
            raise AlreadyExists(_message(body))
        _check(status, body)

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
        return int(response.status), parsed if isinstance(parsed, dict) else {"items": parsed}


def _owner(namespace: str, labels: Mapping[str, str]) -> tuple[str, str, str]:
    return namespace, labels[OWNER_KIND], labels[OWNER_NAME]


def _path(kind: Kind, namespace: str, name: str | None = None) -> str:
    prefix, plural = COLLECTIONS[kind]
    path = f"/{prefix}/namespaces/{quote(namespace)}/{plural}"
    return path if name is None else f"{path}/{quote(name)}"


def _message(body: Document) -> str:
    return str(body.get("message") or body.get("reason") or "no message")


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
            raise ApiError(status, message)
