"""Listing everything, page by page: before the first look, and now and then in case a watch lost something."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from flowstill_operator.children import Document
from flowstill_operator.clusters.heard import HeardKind, Name

log = logging.getLogger(__name__)

KINDS: tuple[HeardKind, ...] = ("Pod", "Job", "Deployment", "DistillJob", "StudentRollout")
"""Children first: a resource that is looked at before its Job is known costs a request more."""
RETRY_SECONDS = 5.0


class Pages(Protocol):
    """Where pages come from."""

    async def page(self, kind: HeardKind, namespace: str, token: str) -> Document:
        """One page of a list; ``token``: of the page before, empty for the first."""


class Listener(Protocol):
    """Who is told."""

    def news(self, kind: HeardKind, thing: Document) -> None:
        """An object is there."""

    def listed(self, kind: HeardKind, namespace: str, names: Collection[Name], version: int) -> None:
        """A list of that version has these objects and no others."""


class Listing:
    """Lists all that is heard of, in the namespaces given or, with none, in the whole cluster."""

    def __init__(self, pages: Pages, listener: Listener, namespaces: Sequence[str]) -> None:
        self._pages = pages
        self._listener = listener
        self._namespaces = namespaces or ("",)

    async def once(self) -> None:
        """One round. Raises what the API server makes of it."""
        for kind in KINDS:
            for namespace in self._namespaces:
                await self._list(kind, namespace)

    async def run(self, seconds: float, first_done: asyncio.Event, again: Callable[[], None]) -> None:
        """Rounds for ever; ``again`` is called after each but the first."""
        while True:
            try:
                await self.once()
            except Exception as error:
                log.warning("listing failed: %s; again in %.0f s", error, RETRY_SECONDS)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if first_done.is_set():
                again()
            first_done.set()
            await asyncio.sleep(seconds)

    async def _list(self, kind: HeardKind, namespace: str) -> None:
        names: set[Name] = set()
        token, version = "", 0
        while True:
            page = await self._pages.page(kind, namespace, token)
            # All pages are of the version of the first.
            version = version or int(page["metadata"]["resourceVersion"])
            for item in page.get("items") or []:
                names.add((item["metadata"]["namespace"], item["metadata"]["name"]))
                self._listener.news(kind, item)
            token = page["metadata"].get("continue") or ""
            if not token:
                break
        self._listener.listed(kind, namespace, names, version)
