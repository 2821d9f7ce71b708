"""The two clusters that tests use, started and stopped whole: a control plane, and one with a node."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.harness import network
from tests.cluster.harness.cache import Report, cache_root, file_lock, silent
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.node import Node
from tests.cluster.harness.packages import ensure_packages


@contextmanager
def running_control_plane(
    report: Report = silent, address: str = "127.0.0.1", flags: Mapping[str, Sequence[str]] | None = None
) -> Iterator[ControlPlane]:
    """Run a control plane without nodes: pods stay Pending. ``flags``: more of the command lines, by process."""
    with tempfile.TemporaryDirectory(prefix="fst-plane-") as folder:
        plane = ControlPlane(Path(folder), address, report, flags)
        try:
            plane.start()
            yield plane
        finally:
            plane.stop()


@contextmanager
def running_node(report: Report = silent) -> Iterator[Node]:
    """Run a control plane (``node.plane``) and one node with containers; waits while another process has one.

    Raises:
        HarnessError: this process is not root, or a part did not start.
    """
    ensure_packages(report)
    with (
        file_lock(cache_root() / "node.lock", report),
        network.node_address() as address,
        running_control_plane(report, address) as plane,
    ):
        node = Node(plane, report)
        try:
            node.start()
            yield node
        finally:
            node.stop()
