"""Small valid resources, and their variations."""

from typing import Any

API_VERSION = "flowstill.dev/v1alpha1"
DIGEST = "sha256:" + "a" * 64


def distill_job(name: str = "a", namespace: str = "default", **spec: Any) -> dict[str, Any]:
    """A DistillJob; ``spec`` replaces or adds sections."""
    base = {"teacher": {"uri": "store://t"}, "dataset": {"uri": "store://d"}}
    return _resource("DistillJob", name, namespace, base | spec)


def student_rollout(name: str = "a", namespace: str = "default", **spec: Any) -> dict[str, Any]:
    """A StudentRollout of the DistillJob ``a``; ``spec`` replaces or adds sections."""
    base = {"student": {"distillJob": "a"}, "evaluation": {"suite": "metaworld", "tasks": ["reach-around"]}}
    return _resource("StudentRollout", name, namespace, base | spec)


def _resource(kind: str, name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
