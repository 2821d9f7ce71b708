"""A plain kopf operator of the usual shape: the reference of bench/scale.py.

A handler creates the Job, and a timer for each object reads the Job and patches the status. It does nothing else that
Flowstill's operator does.

    KUBECONFIG=FILE .venv/bin/python -m bench.plain_operator --health-port PORT
"""

import argparse
import asyncio
from typing import Any

import kopf
from aiohttp import web
from kubernetes.aio import client, config

GROUP, VERSION, PLURAL = "flowstill.dev", "v1alpha1", "distilljobs"
INTERVAL_SECONDS = 15.0
PHASES = (("succeeded", "Succeeded"), ("failed", "Failed"), ("ready", "Running"))


def bind(batch: client.BatchV1Api, seen: set[str]) -> kopf.OperatorRegistry:
    """The handlers; ``seen`` collects the objects that a timer has looked at."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(kopf.login_via_client)

    @kopf.on.create(GROUP, VERSION, PLURAL, registry=registry)
    async def create(body: Any, name: str, namespace: str, patch: Any, **_: Any) -> None:
        job = _job(name)
        kopf.adopt(job, owner=body)
        await batch.create_namespaced_job(namespace, job)
        patch.status["phase"] = "Queued"

    @kopf.timer(GROUP, VERSION, PLURAL, registry=registry, interval=INTERVAL_SECONDS)
    async def look(name: str, namespace: str, status: Any, patch: Any, **_: Any) -> None:
        seen.add(name)
        try:
            job = await batch.read_namespaced_job(name, namespace)
        except client.ApiException as error:
            if error.status != 404:
                raise
            return
        phase = next((phase for count, phase in PHASES if getattr(job.status, count)), "Queued")
        if status.get("phase") != phase:
            patch.status["phase"] = phase

    return registry


def _job(name: str) -> dict[str, Any]:
    container = {"name": "child", "image": "localhost/trainer:test"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    metadata = {"name": name, "labels": {"flowstill.dev/owner-kind": "DistillJob"}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}}


async def run(port: int) -> None:
    """Run until SIGTERM, and say at ``/metrics`` how many objects were looked at."""
    await config.load_kube_config()
    seen: set[str] = set()
    app = web.Application()

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=f'flowstill_reconcile_total{{kind="DistillJob",outcome="ok"}} {len(seen)}\n')

    app.router.add_get("/metrics", metrics)
    app.router.add_get("/readyz", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    async with client.ApiClient() as api:
        registry = bind(client.BatchV1Api(api), seen)
        await kopf.operator(registry=registry, settings=settings, standalone=True, clusterwide=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--health-port", type=int, required=True)
    asyncio.run(run(parser.parse_args().health_port))
