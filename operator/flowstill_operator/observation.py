"""What both kinds of resource observe in the same way: their spec, and one child with its reader."""

from collections.abc import Iterable

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from flowstill.api.children import ProgressReport
from flowstill.api.runtime import Runtime
from flowstill_operator.children import MISSING, Child, Document, is_finished
from flowstill_operator.clusters.interface import Reads
from flowstill_operator.jobs import GPU, Owner, child_name, uris_in
from flowstill_operator.platform import Platform
from flowstill_operator.remote_stores import refusal
from flowstill_operator.shards import read_job, talker
from flowstill_operator.steps import Problem

INVALID_SPEC = "InvalidSpec"
INVALID_SPEC_TEXT = "the spec cannot be read"
NO_STORE = "NoDefaultStore"
NO_STORE_TEXT = "results have no place to go: {fix}"
URI_REFUSED = "UriRefused"
URI_REFUSED_TEXT = "{field}: {uri} cannot be read here: {fix}"
URI_DOTS_TEXT = "{field}: {uri} must not contain '..'"
ENV_REFUSED = "EnvRefused"
ENV_OURS_TEXT = "spec.runtime.env: {name} belongs to Flowstill; use another name"
ENV_OF_STORES_TEXT = "spec.runtime.env: {name} {why}"
NODES_REFUSED = "NodesRefused"
NODES_REFUSED_TEXT = (
    "spec.runtime.nodes: this machine is one node, not {nodes}: set it to 1, or apply the resource to a cluster "
    "(flowstill distill --runtime kubernetes, kubectl apply)"
)
VOLUMES_REFUSED = "VolumesRefused"
VOLUMES_REFUSED_TEXT = (
    "spec.runtime.volumes: this machine mounts no claims: leave it out, and let spec.runtime.env name folders of this "
    "machine"
)
RESOURCES_REFUSED = "ResourcesRefused"
RESOURCES_REFUSED_TEXT = f"spec.runtime.resources: ask for {GPU} by spec.runtime.gpusPerNode"


def owner_of(resource: Document) -> Owner:
    """The resource as the owner of its children."""
    metadata = resource["metadata"]
    return Owner(resource["kind"], metadata["namespace"], metadata["name"], metadata["uid"])


async def observe_child(
    cluster: Reads,
    owner: Owner,
    role: str,
    *,
    started: bool,
    look: bool,
    attempt: int = 0,
    number: int = 1,
    indexed: bool = False,
) -> tuple[Child, Child]:
    """The child of that role and its reader, which is asked for only when the child cannot speak for itself.

    ``look``: also ask a running child for its progress. ``attempt``: of a child that the operator tries again;
    ``number`` and ``indexed``: as in :func:`flowstill_operator.jobs.child_name`.
    """
    name = child_name(owner, role, attempt=attempt, number=number, indexed=indexed)
    child = await _observe(cluster, owner, name, look=look)
    mute = (child.state == "Missing" and started) or (child.state == "Succeeded" and child.result is None)
    if not mute and not child.speechless:
        return child, MISSING
    return child, await _observe(cluster, owner, child_name(owner, role, reader=True, number=number), look=False)


async def _observe(cluster: Reads, owner: Owner, name: str, *, look: bool) -> Child:
    job = await cluster.get("Job", owner.namespace, name)
    pods = await cluster.pods(job) if job is not None else []
    child = read_job(job, pods, owner.uid)
    pod = None if job is None else talker(job, pods)
    if look and job is not None and pod is not None and child.state == "Running" and not is_finished(job):
        progress: ProgressReport | None = await cluster.progress(pod)
        return Child(**{**child.__dict__, "progress": progress})
    return child


def findings(error: ValidationError) -> list[ErrorDetails]:
    """Pydantic's, but for defaults that it could not compute because of another one of them."""
    found = error.errors(include_url=False)
    return [item for item in found if item["type"] != "default_factory_not_called"]


def explain(error: ValidationError, root: str = "spec") -> str:
    """Pydantic's findings as a sentence a user can act on, naming each field in camelCase."""
    found = []
    for item in findings(error):
        where = ".".join(str(part) for part in (root, *item["loc"]))
        what = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            what = "unknown field; remove it or correct its name"
        found.append(what if what.startswith(f"{root}.") else f"{where}: {what}")
    return "; ".join(found)


USERS_OWN = frozenset({"FLOWSTILL_LIBERO_ASSETS"})
"""Variables of ours that only the user can set: where simulators find their files."""


STORE_PREFIXES = ("AWS_", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_", "HUGGING")
STORE_NAMES = frozenset(
    {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"}
)
OF_STORES = {
    "kubernetes": "says where stores are or who asks them: the chart's values store.s3, store.hub, store.ca and "
    "store.proxy do, and credentials come from Secrets",
    "local": "says where stores are or who asks them: set it in your shell, where children find it too",
}
"""What is wrong with a variable that stores hear, by the platform's name."""


def _is_of_stores(name: str) -> bool:
    """Whether a store's client hears it: it would send credentials elsewhere, or be one itself."""
    return name.upper().startswith(STORE_PREFIXES) or name.upper() in STORE_NAMES


def platform_problem(uris: Iterable[tuple[str, str]], runtime: Runtime, platform: Platform) -> Problem | None:
    """What this place cannot do for a spec; ``uris`` are (field, URI) pairs."""
    if platform.default_store is None:
        return Problem(NO_STORE, NO_STORE_TEXT.format(fix=platform.no_store_fix))
    for field, uri in uris:
        fix = platform.refused_schemes.get(uri.partition("://")[0])
        if fix is not None:
            return Problem(URI_REFUSED, URI_REFUSED_TEXT.format(field=field, uri=uri, fix=fix))
        fix = None if platform.remote is None else refusal(uri, platform.remote, platform.default_store)
        if fix is not None:
            return Problem(URI_REFUSED, URI_REFUSED_TEXT.format(field=field, uri=uri, fix=fix))
        if ".." in uri.split("/"):
            return Problem(URI_REFUSED, URI_DOTS_TEXT.format(field=field, uri=uri))
    for variable in runtime.env:
        if variable.name.startswith("FLOWSTILL_") and variable.name not in USERS_OWN:
            return Problem(ENV_REFUSED, ENV_OURS_TEXT.format(name=variable.name))
        if _is_of_stores(variable.name):
            return Problem(ENV_REFUSED, ENV_OF_STORES_TEXT.format(name=variable.name, why=OF_STORES[platform.name]))
    if runtime.nodes > 1 and platform.name == "local":
        return Problem(NODES_REFUSED, NODES_REFUSED_TEXT.format(nodes=runtime.nodes))
    if runtime.volumes and platform.name == "local":
        return Problem(VOLUMES_REFUSED, VOLUMES_REFUSED_TEXT)
    if runtime.resources is not None and GPU in {**runtime.resources.limits, **runtime.resources.requests}:
        return Problem(RESOURCES_REFUSED, RESOURCES_REFUSED_TEXT)
    return None


def uri_fields(spec: Document, prefix: str = "spec") -> Iterable[tuple[str, str]]:
    """Every (field, URI) of a spec as JSON."""
    for key, value in spec.items():
        if isinstance(value, dict):
            yield from uri_fields(value, f"{prefix}.{key}")
        else:
            yield from ((f"{prefix}.{key}", uri) for uri in uris_in(value))
