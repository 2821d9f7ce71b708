"""A control plane whose pods are played, an operator process on it, and a namespace to tell a story in."""

from collections.abc import Iterator

import pytest

from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.operator_process import OperatorProcess, installed_crds, running_operator
from tests.cluster.scene import Scene
from tests.cluster.stand_in_kubelet import stand_in


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    with installed_crds(control_plane), stand_in(control_plane):
        yield control_plane


@pytest.fixture(scope="module")
def operator(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    with running_operator(plane, tmp_path_factory.mktemp("operator")) as process:
        yield process


@pytest.fixture
def scene(plane: ControlPlane, operator: OperatorProcess, namespace: str) -> Scene:
    assert operator.is_running()
    return Scene(plane, namespace)
