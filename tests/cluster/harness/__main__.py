"""The test cluster by hand: ``python -m tests.cluster.harness up``."""

import argparse
import signal
import sys
from contextlib import ExitStack

from tests.cluster.harness import binaries
from tests.cluster.harness.cluster import running_control_plane, running_node
from tests.cluster.harness.errors import HarnessError

_PARTS = ("operator", "trainer", "evaluator")


def main() -> int:
    """Read the command line and run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.harness", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start a cluster, print its KUBECONFIG, and keep it until Ctrl-C")
    up.add_argument("--node", action="store_true", help="with a node that runs real containers (root)")
    up.add_argument("--images", action="store_true", help="with the project's three images on that node")
    commands.add_parser("binaries", help="build what is missing in the cache")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if arguments.command == "binaries":
            tools = (*binaries.CONTROL_PLANE, *binaries.NODE, binaries.HELM)
            for name, path in binaries.ensure(tools, _report).items():
                print(f"{name}\t{path}")
        else:
            _up(arguments.node or arguments.images, arguments.images)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _report("stopped")
    return 0


def _up(with_node: bool, with_images: bool) -> None:
    with ExitStack() as stack:
        if with_node:
            node = stack.enter_context(running_node(_report))
            plane = node.plane
            for part in _PARTS if with_images else ():
                print(f"IMAGE={node.load(node.images.project(part))}", flush=True)
        else:
            plane = stack.enter_context(running_control_plane(_report))
        print(f"KUBECONFIG={plane.kubeconfig}", flush=True)
        print(f"PATH={plane.tools['kubectl'].parent}:$PATH", flush=True)
        signal.pause()


def _report(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
