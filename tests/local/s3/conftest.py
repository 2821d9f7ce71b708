"""A real S3 server behind a bad network, and folders to push."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowstill.artifacts import transfers
from tests.local.s3.folders import BIG
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.s3_server import S3Server, s3_server
from tests.unit.artifacts.samples import make_folder


@pytest.fixture(scope="session")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def bucket(server: S3Server, request: pytest.FixtureRequest) -> Path:
    return server.bucket(f"test-{abs(hash(request.node.name)) % 10**9}")


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(server.url) as between:
        yield between


@pytest.fixture(autouse=True)
def here(server: S3Server, bucket: Path, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default store is a folder of the bucket, seen through the proxy; the cache is this test's."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment(proxy.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FLOWSTILL_STORE", f"s3://{bucket.name}/flowstill")
    monkeypatch.setenv("FLOWSTILL_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(transfers.Movement, "pause", lambda self, seconds: self.check())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "made")


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """Big enough for several parts, with names that need escaping."""
    made = make_folder(tmp_path / "big", **{"meta/a b%20[1]+ü.json": "{}", "empty": ""})
    (made / "data.bin").write_bytes(os.urandom(BIG))
    return made
