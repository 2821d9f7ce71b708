"""``python -m flowstill_trainer.meet --nodes N --job JOB --service SERVICE -- COMMAND``: wait, then be COMMAND.

A pod that waits for a GPU, or for its image, may take hours, and who waits for it in the middle of a rendezvous fails
after minutes. Here nobody has begun anything: a node has a name, JOB-INDEX.SERVICE, once its pod has an address.
"""

import argparse
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
SAY_SECONDS = 60.0
INTERRUPTED_EXIT_CODE = 128 + signal.SIGTERM


def wait_for_names(names: Sequence[str], sleep: Callable[[float], None] = time.sleep) -> None:
    """Return when every name has an address."""
    said = float("-inf")
    while missing := [name for name in names if not _resolves(name)]:
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            logger.info("waiting for the pods %s", ", ".join(missing))
        sleep(LOOK_SECONDS)


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False


def _end(number: int, frame: FrameType | None) -> None:
    """Process 1 of a container ignores a signal that it has no handler for."""
    sys.exit(INTERRUPTED_EXIT_CODE)


def main(argv: Sequence[str] | None = None) -> None:
    """Wait, then become the command: its exit code is the container's, and SIGTERM is its own business."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(prog="flowstill_trainer.meet", description="Wait for the pods of all nodes.")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--job", required=True)
    parser.add_argument("--service", required=True)
    parser.add_argument("command", nargs="+", help="after --")
    options = parser.parse_args(argv)
    before = signal.signal(signal.SIGTERM, _end)
    wait_for_names([f"{options.job}-{node}.{options.service}" for node in range(options.nodes)])
    signal.signal(signal.SIGTERM, before)
    os.execvp(options.command[0], options.command)


if __name__ == "__main__":
    main()
