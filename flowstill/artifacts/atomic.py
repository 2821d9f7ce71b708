"""Writing so that a reader, or the next attempt after a crash, sees all of it or none."""

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowstill.artifacts.digests import files_of
from flowstill.errors import StorageFull

PARTIAL = ".partial-"
_STALE_SECONDS = 24 * 3600
_FULL = (errno.ENOSPC, errno.EDQUOT)
_QUOTED = tuple(os.strerror(number) for number in _FULL)


def is_full(error: BaseException) -> bool:
    """Whether the error, or what it came from, means that the disk or the quota is full.

    Safetensors and Arrow raise classes of their own that only quote the operating system.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno in _FULL:
            return True
        if any(quoted in str(found) for quoted in _QUOTED):
            return True
        found = found.__cause__ or found.__context__
    return False


@contextmanager
def storage_full(what: str, where: Path) -> Iterator[None]:
    """Turn a full disk into :class:`StorageFull` that says what did not fit where."""
    try:
        yield
    except StorageFull:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        raise StorageFull(
            f"no space left for {what} in {where}: free some, or enlarge the volume; what was done before is kept"
        ) from error


def write_atomic(path: Path, content: bytes) -> None:
    """Write a small file, durable when this returns; its folder is created."""
    with storage_full(path.name, path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        try:
            _write(temporary, content)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def copy_tree(source: Path, target: Path, last: tuple[str, bytes] | None = None) -> Path:
    """Copy a folder to a temporary one beside ``target``, durable, ready to be renamed.

    Args:
        source: what to copy; links to files become files.
        target: the final path; its parent is created, and remains of crashed copies for it are removed.
        last: name and content of a file that replaces the source's of that name, and is written after the
            others.

    Raises:
        StorageFull: it did not fit; what was copied is removed.
    """
    with storage_full(str(source), target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        temporary = _beside(target)
        try:
            temporary.mkdir()
            for name, path in files_of(source):
                if last is not None and name == last[0]:
                    continue
                copy = temporary / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
                _sync_file(copy)
            if last is not None:
                _write(temporary / last[0], last[1])
            for parent, _, _ in os.walk(temporary, topdown=False):
                sync_folder(Path(parent))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return temporary


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    _sync_file(folder, os.O_RDONLY | os.O_DIRECTORY)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}{PARTIAL}{uuid.uuid4().hex}")


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_file(path: Path, flags: int = os.O_RDONLY) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_stale(target: Path) -> None:
    """Remove what crashed attempts left a day ago; a younger one may still be somebody's copy under way."""
    for path in target.parent.glob(f".{target.name}{PARTIAL}*"):
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
