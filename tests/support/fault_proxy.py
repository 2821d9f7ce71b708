"""A proxy on loopback between a client and a store: cuts connections, flips bytes, answers in the store's place."""

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Literal

from tests.support.loopback import serving


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests of ``method`` whose path contains ``path``.

    ``cut``: the answer ends after ``at`` bytes of its body; ``flip`` and ``flip-request``: the byte at ``at`` of the
    body is another; ``answer``: with ``status`` and ``body``, and the store hears nothing. ``header``: only requests
    with it.
    """

    kind: Literal["cut", "flip", "flip-request", "answer"]
    path: str = ""
    method: str = "GET"
    at: int = 0
    times: int = 1
    status: int = 503
    body: bytes = b""
    header: str | None = None
    after: int = 0
    """Requests that it lets through first."""
    shared: list[int] | None = None
    """The same number, counted together with other faults."""
    least: int = 0
    """Only answers (of flip-request: requests) whose body has more bytes."""


@dataclass
class Seen:
    """A request that came through."""

    method: str
    path: str
    range: str | None


@dataclass
class FaultProxy:
    """Listens on a port of its own."""

    upstream: tuple[str, int]
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    def take(
        self, method: str, path: str, headers: http.client.HTTPMessage, kinds: set[str], size: int
    ) -> Fault | None:
        """The fault that this request meets, counted."""
        for fault in self.faults:
            met = fault.kind in kinds and fault.times > 0 and fault.method == method and fault.path in path
            met = met and (fault.header is None or fault.header in headers)
            if met and size > max(fault.least, fault.at):
                if fault.after > 0:
                    fault.after -= 1
                    continue
                if fault.shared is not None and fault.shared[0] > 0:
                    fault.shared[0] -= 1
                    continue
                fault.times -= 1
                return fault
        return None


def flipped(body: bytes, at: int) -> bytes:
    """The same with one bit of one byte changed."""
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A proxy before ``http://HOST:PORT``."""
    host, _, port = upstream.removeprefix("http://").partition(":")
    proxy = FaultProxy((host, int(port)))

    with serving(type("Handler", (_Handler,), {"proxy": proxy})) as proxy.url:
        yield proxy


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def log_message(self, *arguments: object) -> None:
        """Nothing on the test's output."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, http.client.HTTPException):
            self.close_connection = True

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.proxy.seen.append(Seen(self.command, self.path, self.headers.get("Range")))
        answer = self.proxy.take(self.command, self.path, self.headers, {"answer"}, 1)
        if answer is not None:
            self._send(answer.status, [("Content-Type", "application/xml")], answer.body, len(answer.body))
            return
        damage = self.proxy.take(self.command, self.path, self.headers, {"flip-request"}, len(body))
        status, headers, content = self._ask(body if damage is None else flipped(body, damage.at))
        whole = len(content)
        fault = self.proxy.take(self.command, self.path, self.headers, {"cut", "flip"}, whole)
        if fault is not None and fault.kind == "flip":
            content = flipped(content, fault.at)
        elif fault is not None:
            content = content[: fault.at]
        self._send(status, headers, content, whole)
        if len(content) < whole:
            self.close_connection = True
            self.connection.close()

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(*self.proxy.upstream, timeout=30)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    upstream.putheader(name, value)
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            upstream.close()

    def _send(self, status: int, headers: list[tuple[str, str]], content: bytes, whole: int) -> None:
        self.send_response_only(status)
        length = None
        for name, value in headers:
            if name.lower() == "content-length":
                length = value
            elif name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        # What a HEAD is told is the length of a body that does not come.
        self.send_header("Content-Length", length if self.command == "HEAD" and length is not None else str(whole))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle
