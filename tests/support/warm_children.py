"""Children that need not import PyTorch and LeRobot again (16 s of a core each): forks of one warm process.

What runs is the real command (``flowstill-train``, ``flowstill-evaluate``) with the argument vector, environment,
folder and log that ``flowstill run`` gave it, in a process of its own; only the imports are done already.

    python -m tests.support.warm_children serve SOCKET            the warm process
    python -m tests.support.warm_children SOCKET COMMAND ARG…     what stands in a Job's command
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
START_SECONDS = 300
WARM = (
    "flowstill.policies.onnx_runner", "flowstill.policies.torch_runner", "flowstill_trainer.distill",
    "flowstill_evaluator.judge", "flowstill_evaluator.parity", "flowstill_evaluator.rollouts",
    "flowstill_evaluator.suites.reach_around", "onnxruntime",
    "lerobot.policies.pi0.modeling_pi0", "lerobot.policies.pi05.modeling_pi05",
)  # fmt: skip


TOGETHER = "train-together"
"""The command of ``tests.support.train_together``, which is no child."""
LATER_FULL = "FLOWSTILL_TEST_LATER_FULL"
"""Set: the disk seems empty before the training, as it is when others fill it afterwards."""
SIZES = "FLOWSTILL_TEST_SIZES"
"""Set to JSON: resident bytes of the arms' fresh processes, which would be most of an evaluation's time; they are
measured by tests/local/test_train.py."""


class WarmProcess:
    """The warm process and the way to it."""

    def __init__(self, folder: Path) -> None:
        from tests.support.tiny_run import small_path

        self.socket = folder / "s"
        self.log = (folder / "warm.log").open("w")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment["PYTHONPATH"] = small_path()  # no child of a test has the memory for another size
        command = [sys.executable, "-m", "tests.support.warm_children", "serve", str(self.socket)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def wait(self) -> None:
        """Until it takes commands."""
        until = time.monotonic() + START_SECONDS
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the warm process did not start: {Path(self.log.name).read_text()}")
            time.sleep(0.1)

    def command(self, command: list[str]) -> list[str]:
        """The same command, run by a fork."""
        return [sys.executable, str(Path(__file__)), str(self.socket), *command]

    def end(self) -> None:
        """End it and everything it forked."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.log.close()


def warmed(manifest: Callable[..., dict[str, Any]], process: WarmProcess) -> Callable[..., dict[str, Any]]:
    """A controller's ``manifest`` whose Jobs run by the warm process; readers stay as they are."""

    def make(observed: Any, wanted: Any, platform: Any) -> dict[str, Any]:
        job = manifest(observed, wanted, platform)
        container = job["spec"]["template"]["spec"]["containers"][0]
        if not wanted.reader:
            container["command"] = process.command(container["command"])
        return job

    return make


def ask(path: str, command: list[str]) -> int:
    """Have the command run, and end as it ends; SIGTERM is handed on."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        request = json.dumps({"command": command, "environment": dict(os.environ), "folder": os.getcwd()})
        socket.send_fds(connection, [f"{len(request.encode()):10d}".encode()], [1, 2])
        connection.sendall(request.encode())
        with connection.makefile() as answers:
            pid = int(answers.readline())
            signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
            return int(answers.readline() or "1")


def serve(path: str) -> None:
    """Import everything, then fork for every command."""
    import torch

    for name in WARM:
        importlib.import_module(name)
    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{path}.new")
        server.listen(64)
        os.rename(f"{path}.new", path)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, descriptors, _, _ = socket.recv_fds(connection, 10, 2)
    with connection.makefile("rw") as stream:
        request = json.loads(stream.read(int(length)))
        pid = os.fork()
        if pid == 0:
            os._exit(_run(request, descriptors))
        stream.write(f"{pid}\n")
        stream.flush()
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        stream.write(f"{code if code >= 0 else 128 - code}\n")
    os._exit(0)


def _run(request: dict[str, Any], descriptors: list[int]) -> int:
    for number, descriptor in zip((1, 2), descriptors, strict=True):
        os.dup2(descriptor, number)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    import torch

    # A fork's pool of threads is made anew by the first who needs it; two threads at once get none ("Invalid thread
    # pool!", caffe2/utils/threadpool/pthreadpool-cpp.cc of PyTorch 2.11), so it is made while there is but one.
    torch.set_num_threads(1)
    from flowstill_evaluator import memory
    from flowstill_evaluator.cli import main as evaluate
    from flowstill_trainer import preflight
    from flowstill_trainer.cli import main as train

    if os.environ.get(LATER_FULL):
        preflight.free_disk = lambda _: sys.maxsize
    if SIZES in os.environ:
        sizes = json.loads(os.environ[SIZES])
        memory.measure = lambda arms, *_, **__: {arm.name: sizes[arm.name] for arm in arms}
    # An interpreter that starts has read it; here it is another one than the warm process was started with.
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]

    mains = {"flowstill-train": train, "flowstill-evaluate": evaluate, TOGETHER: _together}
    sys.argv = request["command"]
    try:
        return mains[sys.argv[0]]()
    except SystemExit as error:
        return int(error.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _together() -> int:
    from tests.support import train_together

    train_together.main(sys.argv[1], Path(sys.argv[2]))
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    sys.exit(ask(sys.argv[1], sys.argv[2:]))
