"""The cache outside the checkout: where it lies, its locks, and writes that appear whole or not at all."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

type Report = Callable[[str], None]


def silent(message: str) -> None:
    """Report nothing."""
    del message


def cache_root() -> Path:
    """Return the folder of what takes minutes to build, ``FLOWSTILL_CACHE`` or ``~/.cache/flowstill``."""
    return Path(os.environ.get("FLOWSTILL_CACHE") or Path.home() / ".cache" / "flowstill").absolute()


def content_key(*parts: str | bytes | Path) -> str:
    """Return 16 hex digits that name the contents: files by their bytes, strings and bytes as they are."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def file_lock(path: Path, report: Report = silent) -> Iterator[None]:
    """Hold an exclusive lock on `path` (made when missing); waiting for another process is reported once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another process that holds {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
