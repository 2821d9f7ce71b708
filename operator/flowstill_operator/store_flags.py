"""The operator's flags about stores; the chart sets each by its environment variable."""

import argparse
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from flowstill.artifacts.uris import HUB, ArtifactUri
from flowstill.errors import ArtifactError
from flowstill_operator.remote_stores import HubAccess, RemoteStores, S3Access

_NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")


def add_store_flags(parser: argparse.ArgumentParser, env: Mapping[str, str]) -> None:
    """Of the default store, of buckets and of the hub."""

    def flag(name: str, default: str | None, help: str) -> None:
        variable = f"FLOWSTILL_{name[2:].replace('-', '_').upper()}"
        parser.add_argument(name, default=env.get(variable) or default, help=f"{help} ({variable})")

    flag("--store", None, "default store, pvc://CLAIM[/PATH] or s3://BUCKET[/PATH]")
    flag("--store-work", None, "where children work when the store is a bucket, pvc://CLAIM[/PATH]")
    flag("--store-ca", None, "ConfigMap of each namespace whose ca.crt children trust too")
    flag("--store-proxy", None, "proxy through which children reach stores")
    flag("--store-no-proxy", None, "hosts that they reach without it, comma-separated")
    flag("--s3-endpoint", None, "http(s)://HOST[:PORT] of the S3 server; default: Amazon's")
    flag("--s3-region", "us-east-1", "region of the buckets")
    flag("--s3-path-style", None, "true: the bucket is in the path; default: true with an endpoint")
    flag("--s3-secret", None, "Secret of each namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    flag("--s3-buckets", "", "buckets that resources may name besides the store's, comma-separated")
    flag("--hub", "false", "true: resources may name hf://")
    flag("--hub-endpoint", HUB, "of the Hugging Face Hub")
    flag("--hub-secret", None, "Secret of each namespace with HF_TOKEN")


def check_store_flags(options: argparse.Namespace) -> str | None:
    """What is wrong with them, naming the flag; None: nothing."""
    store, work = options.store or "", options.store_work or ""
    if store and not store.startswith(("pvc://", "s3://")):
        return f"--store {store}: pods can only use pvc://CLAIM[/PATH] or s3://BUCKET[/PATH]"
    if work and not work.startswith("pvc://"):
        return f"--store-work {work}: children work on a claim, pvc://CLAIM[/PATH]"
    if store.startswith("s3://") and not work:
        return "--store-work is needed with a bucket as --store: checkpoints and what is fetched lie on a claim"
    for flag, uri in (("--store", store), ("--store-work", work)):
        try:
            ArtifactUri.parse(uri or "store://x")
        except ArtifactError as error:
            return f"{flag}: {error}"
    endpoints = (("--s3-endpoint", options.s3_endpoint), ("--hub-endpoint", options.hub_endpoint))
    for flag, text in (*endpoints, ("--store-proxy", options.store_proxy)):
        if text and not _is_address(text):
            return f"{flag} {text}: use http(s)://HOST[:PORT], without a path and without credentials"
    for flag, name in (
        ("--s3-secret", options.s3_secret),
        ("--hub-secret", options.hub_secret),
        ("--store-ca", options.store_ca),
    ):
        if name and not _NAME.match(name):
            return f"{flag} {name}: not the name of a Secret or ConfigMap"
    for flag, text in (("--hub", options.hub), ("--s3-path-style", options.s3_path_style)):
        if text not in (None, "true", "false"):
            return f"{flag} {text}: use true or false"
    return None


def names(text: str) -> tuple[str, ...]:
    """What a comma-separated flag names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def remote_stores(options: argparse.Namespace) -> RemoteStores:
    """What the flags say."""
    path_style = options.s3_path_style == "true" if options.s3_path_style else options.s3_endpoint is not None
    hub = HubAccess(options.hub_endpoint, options.hub_secret) if options.hub == "true" else None
    return RemoteStores(
        s3=S3Access(options.s3_endpoint, options.s3_region, path_style, options.s3_secret, names(options.s3_buckets)),
        hub=hub,
        work=options.store_work,
        ca=options.store_ca,
        proxy=options.store_proxy,
        no_proxy=options.store_no_proxy,
    )


def _is_address(text: str) -> bool:
    parts = urlsplit(text)
    try:
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:
        return False
    bare = not (parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and bare
