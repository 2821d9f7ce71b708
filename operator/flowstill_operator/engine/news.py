"""Events beside the loop: they are news and not state, so nobody waits until they are posted.

They are posted in order, one after another. When more wait than are of use to anybody, the oldest are dropped.
"""

import asyncio
import logging
from collections import deque
from typing import Protocol

from flowstill_operator.children import Document
from flowstill_operator.clusters.interface import Gone
from flowstill_operator.steps import Note

log = logging.getLogger(__name__)

MAX_WAITING = 5_000


class Recorder(Protocol):
    """Who posts them."""

    async def record_event(self, resource: Document, note: Note) -> None:
        """Post a Kubernetes event about the resource."""


class News:
    """Events that wait to be posted."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._waiting: deque[tuple[Document, Note]] = deque(maxlen=MAX_WAITING)
        self._some = asyncio.Event()

    async def record_event(self, resource: Document, note: Note) -> None:
        """Post it when its turn comes. An event names its resource and no more, so no more is kept."""
        wanted = ("name", "namespace", "uid", "generation", "resourceVersion")
        metadata = {key: resource["metadata"][key] for key in wanted if key in resource["metadata"]}
        self._waiting.append(({"kind": resource["kind"], "metadata": metadata}, note))
        self._some.set()

    async def run(self) -> None:
        """Post for ever."""
        while True:
            await self._post()
            self._some.clear()
            await self._some.wait()

    async def flush(self, seconds: float) -> None:
        """Post what waits, as far as it goes in so much time: the last words of a process that ends."""
        try:
            await asyncio.wait_for(self._post(), seconds)
        except TimeoutError:
            log.warning("%d events were not posted", len(self._waiting))

    async def _post(self) -> None:
        while self._waiting:
            await record(self._recorder, *self._waiting.popleft())


async def record(recorder: Recorder, resource: Document, note: Note) -> None:
    """Post it; one that cannot be posted is missing, and the status says the same."""
    try:
        await recorder.record_event(resource, note)
    except Gone:
        log.debug("event %s came too late: the namespace is being deleted", note.reason)
    except Exception:
        log.warning("event %s could not be recorded", note.reason, exc_info=True)
