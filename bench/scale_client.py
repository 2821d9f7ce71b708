"""What bench/scale.py does to the cluster and sees of it: creating, ending, watching, counting."""

import asyncio
import json
import re
import time
import urllib.request
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from bench.scale_world import END, NAMESPACE, USER
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.kubeconfig import client_tls
from tests.cluster.resources import distill_job

PATHS = {
    "distilljobs": f"/apis/flowstill.dev/v1alpha1/namespaces/{NAMESPACE}/distilljobs",
    "jobs": f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs",
    "pods": f"/api/v1/namespaces/{NAMESPACE}/pods",
}
AT_ONCE = 16
MERGE = "application/merge-patch+json"


class Client:
    """Requests as the administrator."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=client_tls(self._plane.kubeconfig), limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        self.http = aiohttp.ClientSession(self._plane.server, connector=connector, timeout=timeout, read_bufsize=2**24)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.close()

    async def create(self, size: int) -> None:
        """So many DistillJobs, as fast as the API server takes them."""
        await asyncio.gather(*(self._create(number) for number in range(size)))

    async def _create(self, number: int) -> None:
        manifest = distill_job(f"job-{number:05}", NAMESPACE, runtime={"gpusPerNode": 0})
        async with self._gate, self.http.post(PATHS["distilljobs"], json=manifest) as answer:
            assert answer.status == 201, await answer.text()

    async def pods(self) -> list[str]:
        """Names of all pods."""
        async with self.http.get(PATHS["pods"]) as answer:
            return sorted(pod["metadata"]["name"] for pod in (await answer.json())["items"])

    async def end(self, pod: str) -> None:
        """Let the pod end well."""
        body = json.dumps({"metadata": {"annotations": {END: "true"}}})
        headers = {"Content-Type": MERGE}
        async with self.http.patch(f"{PATHS['pods']}/{pod}", data=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()


class Watch:
    """When each object was first seen in a state: ``first[state][name]``, seconds of the monotonic clock."""

    def __init__(self, client: Client, plural: str) -> None:
        self.first: dict[str, dict[str, float]] = {}
        self._client, self._plural = client, plural
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Watch for ever: a server that has just got new kinds ends its watches once more, and says all again."""
        query = {"watch": "true", "timeoutSeconds": "7200", "resourceVersion": "0"}
        while True:
            async with self._client.http.get(PATHS[self._plural], params=query) as answer:
                async for line in answer.content:
                    event = json.loads(line)
                    if answer.status != 200 or event["type"] == "ERROR":
                        break
                    self._note(event["object"])
            await asyncio.sleep(0.1)

    def _note(self, thing: dict[str, Any]) -> None:
        now, name = time.monotonic(), _owner(thing)
        for state in _states(thing):
            self.first.setdefault(state, {}).setdefault(name, now)
        self._changed.set()

    async def until(self, state: str, count: int, limit: float) -> bool:
        """Whether so many are in that state within ``limit`` seconds."""
        end = time.monotonic() + limit
        while len(self.first.get(state, ())) < count:
            if time.monotonic() > end:
                return False
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), 1.0)
            except TimeoutError:
                continue
        return True


def _owner(thing: dict[str, Any]) -> str:
    """The DistillJob that it is or belongs to."""
    owners = thing["metadata"].get("ownerReferences")
    return str(owners[0]["name"] if owners else thing["metadata"]["name"])


def _states(thing: dict[str, Any]) -> list[str]:
    status = thing.get("status") or {}
    conditions = [c["type"] for c in status.get("conditions") or [] if c["status"] == "True"]
    return [state for state in (status.get("phase"), *conditions) if state]


class Audit:
    """Requests of the operator, by what they are, from the API server's audit log."""

    def __init__(self, log: Path) -> None:
        self._log, self._offset = log, 0

    def since(self) -> Counter[str]:
        """Those since the last time; ``get distilljobs``, ``update distilljobs/status``, …; watches are left out."""
        counts: Counter[str] = Counter()
        with self._log.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                event = json.loads(line)
                assert event["user"]["username"] == USER
                about = event.get("objectRef") or {}
                name = "/".join(part for part in (about.get("resource"), about.get("subresource")) if part)
                if event["verb"] != "watch":
                    counts[f"{event['verb']} {name or 'discovery'}"] += 1
        return counts


def split(counts: Counter[str]) -> dict[str, int]:
    """Reads, writes and events among these; lists of everything, a page each, are apart."""
    found = {"reads": 0, "lists": 0, "writes": 0, "events": 0}
    for request, count in counts.items():
        verb, what = request.split()
        if what in ("discovery", "customresourcedefinitions"):
            continue
        if what == "events":
            found["events"] += count
        elif verb == "list" and what != "pods":
            found["lists"] += count
        else:
            found["reads" if verb in ("get", "list") else "writes"] += count
    return found


def passes(port: int) -> int:
    """Looks at DistillJobs since the operator's start; 0 while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except OSError:
        return 0
    found = re.findall(r'^flowstill_reconcile_total\{kind="DistillJob",outcome="ok"\} (\S+)', text, re.MULTILINE)
    return int(float(found[0])) if found else 0


def memory_mib(pid: int) -> dict[str, float]:
    """Resident now, and at most so far."""
    text = Path(f"/proc/{pid}/status").read_text()
    return {key: round(int(re.findall(rf"{key}:\s+(\d+)", text)[0]) / 1024, 1) for key in ("VmRSS", "VmHWM")}


def cpu_seconds(pid: int) -> float:
    """Processor time of the process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
