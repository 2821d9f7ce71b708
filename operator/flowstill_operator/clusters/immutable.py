"""What a resource's spec may become, on this machine: the rules that the API server checks by CEL."""

from flowstill.api.fields import ALWAYS_MUTABLE
from flowstill.api.studentrollout import UNTIL_PROMOTION
from flowstill.errors import UserError
from flowstill_operator.children import Document


def changed_spec(resource: Document, spec: Document) -> Document:
    """The new spec of a resource that has another one.

    Raises:
        UserError: they differ in more than what may be changed, or it may be changed no more.
    """
    name = f"{resource['kind']} {resource['metadata']['name']}"
    fix = "give it a new metadata.name, or start it anew with --fresh"
    if _fixed(resource["spec"]) != _fixed(spec):
        raise UserError(f"{name} was run with another spec, and specs are immutable: {fix}", field="spec")
    fields = [field for field in UNTIL_PROMOTION if resource["spec"].get(field) != spec.get(field)]
    if not fields:
        return spec
    status = resource.get("status") or {}
    ended = "promotionTime" in status or "completionTime" in status
    if ended and status.get("phase") != "Failed":  # which is tried again
        phase = status.get("phase")
        raise UserError(f"{name} has ended ({phase}), which is final: {fix}", field=f"spec.{fields[0]}")
    return spec


def with_spec(resource: Document, spec: Document) -> Document:
    """The resource with that spec, as the API server would store it. Raises UserError, as ``changed_spec`` does."""
    metadata = resource["metadata"]
    newer = {"generation": metadata["generation"] + 1, "resourceVersion": str(int(metadata["resourceVersion"]) + 1)}
    return {**resource, "metadata": {**metadata, **newer}, "spec": changed_spec(resource, spec)}


def _fixed(spec: Document) -> Document:
    runtime = {key: value for key, value in (spec.get("runtime") or {}).items() if key != "ttlSecondsAfterFinished"}
    fixed = {key: value for key, value in spec.items() if key not in ("runtime", *ALWAYS_MUTABLE, *UNTIL_PROMOTION)}
    return {**fixed, "runtime": runtime} if runtime else fixed
