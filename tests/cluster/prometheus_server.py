"""A server on loopback that speaks Prometheus's ``/api/v1/query``, and answers as it is told."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from tests.support.serving import serving


class PrometheusServer:
    """``values``: the answers by query; a query without one has no series. ``broken``: it answers 503."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.asked: list[str] = []
        self.broken = False
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                (query,) = parse_qs(body)["query"]
                owner.asked.append(query)
                status, answer = owner.answer(self.path, query)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, path: str, query: str) -> tuple[int, dict[str, object]]:
        """HTTP status and body."""
        if path != "/api/v1/query":
            return 404, {}
        if self.broken:
            return 503, {"status": "error", "errorType": "unavailable", "error": "no storage"}
        series = [{"metric": {}, "value": [0, str(self.values[query])]}] if query in self.values else []
        return 200, {"status": "success", "data": {"resultType": "vector", "result": series}}


@contextmanager
def prometheus_server() -> Iterator[PrometheusServer]:
    """One that runs until the end of the block."""
    server = PrometheusServer()
    with serving(server.http):
        yield server
