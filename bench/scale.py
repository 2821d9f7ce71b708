"""How the operator holds up with 100, 1,000 and 5,000 DistillJobs, beside a plain kopf operator of the usual shape.

    .venv/bin/python -m bench.scale run --size 1000            # both operators, each on a fresh control plane
    .venv/bin/python -m bench.scale run --size 5000 --operator flowstill
    .venv/bin/python -m bench.scale table                      # what is finished

The API server, etcd (in memory, /dev/shm), controllers and scheduler are real; kwok takes the place of nodes. One arm
is one operator at one size: create all DistillJobs and wait until all run; start the operator anew over what has not
changed; let the pods end, 20 a second; start it anew over what has ended. Latency is from the moment in which a watch
tells that the Job is complete to that in which a watch tells the DistillJob's status, for at most 1,200 pods. Requests
are those of the operator's own user in the API server's audit log. Each finished phase is in bench/results/scale.json;
finished arms are measured again only with --again. The operator's user is exempt from the API server's fair queueing.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.scale_client import Audit, Client, Watch, cpu_seconds, memory_mib, passes, split
from bench.scale_world import USER, running_world
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.processes import Background, free_port, start

RESULTS = Path(__file__).parent / "results" / "scale.json"
SIZES = (100, 1000, 5000)
OPERATORS = ("flowstill", "plain")
CHANGES_A_SECOND = 20.0
MOST_CHANGES = 1200
LIMIT_SECONDS = 3600.0

type Measured = dict[str, Any]


class Operator:
    """The operator that is measured, as a process."""

    def __init__(self, kind: str, plane: ControlPlane) -> None:
        self.kind, self.port, self._plane = kind, free_port("127.0.0.1"), plane
        self._config = plane.client_config(USER, f"/O=system:masters/CN={USER}")
        self._running: Background | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._running is not None
        self._running.check_alive()
        return self._running.process.pid

    async def begin(self) -> None:
        """Start it; raises when it is not there after a minute."""
        flags = [f"--health-port={self.port}"]
        if self.kind == "flowstill":
            command = [str(Path(sys.executable).parent / "flowstill-operator"), "--store=pvc://flowstill-store"]
            command += ["--trainer-image=localhost/trainer:test", "--evaluator-image=localhost/evaluator:test"]
            command += ["--log-level=WARNING"]
        else:
            command = [sys.executable, "-m", "bench.plain_operator"]
        environment = {**self._plane.environment(), "KUBECONFIG": str(self._config)}
        self._running = start(self.kind, [*command, *flags], self._plane.folder, environment)

    async def end(self) -> None:
        """SIGTERM, as a pod's end; then SIGKILL."""
        if self._running is not None:
            await asyncio.to_thread(self._running.stop, 30.0)

    async def looked_at(self, count: int, limit: float) -> float | None:
        """Seconds until it has looked at so many since its start; None when not within ``limit``."""
        began = time.monotonic()
        while await asyncio.to_thread(passes, self.port) < count:
            if time.monotonic() - began > limit:
                return None
            _ = self.pid
            await asyncio.sleep(0.2)
        return round(time.monotonic() - began, 2)


async def measure(kind: str, size: int, keep: Callable[[Measured], None]) -> Measured:
    """One arm on a control plane of its own; ``keep`` gets what is measured after each phase."""
    with running_world(size) as (plane, audit_log):
        operator, audit = Operator(kind, plane), Audit(audit_log)
        async with Client(plane) as client:
            distilled, jobs = Watch(client, "distilljobs"), Watch(client, "jobs")
            watching = [asyncio.create_task(watch.run()) for watch in (distilled, jobs)]
            try:
                await operator.begin()
                return await _phases(Arm(operator, audit, keep), client, (distilled, jobs), size)
            finally:
                for task in watching:
                    task.cancel()
                await asyncio.gather(*watching, return_exceptions=True)
                await operator.end()


class Arm:
    """What is measured of one operator at one size."""

    def __init__(self, operator: Operator, audit: Audit, keep: Callable[[Measured], None]) -> None:
        self.operator, self.audit, self._keep = operator, audit, keep
        self.found: Measured = {}
        self._loads: list[float] = []

    def note(self, when: str, **found: object) -> None:
        """A phase is over."""
        self._loads.append(os.getloadavg()[0])
        self.found |= found
        self.found.setdefault("memory_mib", {})[when] = memory_mib(self.operator.pid)
        self.found.setdefault("cpu_seconds", {})[when] = round(cpu_seconds(self.operator.pid), 1)
        self.found["load_average"] = {"least": round(min(self._loads), 1), "most": round(max(self._loads), 1)}
        print(when, json.dumps(found, default=str), flush=True)
        self._keep(self.found)


async def _phases(arm: Arm, client: Client, watches: tuple[Watch, Watch], size: int) -> Measured:
    distilled, jobs = watches
    began = time.monotonic()
    await client.create(size)
    created = round(time.monotonic() - began, 1)
    assert await distilled.until("Running", size, LIMIT_SECONDS), "not all are running"
    running = round(time.monotonic() - began, 1)
    begun = arm.audit.since()
    arm.note("created", created_seconds=created, all_running_seconds=running, requests_until_running=dict(begun))
    seconds = await _restart(arm.operator, size)
    arm.note("restarted", restart_running_seconds=seconds, restart_requests=split(arm.audit.since()))
    count = min(size, MOST_CHANGES)
    await _end_all(client, count)
    assert await distilled.until("Succeeded", count, LIMIT_SECONDS), "not all have succeeded"
    latencies = [distilled.first["Succeeded"][name] - at for name, at in jobs.first["Complete"].items()]
    ended = arm.audit.since()
    each = {what: split(begun)[what] / size + split(ended)[what] / count for what in split(ended)}
    arm.note(
        "ended",
        changes=count,
        latency_seconds=_quantiles(latencies),
        requests_until_ended=dict(ended),
        per_resource={what: round(value, 2) for what, value in each.items()},
    )
    arm.note("restarted at the end", restart_ended_seconds=await _restart(arm.operator, size))
    return arm.found


async def _restart(operator: Operator, size: int) -> float | None:
    await operator.end()
    await operator.begin()
    return await operator.looked_at(size, LIMIT_SECONDS)


async def _end_all(client: Client, count: int) -> None:
    """Let so many pods end, at the rate of the goal."""
    pods = (await client.pods())[:count]
    assert len(pods) == count, f"{len(pods)} pods of {count}"
    began, ending = time.monotonic(), []
    for number, pod in enumerate(pods):
        await asyncio.sleep(max(0.0, began + number / CHANGES_A_SECOND - time.monotonic()))
        ending.append(asyncio.create_task(client.end(pod)))
    await asyncio.gather(*ending)


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3), "most": round(max(values), 3)}


def read_results() -> dict[str, Measured]:
    """Finished arms by ``SIZE OPERATOR``."""
    return json.loads(RESULTS.read_text())["arms"] if RESULTS.exists() else {}


def run(sizes: Sequence[int], operators: Sequence[str], again: bool) -> None:
    """Measure what is not there yet; each finished arm is kept at once."""
    for size in sizes:
        for kind in operators:
            key = f"{size} {kind}"
            if "finished" in read_results().get(key, {}) and not again:
                print(f"{key}: is there")
                continue
            found = asyncio.run(measure(kind, size, partial(_keep, key)))
            _keep(key, {**found, "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})


def _keep(key: str, found: Measured) -> None:
    arms = {**read_results(), key: found}
    machine = {"cores": os.cpu_count(), "etcd": "in memory (/dev/shm)", "changes_a_second": CHANGES_A_SECOND}
    RESULTS.write_text(json.dumps({"machine": machine, "arms": dict(sorted(arms.items()))}, indent=1) + "\n")


def table() -> str:
    """Finished arms as Markdown."""
    head = (
        "| DistillJobs | operator | all running, s | restarted over running, s | at the end, s | p50, s | p99, s "
        "| reads | writes | events | most MiB | CPU s until all ran | load |"
    )
    lines = [head, "|" + "---|" * 13]
    arms = read_results()
    for size in SIZES:
        for kind in OPERATORS:
            found = arms.get(f"{size} {kind}")
            if found is None:
                continue
            each, latency = found.get("per_resource", {}), found.get("latency_seconds", {})
            load = found["load_average"]
            most = max(memory["VmHWM"] for memory in found["memory_mib"].values())
            cells = [size, kind, found["all_running_seconds"], found.get("restart_running_seconds")]
            cells += [found.get("restart_ended_seconds"), latency.get("p50"), latency.get("p99")]
            cells += [each.get("reads"), each.get("writes"), each.get("events"), most, found["cpu_seconds"]["created"]]
            cells += [f"{load['least']}–{load['most']}"]
            lines.append(f"| {' | '.join('–' if cell is None else str(cell) for cell in cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("run", help="measure what is not finished")
    measuring.add_argument("--size", type=int, action="append", choices=SIZES)
    measuring.add_argument("--operator", action="append", choices=OPERATORS)
    measuring.add_argument("--again", action="store_true", help="measure what is finished, too")
    commands.add_parser("table", help="print what is finished")
    options = parser.parse_args()
    if options.command == "table":
        print(table())
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run(options.size or SIZES, options.operator or OPERATORS, options.again)
    return 0


if __name__ == "__main__":
    sys.exit(main())
