"""``flowstill-operator``: the process that runs in the cluster."""

import argparse
import asyncio
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Sequence

import kopf

from flowstill_operator.clusters.kubernetes import KubernetesCluster, connect
from flowstill_operator.clusters.scope import regained, watchable
from flowstill_operator.engine.health import Health, serve
from flowstill_operator.engine.index import Dependents
from flowstill_operator.engine.logs import set_up
from flowstill_operator.engine.loop import Key, Reconciler, Worker
from flowstill_operator.engine.metrics import Metrics, WatchAge
from flowstill_operator.engine.queue import KeyQueue, run_workers
from flowstill_operator.handlers import Ear, bind, settings
from flowstill_operator.platform import Platform, kubernetes_platform
from flowstill_operator.store_flags import add_store_flags, check_store_flags, remote_stores

log = logging.getLogger(__name__)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; every flag's default is an environment variable, so that a chart sets either."""
    env = os.environ
    parser = argparse.ArgumentParser(prog="flowstill-operator", description=__doc__)
    parser.add_argument("--trainer-image", default=env.get("FLOWSTILL_TRAINER_IMAGE"))
    parser.add_argument("--evaluator-image", default=env.get("FLOWSTILL_EVALUATOR_IMAGE"))
    add_store_flags(parser, env)
    parser.add_argument(
        "--image-pull-policy",
        choices=["Always", "IfNotPresent", "Never"],
        default=env.get("FLOWSTILL_IMAGE_PULL_POLICY", "IfNotPresent"),
    )
    parser.add_argument(
        "--image-pull-secrets",
        default=env.get("FLOWSTILL_IMAGE_PULL_SECRETS", ""),
        help="names, comma-separated",
    )
    parser.add_argument(
        "--namespaces",
        default=env.get("FLOWSTILL_NAMESPACES", ""),
        help="comma-separated; default: the whole cluster",
    )
    parser.add_argument("--health-port", type=int, default=int(env.get("FLOWSTILL_HEALTH_PORT", "8080")))
    parser.add_argument("--workers", type=int, default=int(env.get("FLOWSTILL_WORKERS", "4")))
    parser.add_argument("--resync-seconds", type=float, default=float(env.get("FLOWSTILL_RESYNC_SECONDS", "600")))
    parser.add_argument("--log-level", default=env.get("FLOWSTILL_LOG_LEVEL", "INFO"))
    parser.add_argument("--log-format", choices=["text", "json"], default=env.get("FLOWSTILL_LOG_FORMAT", "text"))
    options = parser.parse_args(argv)
    for flag, value in (
        ("--trainer-image", options.trainer_image),
        ("--evaluator-image", options.evaluator_image),
    ):
        if not value:
            parser.error(f"{flag} (or FLOWSTILL_{flag[2:].replace('-', '_').upper()}) is required")
    problem = check_store_flags(options)
    if problem is not None:
        parser.error(problem)
    for namespace in _names(options.namespaces):
        # kopf takes * and ! for patterns, which need a list of all namespaces, and hears nothing without one.
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", namespace):
            parser.error(f"--namespaces: {namespace!r} is not the name of a namespace")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM."""
    options = arguments(argv)
    set_up(options.log_level, options.log_format)
    platform = kubernetes_platform(
        options.trainer_image,
        options.evaluator_image,
        options.store or None,
        options.image_pull_policy,
        _names(options.image_pull_secrets),
        remote_stores(options),
    )
    # Until kopf listens for it: process 1 of a container ignores a signal without a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asyncio.run(run(options, platform))
    return 0


async def run(options: argparse.Namespace, platform: Platform) -> None:
    """Hear, queue, reconcile and serve health, until one of them ends."""
    api = await connect()
    cluster = KubernetesCluster(api)
    queue: KeyQueue[Key] = KeyQueue()
    dependents, metrics = Dependents(), Metrics()
    age = WatchAge(time.monotonic)

    def changed(key: Key) -> None:
        for other in dependents.of(*key):
            queue.add(other)

    worker = Worker(Reconciler(cluster, platform, metrics), queue, changed)
    ready = asyncio.Event()
    health = Health(ready.is_set, age.seconds)
    server = await serve(health, lambda: metrics.text(len(queue), health.lag, age.seconds()), options.health_port)
    try:
        wished = _names(options.namespaces)
        namespaces = await watchable(api, wished)
        lost = [namespace for namespace in wished if namespace not in namespaces]
        log.info("watching %s", ", ".join(namespaces) or "the whole cluster")
        ear = kopf.operator(
            registry=bind(Ear(queue, dependents, cluster, age.heard)),
            settings=settings(),
            standalone=True,
            # Else kopf asks the system for the name of the user, and the user of a pod has none.
            identity="flowstill-operator",
            clusterwide=not namespaces,
            namespaces=namespaces,
            ready_flag=ready,
        )
        await _until_the_first_ends(
            ear,
            run_workers(queue, worker.work, options.workers),
            _resync(queue, dependents, options.resync_seconds),
            health.beat(),
            *([regained(api, lost)] if lost else []),
        )
    finally:
        await server.cleanup()
        await cluster.close()


async def _until_the_first_ends(*parts: object) -> None:
    """The first is kopf's end on SIGTERM, or an error that ends the process, so that a new one is started."""
    tasks = [asyncio.ensure_future(part) for part in parts]  # type: ignore[call-overload]
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    for task in done:
        task.result()


async def _resync(queue: KeyQueue[Key], dependents: Dependents, seconds: float) -> None:
    """Look at everything now and then, in case a watch lost something."""
    while True:
        await asyncio.sleep(seconds)
        for key in dependents.all():
            queue.add(key)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


if __name__ == "__main__":
    sys.exit(main())
