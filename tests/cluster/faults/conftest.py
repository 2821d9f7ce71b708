"""A control plane whose pods are played, and an operator that reaches it only by a proxy that makes faults."""

import os
from collections.abc import Iterator

import pytest

from tests.cluster.faults.proxy import FaultProxy, running_proxy
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.operator_process import OperatorProcess, installed_crds, running_operator
from tests.cluster.scene import Scene
from tests.cluster.stand_in_kubelet import stand_in


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    with installed_crds(control_plane), stand_in(control_plane):
        yield control_plane


@pytest.fixture(scope="module")
def running(
    plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[FaultProxy, OperatorProcess]]:
    folder = tmp_path_factory.mktemp("faults")
    with running_proxy(plane, folder, int.from_bytes(os.urandom(4))) as proxy:
        impatient = "--watch-silence-seconds=5"
        with running_operator(plane, folder, "operator", impatient, kubeconfig=proxy.kubeconfig) as operator:
            yield proxy, operator


@pytest.fixture
def proxy(running: tuple[FaultProxy, OperatorProcess]) -> Iterator[FaultProxy]:
    proxy, _ = running
    proxy.made.clear()
    yield proxy
    proxy.faults = ()


@pytest.fixture
def operator(running: tuple[FaultProxy, OperatorProcess]) -> OperatorProcess:
    return running[1]


@pytest.fixture
def scene(plane: ControlPlane, operator: OperatorProcess, namespace: str) -> Scene:
    assert operator.is_running()
    # One look makes some requests: when each may fail, looks fail several times in a row, and the back-off doubles.
    return Scene(plane, namespace, patience=300.0)
