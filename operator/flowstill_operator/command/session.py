"""``flowstill run``: the operator's own loop over this machine, until every resource has ended or is suspended."""

import asyncio
import contextlib
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowstill.errors import UserError
from flowstill_operator.children import Document
from flowstill_operator.clusters.local import LocalCluster
from flowstill_operator.clusters.processes import NAMESPACE
from flowstill_operator.command.display import Display
from flowstill_operator.command.files import Manifest
from flowstill_operator.distilljob.observe import TERMINAL as DISTILLJOB_ENDS
from flowstill_operator.engine.loop import Key, Reconciler, Worker
from flowstill_operator.engine.queue import KeyQueue, run_workers
from flowstill_operator.platform import Platform
from flowstill_operator.rollout.observe import TERMINAL as ROLLOUT_ENDS
from flowstill_operator.suspension import PHASE as SUSPENDED

ENDS = DISTILLJOB_ENDS | ROLLOUT_ENDS
WORKERS = 2


@dataclass(frozen=True)
class Ended:
    """What a run left: the resources as they are, and whether somebody stopped it."""

    resources: list[Document]
    interrupted: bool


def check_references(manifests: Sequence[Manifest], cluster: LocalCluster) -> None:
    """A rollout's DistillJob must be in the files, or have ended before, or the run would never end."""
    given = {manifest.name for manifest in manifests if manifest.kind == "DistillJob"}
    known = {
        resource["metadata"]["name"]
        for resource in cluster.resources()
        if resource["kind"] == "DistillJob" and (resource.get("status") or {}).get("phase") in DISTILLJOB_ENDS
    }
    for manifest in manifests:
        name = (manifest.spec.get("student") or {}).get("distillJob")
        if manifest.kind == "StudentRollout" and name is not None and name not in given | known:
            raise UserError(
                f"StudentRollout {manifest.name} waits for DistillJob {name}: give its file too",
                field="spec.student.distillJob",
            )


async def run(
    manifests: Sequence[Manifest], state: Path, platform: Platform, display: Display, *, fresh: bool
) -> Ended:
    """Bring every resource to its end, or stop its children when somebody interrupts.

    Raises:
        UserError: the state folder is used by another run, or cannot hold what happens; the next run continues.
    """
    queue: KeyQueue[Key] = KeyQueue()
    broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(error: BaseException) -> None:
        if not broken.done():
            broken.set_exception(error)

    cluster = LocalCluster(state, changed=queue.add, heard=display.event, broken=end)
    with cluster.locked(f"{manifest.kind}/{manifest.name}" for manifest in manifests):
        check_references(manifests, cluster)
        resources = [cluster.declare(m.kind, m.name, m.spec, fresh=fresh) for m in manifests]
        keys = [Key(manifest.kind, NAMESPACE, manifest.name) for manifest in manifests]
        cluster.resume(r["metadata"]["uid"] for r in resources if not r["spec"].get("suspend"))
        interrupted = await _until_all_ended(keys, queue, cluster, platform, display, broken, _awaited(manifests))
        found = [await cluster.get(key.kind, NAMESPACE, key.name) for key in keys]
    return Ended([resource for resource in found if resource is not None], interrupted)


def at_rest(keys: Sequence[Key], phases: Mapping[Key, str], awaited: Mapping[Key, Key]) -> bool:
    """Whether nothing more happens in this run: everything has ended, is suspended, or waits for what is.

    ``awaited``: the DistillJob that a rollout waits for.
    """

    def rests(key: Key) -> bool:
        phase = phases.get(key)
        waits = phase == "Pending" and phases.get(awaited.get(key, key)) == SUSPENDED
        return phase in ENDS or phase == SUSPENDED or waits

    return all(rests(key) for key in keys)


def _awaited(manifests: Sequence[Manifest]) -> dict[Key, Key]:
    """The DistillJob of each rollout that names one."""
    found = {}
    for manifest in manifests:
        name = (manifest.spec.get("student") or {}).get("distillJob")
        if manifest.kind == "StudentRollout" and name is not None:
            found[Key(manifest.kind, NAMESPACE, manifest.name)] = Key("DistillJob", NAMESPACE, name)
    return found


async def _until_all_ended(
    keys: Sequence[Key],
    queue: KeyQueue[Key],
    cluster: LocalCluster,
    platform: Platform,
    display: Display,
    broken: asyncio.Future[None],
    awaited: Mapping[Key, Key],
) -> bool:
    """Whether it was interrupted before. Raises what ``broken`` holds, after the children have stopped."""
    all_ended, stopped = asyncio.Event(), asyncio.Event()

    def changed(key: Key) -> None:
        if at_rest(keys, worker.phases, awaited):
            all_ended.set()
        for other in keys:
            if other != key and worker.phases.get(other) not in ENDS:
                queue.add(other)

    worker = Worker(Reconciler(cluster, platform), queue, changed)
    for key in keys:
        queue.add(key)
    on_signals(cluster, stopped)
    parts = [
        asyncio.create_task(run_workers(queue, worker.work, WORKERS)),
        asyncio.create_task(display.follow(cluster)),
    ]
    waits = [asyncio.create_task(event.wait()) for event in (all_ended, stopped)]
    try:
        ends: list[asyncio.Future[Any]] = [*parts, *waits, broken]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        failed = [part.exception() for part in parts if part.done()]
    finally:
        await end_tasks([*parts, *waits])
        await cluster.stop()
    if broken.done():
        broken.result()
    broken.cancel()
    if failed:
        raise RuntimeError("the run's own loop failed") from failed[0]
    return stopped.is_set() and not all_ended.is_set()


def on_signals(cluster: LocalCluster, stopped: asyncio.Event) -> None:
    """The first signal stops in order, so that checkpoints are saved; the second kills."""

    def stop() -> None:
        if stopped.is_set():
            cluster.kill()
        stopped.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


async def end_tasks(tasks: Sequence[asyncio.Task[None] | asyncio.Task[bool]]) -> None:
    """Cancel them, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
