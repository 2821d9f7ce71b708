from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.tiny_run import KINDS, Tiny, small

settings.register_profile("untimed", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("untimed")


@pytest.fixture(scope="session", params=KINDS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    """Every policy in turn."""
    with small(request.param):
        yield Tiny(tmp_path_factory.mktemp(request.param), request.param)
