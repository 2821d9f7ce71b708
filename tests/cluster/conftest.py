"""The clusters that these tests run against; each starts once a session, when a test first asks."""

import functools
import json
import os
from collections.abc import Iterator

import pytest

from tests.cluster.chart import CHART, Documents, Helm, Render, Values, nested
from tests.cluster.harness import binaries
from tests.cluster.harness.cache import Report
from tests.cluster.harness.cluster import running_control_plane, running_node
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.node import Node
from tests.cluster.harness.processes import run


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


@pytest.fixture(scope="session")
def helm(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Runs helm with a home of its own, and values as its input."""
    binary = binaries.ensure((binaries.HELM,), report)["helm"]
    environment = {**os.environ, "HOME": str(tmp_path_factory.mktemp("home")), "KUBECONFIG": "/dev/null"}

    def call(*arguments: str, values: Values | None = None) -> str:
        return run([str(binary), *arguments, "--values", "-"], json.dumps(values or {}), environment)

    return call


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """Renders the chart as release ``fs`` in namespace ``robots``; the same values only once."""

    @functools.cache
    def by_text(text: str) -> Documents:
        values = nested(json.loads(text))
        return Documents.read(helm("template", "fs", str(CHART), "--namespace", "robots", values=values))

    return lambda paths: by_text(json.dumps(paths, sort_keys=True))
