"""Where the operator may watch: nowhere until the CRDs are served, and only in namespaces that it may list.

kopf looks for its resources once, when it starts: what is not served then stays unheard for ever. One namespace
that it may not list, such as a deleted one whose RoleBinding went with it, would end it for all the others.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Literal

from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException

from flowstill.api import GROUP, VERSION
from flowstill_operator.clusters.kubernetes import COLLECTIONS

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
Access = Literal["allowed", "forbidden", "unserved"]
WHY: dict[Access, str] = {
    "forbidden": "the operator's account may not list DistillJobs and StudentRollouts there",
    "unserved": "the CustomResourceDefinitions are not installed",
}


async def watchable(api: client.ApiClient, namespaces: Sequence[str]) -> tuple[str, ...]:
    """Wait until there is something to watch, and return those of ``namespaces`` that may be watched.

    No namespaces mean the whole cluster, and are returned as none.
    """
    told: dict[str, Access] = {}
    while True:
        found = {namespace: await _access(api, namespace) for namespace in namespaces or ("",)}
        for namespace, access in found.items():
            if access != "allowed" and told.get(namespace) != access:
                log.warning("%s cannot be watched: %s", namespace or "the whole cluster", WHY[access])
        told = found
        allowed = tuple(namespace for namespace, access in found.items() if access == "allowed")
        if allowed and "unserved" not in found.values():
            return allowed if namespaces else ()
        await asyncio.sleep(RETRY_SECONDS)


async def regained(api: client.ApiClient, lost: Sequence[str]) -> None:
    """Return when one of the namespaces that could not be watched can be: a new start hears it."""
    while True:
        await asyncio.sleep(RETRY_SECONDS)
        for namespace in lost:
            if await _access(api, namespace) == "allowed":
                log.warning("namespace %s can be watched now: ending, to be started again with it", namespace)
                return


async def _access(api: client.ApiClient, namespace: str) -> Access:
    objects = client.CustomObjectsApi(api)
    for kind in ("DistillJob", "StudentRollout"):
        _, plural = COLLECTIONS[kind]
        try:
            if namespace:
                await objects.list_namespaced_custom_object(GROUP, VERSION, namespace, plural, limit=1)
            else:
                await objects.list_cluster_custom_object(GROUP, VERSION, plural, limit=1)
        except ApiException as error:
            if error.status == 404:
                return "unserved"
            if error.status == 403:
                return "forbidden"
            raise
    return "allowed"
