"""Where artifacts of remote stores lie on this machine: one folder each, whole and verified, or not there.

KEY/          the artifact; KEY is its digest, or names what the store said about its files
KEY.digest    its digest, for those that were not asked for by one
KEY.partial/  what has arrived so far; the next attempt continues
KEY.lock      held by the process that fetches it
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flowstill.artifacts.atomic import storage_full, sync_folder, write_atomic
from flowstill.artifacts.transfers import tell
from flowstill.artifacts.uris import Locations, local_path
from flowstill.errors import ArtifactError

KEPT_DAYS = 30
_POLL_SECONDS = 0.2


class Cache:
    """A folder of artifacts that were fetched."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def here(cls, environment: Mapping[str, str] | None = None) -> "Cache":
        """``FLOWSTILL_CACHE``; else beside the children's work, on a claim that they share; else the user's cache."""
        variables = os.environ if environment is None else environment
        named = variables.get("FLOWSTILL_CACHE")
        if named:
            return cls(Path(named))
        locations = Locations.from_environment(variables)
        if locations.work is not None:
            return cls(local_path("store://work/cache", locations))
        return cls(Path(variables.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowstill" / "artifacts")

    def entry(self, key: str) -> "Entry":
        """The place of one artifact."""
        return Entry(self.root, key)

    def forget_old(self, now: float | None = None) -> None:
        """Remove what nobody has asked for in :data:`KEPT_DAYS`."""
        oldest = (time.time() if now is None else now) - KEPT_DAYS * 24 * 3600
        for mark in self.root.glob("*.lock"):
            if mark.stat().st_mtime < oldest:
                self.entry(mark.name.removesuffix(".lock")).remove()


class Entry:
    """One artifact of a cache."""

    def __init__(self, root: Path, key: str) -> None:
        self.folder = root / key
        self.partial = root / f"{key}.partial"
        self._digest = root / f"{key}.digest"
        self._lock = root / f"{key}.lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that fetches it; the lock's time says when it was last asked for."""
        descriptor = self._open()
        try:
            while True:
                try:
                    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except (BlockingIOError, PermissionError):
                    tell(f"waiting for another process that fetches {self.folder.name}")
                    time.sleep(_POLL_SECONDS)
            os.utime(self._lock)
            yield
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        try:
            with storage_full("the cache", self.folder.parent):
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                return os.open(self._lock, os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            raise ArtifactError(
                f"what is fetched cannot be kept in {self.folder.parent}: {error.strerror}; set FLOWSTILL_CACHE to a "
                "folder that can be written"
            ) from error

    @property
    def digest(self) -> str | None:
        """The digest of the artifact that is there; None: there is none."""
        try:
            return self._digest.read_text("ascii").strip() if self.folder.is_dir() else None
        except FileNotFoundError:
            return None

    def keep(self, digest: str) -> None:
        """What has arrived is the artifact with that digest."""
        shutil.rmtree(self.folder, ignore_errors=True)  # one whose digest somebody has removed
        write_atomic(self._digest, digest.encode("ascii") + b"\n")
        self.partial.rename(self.folder)
        sync_folder(self.folder.parent)

    def remove(self) -> None:
        """Forget it and what has arrived of it; the lock stays, as somebody may hold it."""
        self._digest.unlink(missing_ok=True)
        for folder in (self.folder, self.partial):
            shutil.rmtree(folder, ignore_errors=True)
