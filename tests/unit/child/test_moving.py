"""What a child says while it fetches or publishes, and that it hears SIGTERM meanwhile."""

import io
import threading

import pytest

from flowstill.artifacts.remote import Listing, RemoteFile
from flowstill.artifacts.transfers import reporting, tell
from flowstill.child.moving import teller
from flowstill.child.progress import ProgressTracker
from flowstill.errors import Interrupted

MIB = 2**20


def test_the_beginning_the_end_and_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    stream = io.StringIO()
    with ProgressTracker(stream) as progress, reporting(teller(progress, threading.Event(), lambda: now[0])):
        for second, done in ((0, 0), (1, 10), (9, 20), (10, 30), (11, 40), (12, 50)):
            now[0] = second
            tell("downloading s3://b/x", done * MIB, 50 * MIB)
        tell("waiting for another process")
        assert progress.report.activity == "waiting for another process"
    moved = [f"downloading s3://b/x, {done} of 50 MiB" for done in (0, 30, 50)]
    assert stream.getvalue().splitlines() == [*moved, "waiting for another process"]


def test_a_signal_ends_a_transfer() -> None:
    stop = threading.Event()
    with ProgressTracker(io.StringIO()) as progress, reporting(teller(progress, stop)):
        tell("downloading", 0, 1)
        stop.set()
        with pytest.raises(Interrupted, match="the next attempt continues"):
            tell("downloading", 0, 1)
    tell("nobody listens any more", 0, 1)


def test_a_listing_is_known_by_its_bytes() -> None:
    def key(**changes: object) -> str:
        values: dict[str, object] = {"name": "a", "size": 1, "address": "x/a", "version": "1"}
        return Listing("s3://b/x", (RemoteFile(**(values | changes)),)).key  # type: ignore[arg-type]

    assert key() == key()
    assert key() == key(address="elsewhere/a")
    assert len({key(), key(size=2), key(version="2"), key(name="b"), key(checksum=("md5", "0"))}) == 5
    assert Listing("s3://b/x", (), "sha256:ab").key == "sha256-ab"
