"""``flowstill-operator``: the process that runs in the cluster."""

import argparse
import asyncio
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

import kopf
from kubernetes.aio import client
from pydantic import ValidationError

from flowstill.api.safety import SafetyLimits
from flowstill_operator.clusters.heard import Heard, Hearsay
from flowstill_operator.clusters.kubernetes import KubernetesCluster, connect
from flowstill_operator.clusters.progress import Poller
from flowstill_operator.clusters.prometheus import Prometheus
from flowstill_operator.clusters.scope import regained, watchable
from flowstill_operator.engine.health import Health, serve
from flowstill_operator.engine.index import Dependents
from flowstill_operator.engine.listing import Listing
from flowstill_operator.engine.logs import set_up
from flowstill_operator.engine.loop import Key, Reconciler, Worker
from flowstill_operator.engine.metrics import Metrics, WatchAge
from flowstill_operator.engine.news import News
from flowstill_operator.engine.queue import MAX_PATIENCE_SECONDS, KeyQueue, run_workers
from flowstill_operator.handlers import Ear, bind, settings
from flowstill_operator.observation import explain
from flowstill_operator.platform import Platform, kubernetes_platform
from flowstill_operator.store_flags import add_store_flags, check_store_flags, names, remote_stores

log = logging.getLogger(__name__)

LAST_WORDS_SECONDS = 5.0
"""How long events that wait may take when the process ends."""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; every flag's default is an environment variable, so that a chart sets either."""
    parser = _parser(os.environ)
    options = parser.parse_args(argv)
    problem = _problem(options)
    if problem is not None:
        parser.error(problem)
    try:
        options.safety_limits = SafetyLimits.model_validate_json(options.safety_limits)
    except ValidationError as error:
        parser.error(f"--safety-limits: {explain(error, 'safetyLimits')}")
    return options


def _parser(env: Mapping[str, str]) -> argparse.ArgumentParser:
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
    parser.add_argument(
        "--prometheus-url",
        default=env.get("FLOWSTILL_PROMETHEUS_URL", ""),
        help="what spec.monitoring.queries are asked of, http(s)://HOST[:PORT][/PATH]",
    )
    parser.add_argument(
        "--safety-limits",
        default=env.get("FLOWSTILL_SAFETY_LIMITS", "{}"),
        help='JSON: how loose safety gates of a spec may be, such as {"S3": {"margin": 0.05}}',
    )
    parser.add_argument("--health-port", type=int, default=int(env.get("FLOWSTILL_HEALTH_PORT", "8080")))
    parser.add_argument("--workers", type=int, default=int(env.get("FLOWSTILL_WORKERS", "8")))
    parser.add_argument("--resync-seconds", type=float, default=float(env.get("FLOWSTILL_RESYNC_SECONDS", "600")))
    parser.add_argument(
        "--watch-silence-seconds",
        type=float,
        default=float(env.get("FLOWSTILL_WATCH_SILENCE_SECONDS", "70")),
        help="a watch that is silent for so long is begun anew; an API server says something every 60 s",
    )
    parser.add_argument("--log-level", default=env.get("FLOWSTILL_LOG_LEVEL", "INFO"))
    parser.add_argument("--log-format", choices=["text", "json"], default=env.get("FLOWSTILL_LOG_FORMAT", "text"))
    return parser


def _problem(options: argparse.Namespace) -> str | None:
    """What is wrong with the flags, naming one; None: nothing."""
    for flag, value in (
        ("--trainer-image", options.trainer_image),
        ("--evaluator-image", options.evaluator_image),
    ):
        if not value:
            return f"{flag} (or FLOWSTILL_{flag[2:].replace('-', '_').upper()}) is required"
    problem = check_store_flags(options)
    if problem is not None:
        return problem
    if options.prometheus_url and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", options.prometheus_url):
        return f"--prometheus-url {options.prometheus_url}: must be http(s)://HOST[:PORT][/PATH]"
    for namespace in names(options.namespaces):
        # kopf takes * and ! for patterns, which need a list of all namespaces, and hears nothing without one.
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", namespace):
            return f"--namespaces: {namespace!r} is not the name of a namespace"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM."""
    options = arguments(argv)
    set_up(options.log_level, options.log_format)
    platform = kubernetes_platform(
        options.trainer_image,
        options.evaluator_image,
        options.store or None,
        options.image_pull_policy,
        names(options.image_pull_secrets),
        remote=remote_stores(options),
        prometheus=bool(options.prometheus_url),
        safety_limits=options.safety_limits,
    )
    # Until kopf listens for it: process 1 of a container ignores a signal without a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asyncio.run(run(options, platform))
    return 0


class Parts:
    """What hears, remembers, looks and tells, put together."""

    def __init__(self, api: client.ApiClient, platform: Platform, prometheus: Prometheus | None) -> None:
        self.queue: KeyQueue[Key] = KeyQueue()
        self.dependents, self.metrics, heard = Dependents(), Metrics(), Heard()
        self.age = WatchAge(time.monotonic)
        self.ear = Ear(self.queue, self.dependents, heard, self.age.heard)
        self.poller = Poller(heard, lambda pod: self.ear.child(pod["metadata"]))
        self.cluster = KubernetesCluster(api, heard, self.poller.reports, prometheus)
        hearsay = Hearsay(heard, self.poller.reports)
        self.news = News(self.cluster)
        reconciler = Reconciler(self.cluster, platform, self.metrics, hearsay=hearsay, recorder=self.news)
        self.worker = Worker(reconciler, self.queue, lambda key: self._look_at(self.dependents.of(*key)))
        self.watching, self.listed = asyncio.Event(), asyncio.Event()
        self.health = Health(lambda: self.watching.is_set() and self.listed.is_set(), self.age.seconds)

    async def list(self, namespaces: Sequence[str], seconds: float) -> None:
        """List everything now and then."""
        listing = Listing(self.cluster, self.ear, namespaces)
        await listing.run(seconds, self.listed, lambda: self._look_at(self.dependents.all(), MAX_PATIENCE_SECONDS))

    async def work(self, workers: int) -> None:
        """Look at what is due, once everything was listed.

        Before, what is only not known yet would look as if it were not there, and cost a request to find out.
        """
        await self.listed.wait()
        await run_workers(self.queue, self.worker.work, workers)

    def read_metrics(self) -> bytes:
        """All metrics as text."""
        return self.metrics.text(len(self.queue), self.health.lag, self.age.seconds())

    def _look_at(self, keys: Iterable[Key], patience: float = 0.0) -> None:
        for key in keys:
            self.queue.add(key, patience=patience)


async def run(options: argparse.Namespace, platform: Platform) -> None:
    """Hear, queue, reconcile and serve health, until one of them ends."""
    api = await connect()
    parts = Parts(api, platform, Prometheus(options.prometheus_url) if options.prometheus_url else None)
    server = await serve(parts.health, parts.read_metrics, options.health_port)
    try:
        wished = names(options.namespaces)
        namespaces = await watchable(api, wished)
        lost = [namespace for namespace in wished if namespace not in namespaces]
        log.info("watching %s", ", ".join(namespaces) or "the whole cluster")
        watches = kopf.operator(
            registry=bind(parts.ear),
            settings=settings(options.watch_silence_seconds),
            standalone=True,
            # Else kopf asks the system for the name of the user, and the user of a pod has none.
            identity="flowstill-operator",
            clusterwide=not namespaces,
            namespaces=namespaces,
            ready_flag=parts.watching,
        )
        await _until_the_first_ends(
            watches,
            parts.list(namespaces, options.resync_seconds),
            parts.work(options.workers),
            parts.poller.run(),
            parts.news.run(),
            parts.health.beat(),
            *([regained(api, lost)] if lost else []),
        )
    finally:
        await parts.news.flush(LAST_WORDS_SECONDS)
        await server.cleanup()
        await parts.cluster.close()


async def _until_the_first_ends(*parts: object) -> None:
    """The first is kopf's end on SIGTERM, or an error that ends the process, so that a new one is started."""
    tasks = [asyncio.ensure_future(part) for part in parts]  # type: ignore[call-overload]
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    for task in done:
        task.result()


if __name__ == "__main__":
    sys.exit(main())
