"""``python -m flowstill_trainer.launch … -- COMMAND``: the processes of one node of a training.

The environment of each is torchrun's (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR …). torchrun itself would not do: it
ends with 1 whatever its processes ended with, which hides the user's errors from the Job, and it gives them 30 seconds
to save after SIGTERM, whatever the pod's grace.
"""

import argparse
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
FAILED_GRACE_SECONDS = 30.0
"""After one process failed: how long the others have, who may hang in a collective that never ends."""
LOOK_UP_SECONDS = 2.0
SAY_SECONDS = 60.0
INTERRUPTED_EXIT_CODE = 128 + signal.SIGTERM
USER_ERROR_EXIT_CODES = range(64, 79)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="flowstill_trainer.launch", description="Start the ranks of one node.")
    parser.add_argument("--processes", type=int, default=1, help="on each node")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--job", help="with several nodes: node I is called JOB-I.SERVICE")
    parser.add_argument("--service")
    parser.add_argument("--port", type=int, default=0, help="of rank 0, where the ranks meet; default: a free one")
    parser.add_argument("command", nargs="+", help="after --")
    options = parser.parse_args(argv)
    if options.nodes > 1 and not (options.job and options.service and options.port):
        parser.error("--nodes needs --job, --service and --port")
    if options.processes < 1 or not 0 <= options.node_rank < options.nodes:
        parser.error("--processes is at least 1, and --node-rank less than --nodes")
    return options


def rank_environment(options: argparse.Namespace, local_rank: int, address: str, port: int) -> dict[str, str]:
    """What one process is told beside the pod's environment. Rank 0 alone serves progress: the pod has one port."""
    rank = options.node_rank * options.processes + local_rank
    told = {
        "RANK": str(rank),
        "WORLD_SIZE": str(options.nodes * options.processes),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(options.processes),
        "GROUP_RANK": str(options.node_rank),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }
    return told if rank == 0 else {**told, "FLOWSTILL_PROGRESS_PORT": "0"}


class Ranks:
    """The processes of this node, and whether somebody asked them to stop."""

    def __init__(self) -> None:
        self.stopping = False
        self._processes: list[subprocess.Popen[bytes]] = []

    def hear(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM goes to every process, which saves and ends in its own time: the kubelet's patience is the limit."""
        del number, frame
        self.stopping = True
        self._signal(signal.SIGTERM)

    def start(self, command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> None:
        """Start one process for each environment."""
        for environment in environments:
            self._processes.append(subprocess.Popen(list(command), env={**os.environ, **environment}))
        if self.stopping:
            self._signal(signal.SIGTERM)

    def wait(self, sleep: Callable[[float], None] = time.sleep) -> int:
        """The exit code of the node: the first of a user's error, else the first that is not 0, else 0.

        When a process fails by itself the others are ended.
        """
        codes: dict[int, int] = {}
        deadline: float | None = None
        while len(codes) < len(self._processes):
            for process in self._processes:
                code = process.poll()
                if code is not None and process.pid not in codes:
                    codes[process.pid] = code if code >= 0 else 128 - code
                    logger.info("process %d ended with %d", process.pid, codes[process.pid])
            if deadline is None and not self.stopping and any(codes.values()):
                deadline = time.monotonic() + FAILED_GRACE_SECONDS
                self._signal(signal.SIGTERM)
            if deadline is not None and time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
            sleep(POLL_SECONDS)
        failed = [code for code in codes.values() if code]
        users = [code for code in failed if code in USER_ERROR_EXIT_CODES]
        return next(iter([*users, *failed]), 0)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            process.send_signal(number)


def wait_for_names(names: Sequence[str], ranks: Ranks, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Until every node has an address: False when asked to stop before. A pod that waits for a GPU may take hours."""
    said = float("-inf")
    while not ranks.stopping:
        missing = [name for name in names if not _resolves(name)]
        if not missing:
            return True
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            logger.info("waiting for the pods %s", ", ".join(missing))
        sleep(LOOK_UP_SECONDS)
    return False


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def main(argv: Sequence[str] | None = None) -> int:
    """Run this node's processes to their end; the exit code says how they ended."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    options = arguments(sys.argv[1:] if argv is None else argv)
    ranks = Ranks()
    signal.signal(signal.SIGTERM, ranks.hear)
    address, port = "127.0.0.1", options.port or _free_port()
    if options.nodes > 1:
        names = [f"{options.job}-{node}.{options.service}" for node in range(options.nodes)]
        address = names[0]
        if not wait_for_names(names, ranks):
            return INTERRUPTED_EXIT_CODE
    ranks.start(
        options.command, [rank_environment(options, local, address, port) for local in range(options.processes)]
    )
    return ranks.wait()


if __name__ == "__main__":
    sys.exit(main())
