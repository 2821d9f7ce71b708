"""What children are told about buckets and the hub: endpoints from the chart alone, credentials from Secrets alone.

A Secret is one of the resource's own namespace, since a pod can name no other, and which one it is the chart says and
no resource. The operator itself reads neither Secrets nor stores.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from flowstill.artifacts.secrets import HUB_SECRETS, S3_SECRETS
from flowstill.artifacts.uris import HUB
from flowstill_operator.children import Document

CA_FOLDER = "/etc/flowstill-ca"
CA_KEY = "ca.crt"
OPTIONAL_SECRETS = frozenset({"AWS_SESSION_TOKEN"})


@dataclass(frozen=True)
class S3Access:
    """How children reach buckets.

    Attributes:
        endpoint: of the server; None: Amazon's.
        region: which signatures are made for.
        path_style: the bucket is in the path, and not in the host's name.
        secret: in each namespace, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; None: the pod's own identity.
        buckets: which may be named besides the default store's.
    """

    endpoint: str | None = None
    region: str = "us-east-1"
    path_style: bool = True
    secret: str | None = None
    buckets: tuple[str, ...] = ()


@dataclass(frozen=True)
class HubAccess:
    """How children reach the hub; ``secret``, in each namespace, has HF_TOKEN."""

    endpoint: str = HUB
    secret: str | None = None


@dataclass(frozen=True)
class RemoteStores:
    """What a chart says about stores that are no claims.

    Attributes:
        s3: None: no buckets.
        hub: None: no hub.
        work: where children work when the default store is a bucket, ``pvc://CLAIM[/PATH]``.
        ca: a ConfigMap of each namespace whose ``ca.crt`` is trusted too.
        proxy: through which children reach them.
        no_proxy: hosts that they reach without.
    """

    s3: S3Access | None = None
    hub: HubAccess | None = None
    work: str | None = None
    ca: str | None = None
    proxy: str | None = None
    no_proxy: str | None = None


def refusal(uri: str, remote: RemoteStores, default_store: str | None) -> str | None:
    """Why children of this cluster may not read that ``s3`` or ``hf`` URI; None: they may."""
    scheme, _, rest = uri.partition("://")
    if scheme == "hf" and remote.hub is None:
        return "this cluster's children do not ask the hub: set the chart value store.hub.enabled"
    if scheme != "s3":
        return None
    buckets = _buckets(remote, default_store)
    if not buckets:
        return "this cluster's children use no buckets: set the chart value store.s3.buckets"
    bucket = rest.partition("/")[0]
    if bucket in buckets:
        return None
    return f"children may use the buckets {', '.join(buckets)}: add {bucket} to the chart value store.s3.buckets"


def environment(remote: RemoteStores, default_store: str) -> Iterator[Document]:
    """Variables of a child's container; credentials as references to Secrets."""
    plain = {
        "FLOWSTILL_WORK": remote.work,
        "FLOWSTILL_CA_FILE": f"{CA_FOLDER}/{CA_KEY}" if remote.ca else None,
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), remote.proxy),
        "NO_PROXY": remote.no_proxy,
        "FLOWSTILL_S3_BUCKETS": ",".join(_buckets(remote, default_store)),
        "FLOWSTILL_HUB": "off" if remote.hub is None else "on",
    }
    secrets: list[tuple[str, str]] = []
    if remote.s3 is not None and _buckets(remote, default_store):
        plain |= {
            "AWS_ENDPOINT_URL_S3": remote.s3.endpoint,
            "AWS_REGION": remote.s3.region,
            "FLOWSTILL_S3_PATH_STYLE": str(remote.s3.path_style).lower(),
        }
        secrets += [(name, remote.s3.secret) for name in S3_SECRETS if remote.s3.secret]
    if remote.hub is not None:
        plain["HF_ENDPOINT"] = remote.hub.endpoint
        secrets += [(name, remote.hub.secret) for name in HUB_SECRETS if remote.hub.secret]
    yield from ({"name": name, "value": value} for name, value in plain.items() if value is not None)
    for name, secret in secrets:
        reference = {"name": secret, "key": name, **({"optional": True} if name in OPTIONAL_SECRETS else {})}
        yield {"name": name, "valueFrom": {"secretKeyRef": reference}}


def volumes(remote: RemoteStores) -> list[Document]:
    """The certificates' volume of a child's pod."""
    return [{"name": "ca", "configMap": {"name": remote.ca}}] if remote.ca else []


def mounts(remote: RemoteStores) -> list[Document]:
    """Where a child's container finds it."""
    return [{"name": "ca", "mountPath": CA_FOLDER, "readOnly": True}] if remote.ca else []


def _buckets(remote: RemoteStores, default_store: str | None) -> tuple[str, ...]:
    if remote.s3 is None:
        return ()
    scheme, _, rest = (default_store or "").partition("://")
    own = [rest.partition("/")[0]] if scheme == "s3" else []
    return tuple(dict.fromkeys([*own, *remote.s3.buckets]))
