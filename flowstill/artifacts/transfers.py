"""Moving the files of an artifact: several at once, resumed where they broke, and held against their checksums."""

import hashlib
import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowstill.artifacts.atomic import storage_full
from flowstill.artifacts.remote import Listing, Remote, RemoteFile, TransferBroken
from flowstill.errors import ArtifactError, DigestMismatch, FlowstillError, StorageFull

logger = logging.getLogger(__name__)
WORKERS = 4
TRIES = 10
"""Failures in a row, without a byte in between, after which a transfer is given up: about a minute."""
DAMAGED = 3
"""Times that a file is fetched whole when its bytes are not those of its checksum."""
LOOK_EVERY_SECONDS = 0.2
ROOM_BESIDE = 64 * 2**20
_READ = 8 * 2**20

Report = Callable[[str, int, int], None]
"""Told ``(what is done, bytes done, bytes in all)`` now and then; what it raises ends the transfer."""
_reports: list[Report] = []


class TransferFailed(FlowstillError):
    """A store could not be reached long enough; what was fetched is kept, and the next attempt continues."""

    reason = "TransferFailed"


@contextmanager
def reporting(report: Report) -> Iterator[None]:
    """Tell ``report`` how far each transfer of this process is."""
    _reports.append(report)
    try:
        yield
    finally:
        _reports.remove(report)


def tell(activity: str, done: int = 0, total: int = 0) -> None:
    """Tell whoever wants to know."""
    for report in _reports:
        report(activity, done, total)


class Movement:
    """One transfer of several files: counts bytes, and is asked to stop when one of them failed."""

    def __init__(self, activity: str, total: int) -> None:
        self.activity = activity
        self.total = total
        self._done = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def advance(self, count: int) -> None:
        """Count bytes that were moved; negative: they have to be moved again."""
        with self._lock:
            self._done += count

    def check(self) -> None:
        """Raise when the transfer is over."""
        if self._stop.is_set():
            raise TransferBroken("the transfer was stopped")

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than the transfer lasts."""
        self._stop.wait(seconds)
        self.check()

    def run(self, move: Callable[[Any], None], items: Sequence[Any]) -> None:
        """``move`` every item, a few at a time; the first error, or one of a reporter's, ends all."""
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="transfer") as pool:
            futures: list[Future[None]] = [pool.submit(move, item) for item in items]
            try:
                left: set[Future[None]] = set(futures)
                while left:
                    tell(self.activity, self._done, self.total)
                    done, left = wait(left, LOOK_EVERY_SECONDS, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
            except BaseException:
                self._stop.set()
                for future in futures:
                    future.cancel()
                raise
        tell(self.activity, self._done, self.total)

    def persist[R](self, action: Callable[[], R], what: str) -> R:
        """Do something that may break and may be done again, until it has broken :data:`TRIES` times.

        Raises:
            TransferFailed: it did.
        """
        for failures in range(1, TRIES + 1):
            try:
                return action()
            except TransferBroken as error:
                self.give_up_after(failures, what, error)
        raise AssertionError("give_up_after raises at last")

    def give_up_after(self, failures: int, what: str, error: TransferBroken) -> None:
        """Wait before the next try, or raise :class:`TransferFailed` when there were enough."""
        self.check()
        if failures >= TRIES:
            text = f"{what}: {error}; given up after {TRIES} tries, what was moved is kept for the next attempt"
            raise TransferFailed(text) from error
        logger.warning("%s: %s; trying again", what, error)
        self.pause(min(10.0, 0.25 * 2**failures))


def download(listing: Listing, remote: Remote, folder: Path, where: str) -> None:
    """Fetch every file into ``folder``, continuing what an earlier attempt left there.

    Args:
        listing: what to fetch.
        remote: from where.
        folder: to where; it holds nothing else.
        where: the volume, for messages.

    Raises:
        StorageFull: it would not fit, said before the first byte, or it did not.
        ArtifactError: a file is gone or has changed since it was listed.
        DigestMismatch: a file does not arrive with the bytes of its checksum.
        TransferFailed: the store could not be reached.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_room(listing, folder, where)
    movement = Movement(f"downloading {listing.uri}", listing.size)
    with storage_full(listing.uri, folder):
        movement.run(lambda file: _download_file(file, remote, folder, movement, listing.uri), listing.files)


def _check_room(listing: Listing, folder: Path, where: str) -> None:
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed, free = listing.size - there + ROOM_BESIDE, shutil.disk_usage(folder).free
    if needed > free:
        raise StorageFull(
            f"{listing.uri} needs {needed / 2**20:.0f} MiB in {where}, and {free / 2**20:.0f} MiB are free: free some, "
            "or enlarge the volume"
        )


class _Arriving:
    """A file that grows on the disk, and the checksum of what is there."""

    def __init__(self, path: Path, file: RemoteFile) -> None:
        self.path, self.file = path, file
        self.size = 0
        self._hash = _hash_of(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size <= file.size:
            with path.open("rb") as stream:
                while chunk := stream.read(_READ):
                    self._add(chunk)
        else:
            path.write_bytes(b"")

    def append(self, chunks: Iterator[bytes], movement: Movement) -> None:
        """Write what comes, at most as much as the file has."""
        with self.path.open("ab") as stream:
            for chunk in chunks:
                movement.check()
                if self.size + len(chunk) > self.file.size:
                    raise TransferBroken(f"more bytes came than {self.file.size}")
                stream.write(chunk)
                self._add(chunk)
                movement.advance(len(chunk))

    def forget(self) -> None:
        """Begin anew."""
        self.path.write_bytes(b"")
        self.size, self._hash = 0, _hash_of(self.file)

    @property
    def good(self) -> bool:
        """Whether it has the bytes of its checksum."""
        return self.file.checksum is None or self._hash.hexdigest() == self.file.checksum[1]

    def _add(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self._hash.update(chunk)


def _download_file(file: RemoteFile, remote: Remote, folder: Path, movement: Movement, uri: str) -> None:
    arriving = _Arriving(folder / file.name, file)
    movement.advance(arriving.size)
    what, failures, damaged = f"{uri}/{file.name}", 0, 0
    while True:
        before = arriving.size
        try:
            if arriving.size < file.size:
                arriving.append(remote.read(file, arriving.size), movement)
            if arriving.size < file.size:
                raise TransferBroken(f"the stream ended at {arriving.size} of {file.size} bytes")
        except TransferBroken as error:
            failures = 1 if arriving.size > before else failures + 1
            movement.give_up_after(failures, what, error)
            continue
        if arriving.good:
            return
        damaged += 1
        movement.advance(-arriving.size)
        arriving.forget()
        if damaged >= DAMAGED:
            raise DigestMismatch(_damage(file, what))
        logger.warning("%s arrived with other bytes than its checksum says; fetching it again", what)


def _damage(file: RemoteFile, what: str) -> str:
    assert file.checksum is not None
    fix = "publish or push the artifact again"
    if file.checksum[0] == "md5":
        fix = f"{fix}; where the bucket's ETags are no MD5 (encryption by KMS), pin the artifact by its digest"
    return f"{what} arrived {DAMAGED} times with other bytes than its {file.checksum[0]} checksum says: {fix}"


def has_checksum(path: Path, file: RemoteFile) -> bool:
    """Whether a file of this machine has the size and the checksum of the remote one."""
    if path.stat().st_size != file.size:
        return False
    return _Arriving(path, file).good


def _hash_of(file: RemoteFile) -> Any:
    algorithm = file.checksum[0] if file.checksum else "sha256"
    if algorithm == "git":
        return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    return hashlib.new(algorithm, usedforsecurity=False)


def safe_names(names: Sequence[str], uri: str) -> None:
    """Refuse names that would be written outside the artifact's folder.

    Raises:
        ArtifactError: there is one.
    """
    for name in names:
        parts = name.split("/")
        if not name or any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
            raise ArtifactError(f"{uri} holds a file named {name!r}, which no artifact may have")
