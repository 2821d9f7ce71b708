"""The clusters that these tests run against; each starts once a session, when a test first asks."""

from collections.abc import Iterator

import pytest

from tests.cluster.harness.cache import Report
from tests.cluster.harness.cluster import running_control_plane, running_node
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.node import Node


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    """Progress lines that reach the terminal while pytest captures: the first run takes minutes."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def write(message: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n[cluster] {message}", end="", flush=True)

    return write


@pytest.fixture(scope="session")
def control_plane(report: Report) -> Iterator[ControlPlane]:
    """A control plane without nodes: Jobs are admitted and get pods, which stay Pending."""
    with running_control_plane(report) as plane:
        yield plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A fresh namespace on `control_plane` that admits restricted pods only."""
    name = control_plane.create_namespace()
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def node(report: Report) -> Iterator[Node]:
    """A control plane of its own (``node.plane``) with a node that runs containers (mark: `containers`)."""
    with running_node(report) as running:
        yield running


@pytest.fixture
def node_namespace(node: Node) -> Iterator[str]:
    """A fresh namespace on ``node.plane`` that admits restricted pods only."""
    name = node.plane.create_namespace()
    yield name
    node.plane.kubectl("delete", "namespace", name, "--wait=false")
