"""What the chain's tests share: the warm process, and good inputs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tiny_run import Tiny
from tests.support.tiny_student import Exported, export_student
from tests.support.warm_children import WarmProcess


@pytest.fixture(scope="session")
def warming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmProcess]:
    """The warm process, perhaps still importing."""
    process = WarmProcess(tmp_path_factory.mktemp("warm"))
    yield process
    process.end()


@pytest.fixture(scope="session")
def tiny(warming: WarmProcess, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A teacher and a dataset that fit, made while the warm process imports."""
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def warm(warming: WarmProcess, tiny: Tiny) -> WarmProcess:
    """The warm process, ready."""
    del tiny
    warming.wait()
    return warming


@pytest.fixture(scope="session")
def exported(warming: WarmProcess, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A student that has learnt nothing, and its teacher; made while the warm process imports."""
    return export_student(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where spoiled copies of the inputs lie."""
    return tmp_path_factory.mktemp("inputs")
