"""Digests: ``sha256:HEX`` of a file, of a folder, of a JSON value."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowstill.errors import ArtifactError

MANIFEST = "manifest.json"
KINDS = ("Student", "Rollouts", "Evidence", "Records")


def bytes_digest(content: bytes) -> str:
    """Digest of bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def file_digest(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def canonical_json(value: Any) -> bytes:
    """The one form of a JSON value that digests are taken of: sorted keys, no spaces, UTF-8, finite numbers.

    Raises:
        ValueError: the value has NaN or infinity.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def json_digest(value: Any) -> str:
    """Digest of :func:`canonical_json`."""
    return bytes_digest(canonical_json(value))


def files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """All files below a folder with their relative POSIX paths, sorted. A link to a file counts as that file.

    Raises:
        ArtifactError: a link to a folder, a broken link, or something that is no file.
    """
    found: list[tuple[str, Path]] = []
    for parent, folders, names in os.walk(folder, onerror=_unreadable):
        for name in (*folders, *names):
            path = Path(parent, name)
            if name in folders and not path.is_symlink():
                continue
            if not path.is_file():
                raise ArtifactError(f"{path} is neither a file nor a folder; an artifact has nothing else")
            found.append((path.relative_to(folder).as_posix(), path))
    yield from sorted(found)


def tree_digest(folder: Path) -> str:
    """Digest of a folder: of an artifact's ``manifest.json``, else of every file's path, size and digest.

    Raises:
        ArtifactError: there is no folder, it is empty, or it holds something that is neither file nor folder.
    """
    if is_ours(folder):
        return file_digest(folder / MANIFEST)
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder")
    entries = [[name, path.stat().st_size, file_digest(path)] for name, path in files_of(folder)]
    if not entries:
        raise ArtifactError(f"{folder} is empty")
    return json_digest(entries)


def is_ours(folder: Path) -> bool:
    """Whether the folder has a manifest of Flowstill's; another program's is a file as any other."""
    try:
        value = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and value.get("kind") in KINDS and "schemaVersion" in value


def _unreadable(error: OSError) -> None:
    raise ArtifactError(f"{error.filename} cannot be read: {error.strerror}") from error
