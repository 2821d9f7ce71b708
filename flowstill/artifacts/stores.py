"""Reading and publishing artifacts in folders: local ones and mounted claims."""

import errno
import os
import shutil
from pathlib import Path

from pydantic import ValidationError

from flowstill.api.fields import ArtifactRef, Source, StatusRef
from flowstill.artifacts.atomic import copy_tree, storage_full, sync_folder, write_atomic
from flowstill.artifacts.digests import (
    MANIFEST,
    bytes_digest,
    canonical_json,
    file_digest,
    is_ours,
    tree_digest,
)
from flowstill.artifacts.manifest import Kind, Manifest, Properties, describe_files, verify
from flowstill.artifacts.uris import ArtifactUri, local_path
from flowstill.errors import ArtifactError, DigestMismatch

BY_INPUTS = "store://by-inputs"


def fetch(source: Source | ArtifactRef | StatusRef, what: str = "spec.teacher") -> Path:
    """The local folder of an artifact, verified against its digest when given, and against its manifest.

    Args:
        source: what to read.
        what: the field that named it, for messages.

    Raises:
        ArtifactError: there is nothing to read; the message names ``what``, the path and the fix.
        DigestMismatch: the bytes are not those of the digest or of the manifest.
    """
    try:
        folder = local_path(source.uri)
    except ArtifactError as error:
        raise ArtifactError(str(error), field=f"{what}.uri") from error
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


def _verified(folder: Path, source: Source | ArtifactRef | StatusRef, what: str) -> Path:
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
        raise DigestMismatch(
            f"{source.uri} ({folder}) has digest {digest}, not {source.digest}: its bytes have changed, or "
            "the digest is of another artifact",
            field=f"{what}.digest",
        )
    return folder


def publish(folder: Path, kind: Kind, properties: Properties, parent: str = "store://students") -> StatusRef:
    """Publish a folder as ``PARENT/sha256-HEX``: all of it or none, and harmless when done twice.

    The manifest is written last, the whole is made durable, then renamed into place. ``folder`` stays as it
    is.

    Raises:
        ArtifactError: the folder is empty or holds what is no file, or ``parent`` is no place to write.
        StorageFull: it did not fit; nothing of it is left behind.
    """
    content = Manifest(kind=kind, files=describe_files(folder), properties=properties).to_bytes()
    digest = bytes_digest(content)
    uri = ArtifactUri.parse(parent) / digest.replace(":", "-")
    target = local_path(str(uri))
    if not target.exists():
        temporary = copy_tree(folder, target, last=(MANIFEST, content))
        try:
            verify(temporary)
            _rename_new(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    else:
        verify(target)
    return StatusRef(uri=str(uri), digest=digest)


def push(folder: Path, uri: str, *, force: bool = False) -> StatusRef:
    """Copy a folder to ``uri``, all of it or none; links to files become files.

    Raises:
        ArtifactError: nothing to copy, or other bytes are there and ``force`` is not set.
        DigestMismatch: an artifact of ours that is damaged.
        StorageFull: it did not fit; what was there before is kept.
    """
    parsed = ArtifactUri.parse(uri)
    if parsed.path in ("", "/"):
        raise ArtifactError(f"{uri} is a whole store; name a folder in it, such as {parsed}/teachers/NAME")
    if is_ours(folder):
        verify(folder)
    digest = tree_digest(folder)
    target = local_path(uri)
    ref = StatusRef(uri=str(parsed), digest=digest)
    occupied = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    if occupied:
        if target.is_dir() and tree_digest(target) == digest:
            return ref
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
    return ref


def lookup_by_inputs(key: str) -> StatusRef | None:
    """The student that these inputs gave before, verified; None when there is none, or it was removed since.

    Raises:
        ArtifactError: the record is no record.
        DigestMismatch: the student is damaged.
    """
    path = _inputs_path(key)
    try:
        ref = StatusRef.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ArtifactError(f"{path} is no record of a student; remove it") from error
    manifest = local_path(ref.uri) / MANIFEST
    if not manifest.is_file() or file_digest(manifest) != ref.digest:
        return None
    fetch(ref, "student")
    return ref


def record_by_inputs(key: str, ref: StatusRef) -> None:
    """Remember which student these inputs gave."""
    write_atomic(_inputs_path(key), canonical_json(ref.model_dump(mode="json", by_alias=True)) + b"\n")


def work_folder(uri: str) -> Path:
    """The folder of a child that survives its attempts, created.

    Raises:
        StorageFull: not even a folder fits.
    """
    folder = local_path(uri)
    with storage_full("the work folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _inputs_path(key: str) -> Path:
    return local_path(f"{BY_INPUTS}/{key.removeprefix('sha256:')}.json")


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
