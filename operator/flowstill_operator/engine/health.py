"""``/healthz``, ``/readyz`` and ``/metrics`` of the operator."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

HEARTBEAT_SECONDS = 1.0
MAX_LAG_SECONDS = 30.0


@dataclass
class Health:
    """Whether the event loop keeps up, whether the watches have begun, and how long they have been silent (s)."""

    ready: Callable[[], bool]
    watch_age: Callable[[], float]
    lag: float = 0.0

    async def beat(self) -> None:
        """Measure the loop's lag for ever: how late a sleeping task wakes up (s)."""
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self.lag = loop.time() - before - HEARTBEAT_SECONDS

    def alive(self) -> bool:
        """Whether the event loop keeps up. Silent watches begin anew by themselves, and are no reason to die."""
        return self.lag < MAX_LAG_SECONDS


async def serve(health: Health, metrics: Callable[[], bytes], port: int) -> web.AppRunner:
    """Serve on all addresses, because the kubelet asks from outside; clean up the runner at the end."""

    async def healthz(_: web.Request) -> web.Response:
        text = f"lag {health.lag:.3f} s, watches silent for {health.watch_age():.0f} s"
        return web.Response(text=text, status=200 if health.alive() else 503)

    async def readyz(_: web.Request) -> web.Response:
        ready = health.ready()
        return web.Response(text="ready" if ready else "the watches have not begun", status=200 if ready else 503)

    async def metrics_text(_: web.Request) -> web.Response:
        return web.Response(body=metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics_text)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port).start()
    return runner
