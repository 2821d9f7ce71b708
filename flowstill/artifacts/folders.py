"""Artifacts in folders, local ones and mounted claims: read, published, replaced."""

import errno
import os
import shutil
from pathlib import Path

from flowstill.api.fields import ArtifactRef, Source, StatusRef
from flowstill.artifacts.atomic import copy_tree, sync_folder
from flowstill.artifacts.digests import MANIFEST, is_ours, tree_digest
from flowstill.artifacts.manifest import verify
from flowstill.errors import ArtifactError, DigestMismatch

Reference = Source | ArtifactRef | StatusRef


def read_folder(folder: Path, source: Reference, what: str) -> Path:
    """The folder, verified against the digest of ``source`` when given, and against its manifest.

    Raises:
        ArtifactError: there is nothing to read; the message names ``what``, the path and the fix.
        DigestMismatch: the bytes are not those of the digest or of the manifest.
    """
    if not folder.is_dir():
        found = "a file, and an artifact is a folder" if folder.exists() else "nothing there"
        raise ArtifactError(
            f"{source.uri} cannot be read: {found} ({folder}); put it there with "
            f"`flowstill store push FOLDER {source.uri}`, or correct the URI",
            field=f"{what}.uri",
        )
    try:
        return _verified(folder, source, what)
    except OSError as error:
        raise ArtifactError(
            f"{source.uri} cannot be read: {error.strerror} ({error.filename or folder})", field=f"{what}.uri"
        ) from error


def _verified(folder: Path, source: Reference, what: str) -> Path:
    try:
        if is_ours(folder):
            verify(folder)
        elif source.digest is None:
            if not any(folder.iterdir()):
                raise ArtifactError(f"{folder} is empty")
            return folder
        digest = tree_digest(folder)
    except ArtifactError as error:
        raise type(error)(f"{source.uri}: {error}", field=f"{what}.uri") from error
    if source.digest is not None and digest != source.digest:
        raise wrong_digest(f"{source.uri} ({folder})", digest, source.digest, what)
    return folder


def wrong_digest(place: str, found: str, wanted: str, what: str) -> DigestMismatch:
    """The error for an artifact that is not the one that was asked for."""
    return DigestMismatch(
        f"{place} has digest {found}, not {wanted}: its bytes have changed, or the digest is of another artifact",
        field=f"{what}.digest",
    )


def publish_folder(folder: Path, manifest: bytes, target: Path) -> None:
    """Copy an artifact to the path that its digest names: its manifest last, then renamed into place.

    Raises:
        StorageFull: it did not fit; nothing of it is left behind.
    """
    if target.exists():
        verify(target)
        return
    temporary = copy_tree(folder, target, last=(MANIFEST, manifest))
    try:
        verify(temporary)
        _rename_new(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def push_folder(folder: Path, uri: str, target: Path, digest: str, *, force: bool) -> None:
    """Copy a folder, whose digest is given, to ``target``.

    Raises:
        ArtifactError: other bytes are there and ``force`` is not set.
        StorageFull: it did not fit; what was there before is kept.
    """
    occupied = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    if occupied:
        if target.is_dir() and tree_digest(target) == digest:
            return
        if not force:
            raise ArtifactError(
                f"{uri} ({target}) holds other bytes; push to another URI, or replace them with --force"
            )
    temporary = copy_tree(folder, target)
    try:
        if tree_digest(temporary) != digest:
            raise ArtifactError(f"{folder} changed while it was copied; push it again when nothing writes to it")
        if occupied:
            _replace(temporary, target)
        else:
            _rename_new(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename_new(temporary: Path, target: Path) -> None:
    """Rename into place; somebody who was faster with the same bytes has done our work."""
    try:
        temporary.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if tree_digest(target) != tree_digest(temporary):
            raise ArtifactError(f"{target} was written by somebody else meanwhile, with other bytes") from error
    sync_folder(target.parent)


def _replace(temporary: Path, target: Path) -> None:
    """Put ``temporary`` in the place of ``target``; a crash in between leaves the old one beside it."""
    old = temporary.with_name(f"{temporary.name}-replaced")
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except OSError:
        os.rename(old, target)
        raise
    sync_folder(target.parent)
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink()
