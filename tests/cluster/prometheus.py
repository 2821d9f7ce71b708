"""The real Prometheus, and something for it to scrape: a server of a policy whose metrics the test says."""

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.cluster.chart import CHART, Documents
from tests.cluster.harness import binaries
from tests.cluster.harness.cache import Report
from tests.cluster.harness.processes import Background, free_port, run, start, wait_until
from tests.support.serving import serving

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class PolicyServer:
    """``/metrics`` on loopback, as a robot's server of a policy has it.

    ``values``: its series. ``growth``: what is added to one with every scrape.
    """

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.growth: dict[str, float] = {}
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = owner.text().encode()
                self.send_response(200)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.http.server_port}"

    def text(self) -> str:
        """One scrape."""
        for name, step in self.growth.items():
            self.values[name] += step
        return "".join(f"{name} {value}\n" for name, value in self.values.items())


@contextmanager
def policy_server() -> Iterator[PolicyServer]:
    """One that runs until the end of the block."""
    server = PolicyServer()
    with serving(server.http):
        yield server


class RealPrometheus:
    """A Prometheus of its own, whose address is known before it runs; stopped and started, it keeps its data."""

    def __init__(self, folder: Path, report: Report) -> None:
        self._binary = binaries.ensure((binaries.PROMETHEUS,), report)[binaries.PROMETHEUS.name]
        self._folder = folder
        self._address = f"127.0.0.1:{free_port('127.0.0.1')}"
        self.url = f"http://{self._address}"
        self._running: Background | None = None

    def start(self, targets: dict[str, str], rules: Path) -> None:
        """Scrape these addresses, by the job's name, and evaluate the rules, every second; return when it answers."""
        jobs = [{"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in targets.items()]
        every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config = self._folder / "prometheus.json"
        config.write_text(json.dumps({"global": every, "rule_files": [str(rules)], "scrape_configs": jobs}))
        flags = [f"--config.file={config}", f"--storage.tsdb.path={self._folder / 'data'}"]
        command = [str(self._binary), *flags, f"--web.listen-address={self._address}"]
        process = self._running = start("prometheus", command, self._folder)
        wait_until("Prometheus is ready", self._is_ready, 60.0, (process,))

    def stop(self) -> None:
        """Nothing listens there then."""
        if self._running is not None:
            self._running.stop(30)

    def series(self, query: str) -> list[dict[str, Any]]:
        """What an instant query gives now."""
        found: list[dict[str, Any]] = self.get("query", query=query)["result"]
        return found

    def get(self, what: str, **parameters: str) -> Any:
        """The ``data`` of ``/api/v1/WHAT``; an answer that is no success, or that Prometheus remarks on, fails."""
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            body = json.load(answer)
        assert body["status"] == "success", body
        assert not {"warnings", "infos"} & body.keys(), body
        return body["data"]

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def rendered_rules(folder: Path, report: Report) -> Path:
    """The groups of the PrometheusRule as the chart renders it, as a file that Prometheus reads."""
    helm = binaries.ensure((binaries.HELM,), report)["helm"]
    text = run([str(helm), "template", "fs", str(CHART), "--set", "metrics.rules.enabled=true"])
    (document,) = Documents.read(text).of("PrometheusRule")
    path = folder / "rules.json"
    path.write_text(json.dumps(document["spec"]))
    return path
