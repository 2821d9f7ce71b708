from collections.abc import Iterator

import pytest

from tests.support.tiny_run import KINDS, Tiny, small


@pytest.fixture(scope="session", params=KINDS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    """Every policy in turn."""
    with small(request.param):
        yield Tiny(tmp_path_factory.mktemp(request.param), request.param)
