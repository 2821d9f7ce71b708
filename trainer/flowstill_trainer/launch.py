"""``python -m flowstill_trainer.launch --nproc-per-node N -- --spec FILE --output DIR``: the processes of one node.

``torchrun`` starts the trainer as well, and with the same variables. It ends with 1 whatever its processes end with, so
a Job would try a user's error again, and it kills them 30 seconds after SIGTERM, whatever the pod's grace period. This
ends as they do, and leaves the time to whoever sent the signal.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from flowstill.child.threads import usable_cores

LOOK_SECONDS = 0.2
PATIENCE_SECONDS = 90.0
"""What the other processes have to end by themselves after one has failed; then they are killed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Start this node's processes of ``flowstill-train`` and wait for them; returns the exit code."""
    parser = argparse.ArgumentParser(description="Start flowstill-train in several processes of one node.")
    parser.add_argument("--nproc-per-node", type=_count, default=1, help="processes of each node, one a GPU")
    parser.add_argument("--nnodes", type=_count, default=1, help="nodes")
    parser.add_argument("--node-rank", type=int, default=0, help="number of this node, from 0")
    parser.add_argument("--master-addr", default="127.0.0.1", help="where the first process of node 0 is")
    parser.add_argument("--master-port", type=int, default=0, help="its port; 0: any free one, of one node only")
    parser.add_argument("rest", nargs="+", metavar="-- ARGUMENT", help="flowstill-train's arguments")
    options = parser.parse_args(argv)
    if options.nnodes > 1 and options.master_port == 0:
        parser.error("several nodes need the same --master-port")
    if not 0 <= options.node_rank < options.nnodes:
        parser.error(f"--node-rank {options.node_rank} is not below --nnodes {options.nnodes}")
    command = [sys.executable, "-m", "flowstill_trainer.cli", *options.rest]
    count, size = options.nproc_per_node, options.nnodes * options.nproc_per_node
    variables = {
        "MASTER_ADDR": options.master_addr,
        "MASTER_PORT": str(options.master_port or free_port()),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // count)),
    }
    first = options.node_rank * count
    ranks = [variables | {"RANK": str(first + local), "LOCAL_RANK": str(local)} for local in range(count)]
    return run(command, ranks)


def run(command: Sequence[str], ranks: Sequence[dict[str, str]], patience: float = PATIENCE_SECONDS) -> int:
    """The command once with each of the variables' sets, SIGTERM and SIGINT handed on.

    Returns:
        0 when all succeed, else the exit code of the first that failed (128 + n when signal n killed it).
    """
    processes: list[subprocess.Popen[bytes]] = []
    code, until = 0, float("inf")

    stopped = False

    def hand_on(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        for process in processes:
            process.terminate()  # after Ctrl-C too, which a terminal sends to all: a second SIGINT would not ask

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        processes.extend(subprocess.Popen(command, env=os.environ | variables) for variables in ranks)
        if stopped:  # while they were being started
            hand_on(signal.SIGTERM, None)
        while True:
            codes = [process.poll() for process in processes]
            failed = [found for found in codes if found]
            if failed and not code:
                code, until = failed[0], time.monotonic() + patience
            if None not in codes:
                return code if code >= 0 else 128 - code
            if time.monotonic() > until:
                for process in processes:
                    process.kill()
            time.sleep(LOOK_SECONDS)
    finally:
        for process in processes:
            process.kill()  # none is left unless this one fails
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes; use 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
