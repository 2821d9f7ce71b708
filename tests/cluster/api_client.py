"""Objects of a control plane as JSON, over one kept connection: polling by kubectl would cost a process each time."""

import json
from typing import Any

from kubernetes import config

from tests.cluster.harness.controlplane import ControlPlane

STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
_GROUPS = {
    "pods": "/api/v1",
    "events": "/api/v1",
    "services": "/api/v1",
    "endpointslices": "/apis/discovery.k8s.io/v1",
    "jobs": "/apis/batch/v1",
    "deployments": "/apis/apps/v1",
    "replicasets": "/apis/apps/v1",
    "distilljobs": "/apis/flowstill.dev/v1alpha1",
    "studentrollouts": "/apis/flowstill.dev/v1alpha1",
}

type Document = dict[str, Any]


class Objects:
    """The objects of one namespace, as the cluster's administrator sees them."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.namespace = namespace
        self._client = config.new_client_from_config(config_file=str(plane.kubeconfig))

    def get(self, plural: str, name: str) -> Document | None:
        """One object, or None."""
        status, body = self._request("GET", f"{plural}/{name}")
        return None if status == 404 else _success(status, body)

    def list(self, plural: str, selector: str = "") -> list[Document]:
        """Those that the label selector takes, the oldest first."""
        query = [("labelSelector", selector)] if selector else []
        items: list[Document] = _success(*self._request("GET", plural, query=query))["items"]
        return sorted(items, key=lambda item: int(item["metadata"]["resourceVersion"]))

    def patch(self, plural: str, name: str, body: Document, kind: str = MERGE, *, status: bool = False) -> Document:
        """Patch the object, or its status subresource."""
        path = f"{plural}/{name}{'/status' if status else ''}"
        return _success(*self._request("PATCH", path, body, kind))

    def delete(self, plural: str, name: str) -> None:
        """Delete it, and what it owns in the background."""
        _success(*self._request("DELETE", f"{plural}/{name}", {"propagationPolicy": "Background"}))

    def _request(
        self,
        method: str,
        path: str,
        body: Document | None = None,
        kind: str = "application/json",
        query: "list[tuple[str, str]] | None" = None,
    ) -> tuple[int, Document]:
        prefix = f"{_GROUPS[path.partition('/')[0]]}/namespaces/{self.namespace}"
        headers = {"Accept": "application/json", "Content-Type": kind}
        request = self._client.param_serialize(
            method, f"{prefix}/{path}", query_params=query or [], header_params=headers, body=body
        )
        answer = self._client.call_api(*request, _request_timeout=30)
        return answer.status, json.loads(answer.read())


def _success(status: int, body: Document) -> Document:
    assert status < 300, f"{status}: {body.get('message')}"
    return body
