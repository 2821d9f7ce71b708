"""What both kinds of resource observe in the same way: their spec, and one child with its reader."""

from collections.abc import Iterable

from pydantic import ValidationError

from flowstill.api.children import ProgressReport
from flowstill.api.runtime import Runtime
from flowstill_operator.children import MISSING, Child, Document, is_finished, newest, read_child
from flowstill_operator.clusters.interface import Cluster
from flowstill_operator.jobs import GPU, Owner, child_name, uris_in
from flowstill_operator.platform import Platform
from flowstill_operator.steps import Problem


def owner_of(resource: Document) -> Owner:
    """The resource as the owner of its children."""
    metadata = resource["metadata"]
    return Owner(resource["kind"], metadata["namespace"], metadata["name"], metadata["uid"])


async def observe_child(cluster: Cluster, owner: Owner, role: str, *, started: bool, look: bool) -> tuple[Child, Child]:
    """The child of that role and its reader, which is asked for only when the child cannot speak for itself.

    ``look``: also ask a running child for its progress.
    """
    child = await _observe(cluster, owner, role, reader=False, look=look)
    mute = (child.state == "Missing" and started) or (child.state == "Succeeded" and child.result is None)
    if not mute:
        return child, MISSING
    return child, await _observe(cluster, owner, role, reader=True, look=False)


async def _observe(cluster: Cluster, owner: Owner, role: str, *, reader: bool, look: bool) -> Child:
    job = await cluster.get("Job", owner.namespace, child_name(owner, role, reader=reader))
    pods = await cluster.pods(job) if job is not None else []
    child = read_child(job, pods, owner.uid)
    pod = newest(pods)
    if look and job is not None and pod is not None and child.state == "Running" and not is_finished(job):
        progress: ProgressReport | None = await cluster.progress(pod)
        return Child(**{**child.__dict__, "progress": progress})
    return child


def explain(error: ValidationError, root: str = "spec") -> str:
    """Pydantic's findings as a sentence a user can act on, naming each field in camelCase."""
    found = []
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in (root, *item["loc"]))
        what = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            what = "unknown field; remove it or correct its name"
        found.append(what if what.startswith(f"{root}.") else f"{where}: {what}")
    return "; ".join(found)


def platform_problem(uris: Iterable[tuple[str, str]], runtime: Runtime, platform: Platform) -> Problem | None:
    """What this place cannot do for a spec; ``uris`` are (field, URI) pairs."""
    if platform.default_store is None:
        return Problem("NoDefaultStore", f"results have no place to go: {platform.no_store_fix}")
    for field, uri in uris:
        fix = platform.refused_schemes.get(uri.partition("://")[0])
        if fix is not None:
            return Problem("UriRefused", f"{field}: {uri} cannot be read here: {fix}")
        if ".." in uri.split("/"):
            return Problem("UriRefused", f"{field}: {uri} must not contain '..'")
    for variable in runtime.env:
        if variable.name.startswith("FLOWSTILL_"):
            return Problem(
                "EnvRefused",
                f"spec.runtime.env: {variable.name} belongs to Flowstill; use another name",
            )
    if runtime.resources is not None and GPU in {**runtime.resources.limits, **runtime.resources.requests}:
        return Problem("ResourcesRefused", f"spec.runtime.resources: ask for {GPU} by spec.runtime.gpusPerNode")
    return None


def uri_fields(spec: Document, prefix: str = "spec") -> Iterable[tuple[str, str]]:
    """Every (field, URI) of a spec as JSON."""
    for key, value in spec.items():
        if isinstance(value, dict):
            yield from uri_fields(value, f"{prefix}.{key}")
        else:
            yield from ((f"{prefix}.{key}", uri) for uri in uris_in(value))
