"""Background processes with a log file each, which die with the harness even when it is killed."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.harness.errors import HarnessError


class CommandError(HarnessError):
    """A command ended with an error; `stderr` has what it said."""

    def __init__(self, command: list[str], code: int, stdout: str, stderr: str) -> None:
        super().__init__(f"`{' '.join(command)}` ended with {code}:\n{stdout[-2000:]}{stderr[-4000:]}")
        self.code, self.stdout, self.stderr = code, stdout, stderr


def run(command: list[str], stdin: str = "", environment: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command to its end and return what it wrote to standard output.

    Raises:
        CommandError: the exit code is not 0.
    """
    done = subprocess.run(command, input=stdin, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandError(command, done.returncode, done.stdout, done.stderr)
    return done.stdout


@dataclass(frozen=True)
class Background:
    """A running process, by name, with the file that its output goes to."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check_alive(self) -> None:
        """Raise HarnessError with the end of the log when the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise HarnessError(f"{self.name} ended by itself with {code}; the end of {self.log}:\n{log_end(self.log)}")

    def stop(self, grace_s: float = 10.0) -> None:
        """End the process: SIGTERM, then SIGKILL after `grace_s` seconds."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(name: str, command: list[str], folder: Path, environment: dict[str, str] | None = None) -> Background:
    """Start `command` with its output in ``folder/NAME.log``; the kernel kills it when this process dies."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise HarnessError("there is no `setpriv`: install the package util-linux")
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [setpriv, "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    return Background(name, process, log)


def wait_until(what: str, ready: Callable[[], bool], limit_s: float, alive: tuple[Background, ...] = ()) -> None:
    """Poll `ready` until it is true.

    Raises:
        HarnessError: `limit_s` seconds have passed, or one of the processes in `alive` has ended.
    """
    end = time.monotonic() + limit_s
    while not ready():
        for process in alive:
            process.check_alive()
        if time.monotonic() > end:
            logs = "\n".join(f"--- {process.log}\n{log_end(process.log)}" for process in alive)
            raise HarnessError(f"{what}: not within {limit_s:.0f} s\n{logs}")
        time.sleep(0.1)


def log_end(path: Path, lines: int = 15) -> str:
    """Return the last lines of a log file."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""


def free_port(address: str) -> int:
    """Return a TCP port that nobody listens on at `address` now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
