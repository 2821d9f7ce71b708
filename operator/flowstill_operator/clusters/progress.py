"""Asking running children how far they are, beside the reconcile loop: a pod that does not answer holds up nothing.

So many are asked a second in all, each at most every half minute. Nothing depends on what they say.
"""

import asyncio
import json
import logging
from collections.abc import Callable

import aiohttp
from pydantic import ValidationError

from flowstill.api.children import ProgressReport
from flowstill_operator.children import Document
from flowstill_operator.clusters.heard import Heard, Name
from flowstill_operator.jobs import PROGRESS_PORT

log = logging.getLogger(__name__)

PERIOD_SECONDS = 30.0
ASKED_PER_SECOND = 20
TIMEOUT_SECONDS = 2.0
MAX_BYTES = 65_536


class Poller:
    """Keeps ``reports``, what pods said in the last half minute, and calls ``told`` with each that said something."""

    def __init__(self, heard: Heard, told: Callable[[Document], None]) -> None:
        self.reports: dict[Name, ProgressReport] = {}
        self._heard = heard
        self._told = told
        self._asked: dict[Name, float] = {}

    async def run(self) -> None:
        """Ask for ever."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        clock = asyncio.get_running_loop().time
        # trust_env: pods are asked directly, whatever proxy the environment names.
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as http:
            while True:
                began = clock()
                pods = self.due(began)
                await asyncio.gather(*(self._ask(http, pod) for pod in pods))
                await asyncio.sleep(max(0.0, began + 1.0 - clock()))

    def due(self, now: float) -> list[Document]:
        """The running pods whose turn it is, the longest waiting first; forgets what is old or gone."""
        waiting: list[tuple[float, Name]] = []
        running: dict[Name, bytes] = {name: text for name, text in self._heard.all_pods() if b'"Running"' in text}
        for name in [name for name in self._asked if name not in running]:
            del self._asked[name]
        for name in running:
            last = self._asked.get(name, float("-inf"))
            if now - last >= PERIOD_SECONDS:
                self.reports.pop(name, None)
                waiting.append((last, name))
        for name in [name for name in self.reports if name not in running]:
            del self.reports[name]
        waiting.sort()
        chosen = [name for _, name in waiting[:ASKED_PER_SECOND]]
        self._asked.update(dict.fromkeys(chosen, now))
        return [pod for name in chosen if is_running(pod := json.loads(running[name]))]

    async def _ask(self, http: aiohttp.ClientSession, pod: Document) -> None:
        address = (pod.get("status") or {}).get("podIP")
        if not address:
            return
        host = f"[{address}]" if ":" in address else address
        try:
            async with http.get(f"http://{host}:{PROGRESS_PORT}/progress") as response:
                response.raise_for_status()
                report = ProgressReport.model_validate_json(await response.content.read(MAX_BYTES))
        except (aiohttp.ClientError, TimeoutError, OSError, ValidationError) as error:
            log.debug("no progress from %s: %s", address, error)
            return
        self.reports[pod["metadata"]["namespace"], pod["metadata"]["name"]] = report
        self._told(pod)


def is_running(pod: Document) -> bool:
    """Whether its containers run."""
    return (pod.get("status") or {}).get("phase") == "Running"
