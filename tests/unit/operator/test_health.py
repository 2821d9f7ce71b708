"""What the kubelet is told: when the operator is to be started anew, and when it has begun."""

import asyncio
import time

import aiohttp
import pytest

from flowstill_operator.engine.health import MAX_LAG_SECONDS, Health, serve


@pytest.fixture
def health():
    return Health(ready=lambda: True, watch_age=lambda: 3.2)


async def read(health, path):
    """Status and body of that path on a real server."""
    runner = await serve(health, lambda: b"some_metric 1\n", 0)
    try:
        port = runner.addresses[0][1]
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, await answer.text()
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("lag", "code"), [(0.0, 200), (MAX_LAG_SECONDS - 0.1, 200), (MAX_LAG_SECONDS, 503)])
async def test_an_event_loop_that_lags_is_to_be_killed_and_both_numbers_are_said(health, lag, code):
    health.lag = lag
    assert await read(health, "/healthz") == (code, f"lag {lag:.3f} s, watches silent for 3 s")


async def test_silent_watches_are_said_and_are_no_reason_to_kill_the_operator(health):
    """They begin anew by themselves, and while the API server is away a new process hears no more."""
    health.watch_age = lambda: 7200.0
    assert await read(health, "/healthz") == (200, "lag 0.000 s, watches silent for 7200 s")


async def test_it_is_ready_when_the_watches_have_begun(health):
    begun = asyncio.Event()
    health.ready = begun.is_set
    assert await read(health, "/readyz") == (503, "the watches have not begun")
    assert (await read(health, "/healthz"))[0] == 200
    begun.set()
    assert await read(health, "/readyz") == (200, "ready")


async def test_the_lag_is_how_late_a_sleeping_task_wakes_up(health, monkeypatch):
    monkeypatch.setattr("flowstill_operator.engine.health.HEARTBEAT_SECONDS", 0.05)
    beating = asyncio.create_task(health.beat())
    await asyncio.sleep(0.01)
    time.sleep(0.5)  # What must not happen, and is measured.
    await asyncio.sleep(0.01)
    late = health.lag
    assert 0.3 < late < MAX_LAG_SECONDS
    async with asyncio.timeout(10):
        while health.lag >= late:
            await asyncio.sleep(0.05)
    beating.cancel()


async def test_metrics_are_text_for_prometheus(health):
    assert await read(health, "/metrics") == (200, "some_metric 1\n")
