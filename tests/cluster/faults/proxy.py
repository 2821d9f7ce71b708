"""A proxy between one client and the API server that makes faults, and remembers every request."""

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from tests.cluster.faults.calls import Call, Document, read_call
from tests.cluster.faults.kinds import ANSWERS, Fault, Kind
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.kubeconfig import client_tls

RETRY_AFTER_SECONDS = 2
SLOW_SECONDS = (0.3, 1.5)
HELD_SECONDS = 0.5
"""How long an event that is to be overtaken waits for the one that overtakes it."""
LINES_BEFORE_THE_FAULT = (0, 4)
HEADERS = ("Accept", "Content-Type", "User-Agent")


class FaultProxy:
    """Serves plain HTTP on loopback in a thread of its own, and speaks to the API server as its administrator.

    ``faults`` may be set at any time, and holds from the next request and event on.
    """

    def __init__(self, plane: ControlPlane, folder: Path, seed: int) -> None:
        self.faults: tuple[Fault, ...] = ()
        self.calls: list[Call] = []
        self.made: Counter[Kind] = Counter()
        self.kubeconfig = folder / "proxy.kubeconfig"
        self._plane = plane
        self._random = random.Random(seed)
        self._left: dict[Fault, int] = {}
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)

    def start(self) -> None:
        """Listen, and write the kubeconfig that leads here."""
        self._thread.start()
        assert self._ready.wait(30), "the proxy did not start"

    def stop(self) -> None:
        """Close every connection."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(30)

    async def _serve(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.kubeconfig.write_text(json.dumps(_kubeconfig(*runner.addresses[0])))
        connector = aiohttp.TCPConnector(ssl=client_tls(self._plane.kubeconfig), limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self._session:
            self._ready.set()
            await self._ended.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call = read_call(request.method, request.path, request.query.get("watch") in ("true", "1"), body)
        self.calls.append(call)
        fault = self._draw(call)
        if fault is not None:
            call.fault = fault
        if fault == "slow":
            await asyncio.sleep(self._random.uniform(*SLOW_SECONDS))
        elif fault in ANSWERS:
            return _answer(fault)
        elif fault == "lost request":
            return _hang_up(request)
        if call.watch:
            async with self._ask(request, call) as answer:
                call.performed = answer.status
                if answer.status == 200:
                    return await self._stream(request, answer, call, fault)
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)
        # A client that dies meanwhile has asked all the same, and the API server does what it was asked.
        response = await asyncio.shield(asyncio.ensure_future(self._forward(request, call)))
        return _hang_up(request) if fault == "lost answer" else response

    def _ask(self, request: web.Request, call: Call) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        headers = {key: request.headers[key] for key in HEADERS if key in request.headers}
        # Bodies are passed on as they come, and looked into.
        headers["Accept-Encoding"] = "identity"
        url = self._plane.server + str(request.rel_url)
        return self._session.request(request.method, url, data=call.body or None, headers=headers)

    async def _forward(self, request: web.Request, call: Call) -> web.Response:
        async with self._ask(request, call) as answer:
            call.performed = answer.status
            call.answer = await answer.read()
            return web.Response(status=answer.status, body=call.answer, content_type=answer.content_type)

    async def _stream(
        self, request: web.Request, answer: aiohttp.ClientResponse, call: Call, fault: Kind | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        if fault == "silent":
            # Until the client gives up, or the server ends the watch, which is not passed on.
            await self._ended.wait()
        left = self._random.randint(*LINES_BEFORE_THE_FAULT)
        async for line in self._events(answer, call):
            if fault in ("gone", "cut") and left == 0:
                await response.write(_expired() if fault == "gone" else line[: len(line) // 2])
                if fault == "cut":
                    return _hang_up(request, response)
                break
            left -= 1
            await response.write(line)
        await response.write_eof()
        return response

    async def _events(self, answer: aiohttp.ClientResponse, call: Call) -> AsyncIterator[bytes]:
        """The lines of a watch, some twice and some after the one that followed."""
        lines = _lines(answer).__aiter__()
        while True:
            line = await anext(lines, None)
            if line is None:
                return
            if self._drawn("reordered", call):
                following = asyncio.ensure_future(anext(lines, None))
                await asyncio.wait([following], timeout=HELD_SECONDS)
                if following.done() and (overtaking := following.result()) is not None:
                    yield overtaking
                yield line
                if not following.done() and (late := await following) is not None:
                    yield late
                continue
            yield line
            if self._drawn("duplicated", call):
                yield line

    def _draw(self, call: Call) -> Kind | None:
        """The fault that befalls the request; the kinds of single events are drawn for each event."""
        for fault in self.faults:
            if fault.kind not in ("duplicated", "reordered") and self._befalls(fault, call):
                return fault.kind
        return None

    def _drawn(self, kind: Kind, call: Call) -> bool:
        return any(fault.kind == kind and self._befalls(fault, call) for fault in self.faults)

    def _befalls(self, fault: Fault, call: Call) -> bool:
        if not fault.may_befall(call) or self._random.random() >= fault.chance:
            return False
        if fault.times is not None:
            left = self._left.setdefault(fault, fault.times)
            if left == 0:
                return False
            self._left[fault] = left - 1
        self.made[fault.kind] += 1
        return True


@contextmanager
def running_proxy(plane: ControlPlane, folder: Path, seed: int) -> Iterator[FaultProxy]:
    """A proxy without faults yet."""
    print(f"the proxy's seed is {seed}")
    proxy = FaultProxy(plane, folder, seed)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    buffer = b""
    async for chunk in answer.content.iter_any():
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            yield line + b"\n"


def _answer(kind: Kind) -> web.Response:
    code, reason = ANSWERS[kind]
    details = {"retryAfterSeconds": RETRY_AFTER_SECONDS} if kind == "too many" else {}
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if kind == "too many" else {}
    return web.json_response(_status(code, reason, details), status=code, headers=headers)


def _expired() -> bytes:
    event = {"type": "ERROR", "object": _status(410, "Expired", {})}
    return json.dumps(event).encode() + b"\n"


def _status(code: int, reason: str, details: Document) -> Document:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"made by the fault proxy: {reason}",
        "reason": reason,
        "details": details,
        "code": code,
    }


def _hang_up(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Cut the connection: the client cannot know what became of its request."""
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response()


def _kubeconfig(host: str, port: int) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "proxy",
        "clusters": [{"name": "proxy", "cluster": {"server": f"http://{host}:{port}"}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "nobody"}}],
        "users": [{"name": "nobody", "user": {}}],
    }
