"""The operator as a process of its own against a control plane, and the CRDs that it needs."""

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.processes import Background, free_port, log_end, start
from tests.cluster.waiting import until

CRDS = Path(__file__).parents[2] / "crds"


@contextmanager
def installed_crds(plane: ControlPlane) -> Iterator[ControlPlane]:
    """The CRDs, and at the end none of them, nor any resource of theirs."""
    plane.kubectl("apply", "-f", str(CRDS))
    await_crds(plane)
    yield plane
    plane.kubectl("delete", "crd", "--all")


def await_crds(plane: ControlPlane) -> None:
    """Until the API server serves every CRD; `kubectl wait` fails on one without any condition, as each is at first."""
    until(lambda: _established(plane), "the API server serves the CRDs", lambda: plane.get("crd"))


def _established(plane: ControlPlane) -> bool:
    states = [
        {(c["type"], c["status"]) for c in crd.get("status", {}).get("conditions") or []}
        for crd in plane.get("crd")["items"]
    ]
    return all(("Established", "True") in state for state in states)


class OperatorProcess:
    """One ``flowstill-operator`` that may be killed and started again; its log goes to ``folder/NAME.log``.

    ``flags``: more of its command line. ``kubeconfig``: its way to the API server, by default the administrator's.
    """

    def __init__(
        self,
        plane: ControlPlane,
        folder: Path,
        name: str = "operator",
        *flags: str,
        kubeconfig: Path | None = None,
    ) -> None:
        self.name, self.folder, self._flags = name, folder, flags
        self.port = free_port("127.0.0.1")
        self._environment = {**plane.environment(), "KUBECONFIG": str(kubeconfig or plane.kubeconfig)}
        self._running: Background | None = None

    def start(self) -> None:
        """Start it; it hears a little later (see ``await_ready``)."""
        command = [
            str(Path(sys.executable).parent / "flowstill-operator"),
            "--trainer-image=localhost/trainer:test",
            "--evaluator-image=localhost/evaluator:test",
            "--store=pvc://flowstill-store",
            f"--health-port={self.port}",
            *self._flags,
        ]
        self._running = start(self.name, command, self.folder, self._environment)

    def await_ready(self) -> None:
        """Return when its watches have begun."""
        until(lambda: self.read("/readyz")[0] == 200, "the operator is ready", self.log)

    def read(self, path: str) -> tuple[int, str]:
        """HTTP status and body of ``path`` on its health port; (0, why) when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._running is not None and self._running.process.poll() is None

    def kill(self) -> None:
        """SIGKILL: it has no chance to finish anything."""
        if self._running is not None:
            self._running.process.kill()
            self._running.process.wait(30)

    def stop(self) -> None:
        """SIGTERM, as a pod's end."""
        if self._running is not None:
            self._running.stop(30)

    def log(self) -> str:
        """The end of what it wrote."""
        return log_end(self.folder / f"{self.name}.log", 40)


@contextmanager
def running_operator(
    plane: ControlPlane,
    folder: Path,
    name: str = "operator",
    *flags: str,
    kubeconfig: Path | None = None,
) -> Iterator[OperatorProcess]:
    """An operator that hears; its log is printed at the end, for a test that failed."""
    process = OperatorProcess(plane, folder, name, *flags, kubeconfig=kubeconfig)
    process.start()
    try:
        process.await_ready()
        yield process
    finally:
        process.stop()
        print(process.log())
