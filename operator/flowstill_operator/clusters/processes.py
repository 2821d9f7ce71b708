"""A Job's container as a process of this machine, with the Job's own rules for failures."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from flowstill.api.children import ProgressReport
from flowstill.artifacts.atomic import storage_full, write_atomic
from flowstill_operator.children import CONTAINER, Document
from flowstill_operator.jobs import INDEX_REFERENCE, INDEX_VARIABLE, SPEC_FILE
from flowstill_operator.ranks import INDEX_ANNOTATION

NAMESPACE = "local"
PORT_ANNOTATION = "flowstill.dev/progress-port"
MAX_BACK_OFF_SECONDS = 60.0
PROGRESS_TIMEOUT_SECONDS = 1.0
CONTAINER_ONLY = frozenset({"HOME", "FLOWSTILL_PROGRESS_PORT"})
"""Environment of the pod that means nothing outside it."""


@dataclass(frozen=True)
class Attempt:
    """Where one attempt's files lie, and where it serves its progress."""

    folder: Path
    port: int

    @property
    def log(self) -> Path:
        """What the process wrote to its standard output and error."""
        return self.folder / "log.txt"

    @property
    def termination_log(self) -> Path:
        """The process's last words."""
        return self.folder / "termination.log"

    @property
    def process_file(self) -> Path:
        """Which process it is, for a later run that finds it alive."""
        return self.folder / "process"


def new_attempt(folder: Path) -> Attempt:
    """A folder and a free port for the next attempt.

    Raises:
        StorageFull: there is no room for a log.
    """
    with storage_full("an attempt", folder.parent):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "termination.log").touch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return Attempt(folder, port)


def command_of(job: Document, spec_file: Path, index: int | None = None) -> list[str]:
    """The container's command with the path of its spec on this machine, and its index of an Indexed Job."""
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    if index is not None:
        command = [part.replace(INDEX_REFERENCE, str(index)) for part in command]
    program = [str(spec_file) if part == SPEC_FILE else part for part in command]
    if program[0] == "python3":
        program[0] = sys.executable
    return program


def environment_of(job: Document, attempt: Attempt, index: int | None = None) -> dict[str, str]:
    """This machine's environment with the container's over it; our own commands come first in PATH."""
    container = job["spec"]["template"]["spec"]["containers"][0]
    given = {e["name"]: e["value"] for e in container.get("env", []) if e["name"] not in CONTAINER_ONLY}
    bin_folder = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join([bin_folder, os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        **given,
        **({} if index is None else {INDEX_VARIABLE: str(index)}),
        "FLOWSTILL_PROGRESS_PORT": str(attempt.port),
        "FLOWSTILL_TERMINATION_LOG": str(attempt.termination_log),
    }


class ChildProcess:
    """One attempt. It has its own process group, so that Ctrl-C reaches it only as our SIGTERM."""

    def __init__(self, process: asyncio.subprocess.Process, attempt: Attempt) -> None:
        self._process = process
        self.attempt = attempt

    @classmethod
    async def start(cls, job: Document, spec_file: Path, attempt: Attempt, index: int | None = None) -> "ChildProcess":
        """Start it; ``index``: which pod of an Indexed Job it is.

        Raises:
            FileNotFoundError: the command is not installed.
            StorageFull: it cannot be written down which process it is; it does not run.
        """
        with storage_full("the log", attempt.folder), attempt.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command_of(job, spec_file, index),
                env=environment_of(job, attempt, index),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        child = cls(process, attempt)
        try:
            write_atomic(attempt.process_file, f"{process.pid} {_start_ticks(process.pid)}".encode("ascii"))
        except BaseException:
            child.kill()
            await process.wait()
            raise
        return child

    async def wait(self, deadline: float | None) -> int | None:
        """Its exit code (128 + n for signal n); None when it was still running after ``deadline`` seconds."""
        try:
            code = await asyncio.wait_for(self._process.wait(), deadline)
        except TimeoutError:
            return None
        return code if code >= 0 else 128 - code

    async def stop(self, grace: float) -> None:
        """SIGTERM to its whole group, so that it saves its checkpoint; SIGKILL after ``grace`` seconds."""
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), grace)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._process.wait()
        self._signal(signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL to its whole group."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def end_left_over(process_file: Path, grace: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """End the process that a killed run left behind, when it is really that one: same id, same start."""
    try:
        pid_text, ticks = process_file.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return
    pid, until = int(pid_text), time.monotonic() + grace
    number: int = signal.SIGTERM
    while ticks != "unknown" and _start_ticks(pid) == ticks:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
        if time.monotonic() > until:
            number = signal.SIGKILL
        sleep(0.1)


def _start_ticks(pid: int) -> str:
    """When the process began, in clock ticks since boot; ``unknown`` when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "unknown"
    fields = text.rpartition(")")[2].split()
    return "unknown" if fields[0] in ("Z", "X") else fields[19]


def user_error(job: Document, code: int) -> bool:
    """Whether the Job's podFailurePolicy fails the Job at once for that exit code."""
    rules = (job["spec"].get("podFailurePolicy") or {}).get("rules") or []
    return any(
        rule["action"] == "FailJob" and code in (rule.get("onExitCodes") or {}).get("values", ()) for rule in rules
    )


def back_off(failures: int) -> float:
    """Seconds before the next attempt."""
    return float(min(MAX_BACK_OFF_SECONDS, 2.0 ** (failures - 1)))


def fetch_progress(url: str) -> ProgressReport | None:
    """What the process behind that address says about itself; None when it does not answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=PROGRESS_TIMEOUT_SECONDS) as response:
            return ProgressReport.model_validate_json(response.read(65_536))
    except (OSError, ValidationError, urllib.error.URLError):
        return None


def pod_of(
    job: str, number: int, port: int, code: int | None = None, message: str = "", index: int | None = None
) -> Document:
    """An attempt in the shape of a pod; names sort as attempts do. ``index``: which pod of an Indexed Job it is."""
    shard = {} if index is None else {INDEX_ANNOTATION: str(index)}
    phase = "Running" if code is None else ("Succeeded" if code == 0 else "Failed")
    state = {"running": {}} if code is None else {"terminated": {"exitCode": code, "message": message}}
    return {
        "metadata": {
            "name": f"{job}-{number:06d}",
            "namespace": NAMESPACE,
            "annotations": {PORT_ANNOTATION: str(port), **shard},
        },
        "status": {"phase": phase, "containerStatuses": [{"name": CONTAINER, "state": state}]},
    }
