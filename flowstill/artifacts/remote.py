"""What the stores that are no folders have in common: a listing of files, and a stream of each from any offset."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from flowstill.artifacts.digests import json_digest
from flowstill.errors import FlowstillError

CA_FILE = "FLOWSTILL_CA_FILE"
"""Names certificates to trust besides the system's."""
Algorithm = Literal["sha256", "md5", "git"]
"""``git``: the SHA-1 of a blob, which has a header with its size."""


class TransferBroken(FlowstillError):
    """The connection or the server failed; the rest may be asked for again."""

    reason = "TransferBroken"


@dataclass(frozen=True)
class RemoteFile:
    """A file of an artifact.

    Attributes:
        name: relative to the artifact, POSIX.
        size: in bytes.
        address: what the store calls it.
        version: of its bytes, as the store names it; it is read in this version or not at all. None: unknown.
        checksum: which bytes it must have; None: the store does not say.
    """

    name: str
    size: int
    address: str
    version: str | None = None
    checksum: tuple[Algorithm, str] | None = None


@dataclass(frozen=True)
class Listing:
    """The files of an artifact, and its digest where the store has it written down."""

    uri: str
    files: tuple[RemoteFile, ...]
    digest: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def key(self) -> str:
        """Names these very bytes: the digest, or what the store says about every file."""
        if self.digest is not None:
            return self.digest.replace(":", "-")
        parts = [[file.name, file.size, file.version, list(file.checksum or ())] for file in self.files]
        return json_digest([self.uri, parts]).replace("sha256:", "listing-")


class Remote(Protocol):
    """A store that is read over a network."""

    def listing(self) -> Listing:
        """What lies there.

        Raises:
            ArtifactError: nothing, nothing whole, or nothing for these credentials.
            TransferBroken: the store could not be asked.
        """

    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """The bytes of a file from ``offset`` on.

        Raises:
            ArtifactError: it is gone, or has changed since it was listed.
            TransferBroken: the stream broke; what was given is good.
        """
