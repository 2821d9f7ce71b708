"""``GET /progress`` (JSON) and ``GET /metrics`` (Prometheus text) of a child."""

import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from flowstill.api.children import ProgressReport


class ProgressServer:
    """Serves the newest report in threads of its own, until it is closed.

    Args:
        address: interface ("": all) and port (0: any free one).
        report: gives the newest report.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, address: tuple[str, int], report: Callable[[], ProgressReport]) -> None:
        self._server = _Server(address, _handler(report))
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="progress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        # A pod has addresses of either IP version, so "every interface" means both.
        self._both = address[0] == "" and socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if self._both else socket.AF_INET
        super().__init__(address, handler)

    def server_bind(self) -> None:
        if self._both:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked may have gone meanwhile, which is nobody's error here and no line of the child's log."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(report: Callable[[], ProgressReport]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_GET(self) -> None:
            if self.path == "/progress":
                self._answer("application/json", report().model_dump_json(by_alias=True))
            elif self.path == "/metrics":
                self._answer("text/plain; version=0.0.4; charset=utf-8", metrics_text(report()))
            else:
                self.send_error(404, "only /progress and /metrics")

        def _answer(self, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a line for every look of the operator would bury the child's own."""

    return Handler


def metrics_text(report: ProgressReport) -> str:
    """The report as Prometheus gauges; what is unknown is left out."""
    gauges = [
        ("flowstill_child_step", "Steps done of the current activity.", report.step),
        ("flowstill_child_total_steps", "Steps of the current activity.", report.total_steps),
        (
            "flowstill_child_estimated_remaining_seconds",
            "Estimated time to the end of the current activity.",
            report.estimated_remaining_seconds,
        ),
        ("flowstill_child_loss", "The newest training loss.", report.loss),
        ("flowstill_child_samples_per_second", "Throughput.", report.samples_per_second),
    ]
    escaped = report.activity.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    lines = []
    for name, text, value in gauges:
        if value is not None:
            lines += [
                f"# HELP {name} {text}",
                f"# TYPE {name} gauge",
                f'{name}{{activity="{escaped}"}} {value}',
            ]
    return "\n".join(lines) + "\n"
