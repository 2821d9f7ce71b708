"""Resources of a cluster, as the kubeconfig's user sees them; plain JSON over the official client."""

import json
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import urllib3
from kubernetes import config

from flowstill.api import API_VERSION
from flowstill.api.actions import Request, annotation
from flowstill.api.studentrollout import DeploymentTarget
from flowstill.errors import UserError
from flowstill_operator.children import CONTAINER, Document, container_status, is_finished, owned_by, why_waiting
from flowstill_operator.clusters.kubernetes import COLLECTIONS, USERS_FIELD_MANAGER
from flowstill_operator.engine.loop import ResourceKind
from flowstill_operator.jobs import ROLE_LABEL, owner_labels
from flowstill_operator.observation import owner_of
from flowstill_operator.people.local import job_state
from flowstill_operator.people.place import KINDS, ChildView, EventView, NoLogYet, Surroundings
from flowstill_operator.rollout.promote import read_target

CONTEXT, NAMESPACE = "--context", "--namespace"
TIMEOUT_SECONDS = 30.0
FOLLOW_SECONDS = 86_400.0
PAGE = 500
MAX_EVENTS = 12
CHUNK = 8192
JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"


class Remote:
    """A Place in a cluster."""

    def __init__(
        self,
        context: str | None = None,
        kubeconfig: Path | None = None,
        namespace: str | None = None,
        *,
        every: bool = False,
    ) -> None:
        """Read the kubeconfig.

        Raises:
            UserError: there is none, or it has no such context.
        """
        path = None if kubeconfig is None else str(kubeconfig)
        try:
            contexts, current = config.list_kube_config_contexts(config_file=path)
            if context is not None:
                current = next((one for one in contexts if one["name"] == context), None)
                if current is None:
                    names = ", ".join(str(one["name"]) for one in contexts)
                    raise UserError(f"the kubeconfig has no context {context}; it has {names}", field=CONTEXT)
            self._api = config.new_client_from_config(config_file=path, context=context)
        except (config.ConfigException, OSError) as error:
            why = str(error).rstrip(".") or type(error).__name__
            raise UserError(
                f"no kubeconfig can be read ({why}): set KUBECONFIG, or write ~/.kube/config", field="--kubeconfig"
            ) from error
        self.namespace = namespace or current["context"].get("namespace") or "default"
        self._every = every

    @property
    def kind(self) -> Literal["cluster"]:
        """A cluster."""
        return "cluster"

    @property
    def title(self) -> str:
        """Server and namespace."""
        return f"namespace {self.namespace} of {self._api.configuration.host}"

    @property
    def all_namespaces(self) -> bool:
        """Whether lists are of every namespace."""
        return self._every

    def resources(self) -> list[Document]:
        """All resources, DistillJobs first, each kind by namespace and name."""
        return [resource for kind in KINDS for resource in self._list_kind(kind)]

    def get(self, kind: ResourceKind, name: str) -> Document | None:
        """One resource, or None."""
        status, body = self._request("GET", self._path(kind, name))
        if status == 404 and (body.get("details") or {}).get("name"):
            return None
        return {"apiVersion": API_VERSION, "kind": kind, **self._checked(status, body)}

    def surroundings(self, resource: Document) -> Surroundings:
        """Its Jobs with their pods, its newest events, and what its target serves."""
        jobs = sorted(self._jobs(resource), key=lambda job: str(job["metadata"]["creationTimestamp"]))
        pods = self._pods(resource)
        return Surroundings(
            tuple(_child_view(job, pods) for job in jobs), tuple(self._events(resource)), self._served(resource)
        )

    def logs(self, resource: Document, role: str | None, *, follow: bool, tail: int | None) -> Iterator[bytes]:
        """The log of the pod that runs, of several the first rank's; else of the newest."""
        pods = [
            pod for pod in self._pods(resource) if role is None or pod["metadata"]["labels"].get(ROLE_LABEL) == role
        ]
        if not pods:
            what = f"pod of {role}" if role else "pod"
            raise NoLogYet(
                f"{resource['metadata']['name']} has no {what} that can be read; `flowstill describe` says why"
            )
        pod = max(pods, key=_preference)
        waiting = _pod_text(pod) if not _has_begun(pod) else ""
        if waiting:
            raise NoLogYet(f"no log yet: {waiting}")
        query = [("container", CONTAINER), *([("follow", "true")] if follow else [])]
        query += [] if tail is None else [("tailLines", str(tail))]
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{quote(metadata['namespace'])}/pods/{quote(metadata['name'])}/log"
        yield from self._stream(path, query, FOLLOW_SECONDS if follow else TIMEOUT_SECONDS)

    def stopped(self, resource: Document) -> bool:
        """Never: an operator that is down works on when it is up."""
        del resource
        return False

    def who(self) -> str:
        """The name by which the API server knows the kubeconfig's user."""
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        found = self._checked(*self._request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review))
        name: str = found["status"]["userInfo"]["username"]
        return name

    def ask(self, resource: Document, request: Request) -> None:
        """Write the annotation, and nothing else; it is no part of what GitOps compares."""
        metadata = resource["metadata"]
        body = {"metadata": {"uid": metadata["uid"], "annotations": {annotation(request.action): request.text}}}
        self._checked(
            *self._request(
                "PATCH",
                self._path(resource["kind"], metadata["name"]),
                body,
                query=[("fieldManager", USERS_FIELD_MANAGER)],
                content_type="application/merge-patch+json",
            )
        )

    def last_job(self, resource: Document) -> Document | None:
        """The child Job that was made last, or None when none is left."""
        return max(self._jobs(resource), key=lambda job: str(job["metadata"]["creationTimestamp"]), default=None)

    def _list_kind(self, kind: ResourceKind) -> list[Document]:
        prefix, plural = COLLECTIONS[kind]
        path = f"/{prefix}/{plural}" if self._every else self._path(kind)
        found: list[Document] = []
        following = ""
        while True:
            query = [("limit", str(PAGE)), *([("continue", following)] if following else [])]
            body = self._checked(*self._request("GET", path, query=query))
            found += [{"apiVersion": API_VERSION, "kind": kind, **item} for item in body.get("items") or []]
            following = body["metadata"].get("continue") or ""
            if not following:
                return found

    def _jobs(self, resource: Document) -> list[Document]:
        labels = ",".join(f"{key}={value}" for key, value in owner_labels(owner_of(resource)).items())
        path = f"/apis/batch/v1/namespaces/{quote(resource['metadata']['namespace'])}/jobs"
        body = self._checked(*self._request("GET", path, query=[("labelSelector", labels)]))
        return [job for job in body.get("items") or [] if owned_by(job, resource["metadata"]["uid"])]

    def _pods(self, resource: Document) -> list[Document]:
        labels = ",".join(f"{key}={value}" for key, value in owner_labels(owner_of(resource)).items())
        path = f"/api/v1/namespaces/{quote(resource['metadata']['namespace'])}/pods"
        body = self._checked(*self._request("GET", path, query=[("labelSelector", labels)]))
        pods: list[Document] = body.get("items") or []
        return pods

    def _events(self, resource: Document) -> Iterator[EventView]:
        metadata = resource["metadata"]
        path = f"/api/v1/namespaces/{quote(metadata['namespace'])}/events"
        query = [("fieldSelector", f"involvedObject.uid={metadata['uid']}")]
        items = self._checked(*self._request("GET", path, query=query)).get("items") or []
        for event in sorted(items, key=_event_time)[-MAX_EVENTS:]:
            yield EventView(
                _event_time(event), event.get("type", ""), event.get("reason", ""), event.get("message", "")
            )

    def _served(self, resource: Document) -> str | None:
        wanted = (resource["spec"].get("target") or {}).get("deployment")
        if wanted is None:
            return None
        namespace = quote(resource["metadata"]["namespace"])
        status, body = self._request("GET", f"/apis/apps/v1/namespaces/{namespace}/deployments/{quote(wanted['name'])}")
        if status in (403, 404):
            return "(it cannot be read)" if status == 403 else "(there is no such Deployment)"
        target = read_target(self._checked(status, body), DeploymentTarget.model_validate(wanted))
        return target.problem or target.served

    def _path(self, kind: ResourceKind, name: str | None = None) -> str:
        prefix, plural = COLLECTIONS[kind]
        path = f"/{prefix}/namespaces/{quote(self.namespace)}/{plural}"
        return path if name is None else f"{path}/{quote(name)}"

    def _request(
        self,
        method: str,
        path: str,
        body: Document | None = None,
        *,
        query: Sequence[tuple[str, str]] = (),
        content_type: str = "application/json",
    ) -> tuple[int, Document]:
        answer = self._call(method, path, body, query, content_type, TIMEOUT_SECONDS)
        with self._unbroken():
            content = answer.read()
        try:
            parsed: Any = json.loads(content) if content else {}
        except ValueError:
            parsed = {"message": bytes(content[:512]).decode(errors="replace")}
        return int(answer.status), parsed if isinstance(parsed, dict) else {"message": str(parsed)}

    def _stream(self, path: str, query: Sequence[tuple[str, str]], seconds: float) -> Iterator[bytes]:
        answer = self._call("GET", path, None, query, "application/json", seconds)
        if answer.status >= 300:
            with self._unbroken():
                content = answer.read()
            self._checked(int(answer.status), json.loads(content or b"{}"))
        with self._unbroken():
            yield from answer.response.stream(CHUNK)

    def _call(
        self, method: str, path: str, body: Document | None, query: Sequence[tuple[str, str]], kind: str, seconds: float
    ) -> Any:
        headers = {"Accept": "application/json, */*", "Content-Type": kind}
        request = self._api.param_serialize(
            method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        try:
            return self._api.call_api(*request, _request_timeout=seconds)
        except (urllib3.exceptions.HTTPError, OSError, ssl.SSLError) as error:
            server = self._api.configuration.host
            raise UserError(
                f"{server} cannot be reached ({error}): correct KUBECONFIG or its current context", field=CONTEXT
            ) from error

    @contextmanager
    def _unbroken(self) -> Iterator[None]:
        """Reading an answer. Raises UserError: it ends in its middle."""
        try:
            yield
        except (urllib3.exceptions.HTTPError, OSError) as error:
            server = self._api.configuration.host
            raise UserError(f"{server} broke off in its answer ({error}): give the command again") from error

    def _checked(self, status: int, body: Document) -> Document:
        """The body of an answer that is a success.

        Raises:
            UserError: it is none; with the fix.
        """
        if status < 300:
            return body
        message = str(body.get("message") or body.get("reason") or f"the API server answered {status}")
        if status == 403:
            raise UserError(
                f"{message}: ask for the right, or correct {NAMESPACE}", field=NAMESPACE, reason="Forbidden"
            )
        if status == 401:
            raise UserError(f"{message}: log in again, or correct the kubeconfig", field=CONTEXT, reason="Unauthorized")
        if status == 404:
            raise UserError(
                f"{message}: install Flowstill's CRDs (its chart does), or correct {CONTEXT}", field=CONTEXT
            )
        raise UserError(message, reason=str(body.get("reason") or "ApiError"))


def _child_view(job: Document, pods: Sequence[Document]) -> ChildView:
    metadata = job["metadata"]
    mine = [pod for pod in pods if pod["metadata"]["labels"].get(JOB_UID_LABEL) == metadata["uid"]]
    newest = sorted(mine, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)
    state = job_state(job)
    reason = "" if is_finished(job) else why_waiting(job, newest[0] if newest else None)[0]
    text = f"{state}: {reason}" if reason and reason != state else state
    return ChildView(metadata["name"], metadata["labels"].get(ROLE_LABEL, ""), text, tuple(map(_pod_text, newest)))


def _pod_text(pod: Document) -> str:
    status = pod.get("status") or {}
    name, phase = pod["metadata"]["name"], status.get("phase", "Unknown")
    state = container_status(pod).get("state") or {}
    details = state.get("waiting") or state.get("terminated") or {}
    why = details.get("reason") or ""
    if not why:
        unplaced = [c for c in status.get("conditions") or [] if c["type"] == "PodScheduled" and c["status"] == "False"]
        why = f"{unplaced[0].get('reason')}: {unplaced[0].get('message', '')}" if unplaced else ""
    code = f", exit code {details['exitCode']}" if details.get("exitCode") else ""
    return f"{name} {phase}" + (f" ({why}{code})" if why else "")


def _has_begun(pod: Document) -> bool:
    state = container_status(pod).get("state") or {}
    return "running" in state or "terminated" in state


def _preference(pod: Document) -> tuple[bool, bool, int, str]:
    """A pod that runs before one that has ended, and of several ranks the first, which speaks for all."""
    metadata = pod["metadata"]
    running = "running" in (container_status(pod).get("state") or {})
    index = int((metadata.get("annotations") or {}).get(INDEX_LABEL, 0))
    return running, _has_begun(pod), -index, str(metadata["creationTimestamp"])


def _event_time(event: Document) -> str:
    found = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp")
    return str(found or datetime.now(UTC).isoformat())
