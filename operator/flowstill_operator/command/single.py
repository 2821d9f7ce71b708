"""One child on this machine, without a resource: for questions that need no more than its answer."""

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowstill.api.runtime import Runtime
from flowstill.artifacts.uris import Locations, local_path
from flowstill_operator.children import Child, is_finished, read_child
from flowstill_operator.clusters.local import LocalCluster
from flowstill_operator.clusters.processes import NAMESPACE
from flowstill_operator.command.display import Display
from flowstill_operator.command.session import end_tasks, on_signals
from flowstill_operator.jobs import Owner, child_job
from flowstill_operator.platform import Platform
from flowstill_operator.steps import Wanted


@dataclass(frozen=True)
class Answer:
    """How the child ended; None: somebody stopped it before. ``logs``: its newest log, by its role."""

    child: Child | None
    logs: dict[str, Path]


async def ask(
    owner: Owner, wanted: Wanted, command: list[str], state: Path, platform: Platform, display: Display
) -> Answer:
    """Run the child as every other is run here, with its retries; its work folder goes with it.

    Raises:
        UserError: the state folder is used by another run, or cannot hold what happens.
    """
    changed, stopped = asyncio.Event(), asyncio.Event()
    broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(error: BaseException) -> None:
        if not broken.done():
            broken.set_exception(error)

    cluster = LocalCluster(state, changed=lambda _: changed.set(), heard=display.event, broken=end)
    job = child_job(owner, wanted, command, Runtime(), platform)
    with cluster.locked():
        on_signals(cluster, stopped)
        following = asyncio.create_task(display.follow(cluster))
        try:
            await cluster.create(job)
            child = await _finished(cluster, job["metadata"]["name"], owner, changed, stopped, broken)
        finally:
            await end_tasks([following])
            await cluster.stop()
            shutil.rmtree(_work(wanted, platform), ignore_errors=True)
    broken.cancel()
    return Answer(child, cluster.logs(owner.uid))


async def _finished(
    cluster: LocalCluster,
    name: str,
    owner: Owner,
    changed: asyncio.Event,
    stopped: asyncio.Event,
    broken: asyncio.Future[None],
) -> Child | None:
    """The child once its Job is finished; None when it was stopped. Raises what ``broken`` holds."""
    stop = asyncio.create_task(stopped.wait())
    try:
        while True:
            change = asyncio.create_task(changed.wait())
            waits: list[asyncio.Future[Any]] = [change, stop, broken]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            await end_tasks([change])
            changed.clear()
            if broken.done():
                broken.result()
            job = await cluster.get("Job", NAMESPACE, name)
            if job is not None and is_finished(job):
                return read_child(job, await cluster.pods(job), owner.uid)
            if stop.done():
                return None
    finally:
        await end_tasks([stop])


def _work(wanted: Wanted, platform: Platform) -> Path:
    """The folder that holds every work folder of this child's owner."""
    return local_path(wanted.task.work, Locations(platform.default_store, Path("/"))).parent
