"""Reading and publishing artifacts, wherever they lie: every reader and writer comes through here."""

from pathlib import Path

from pydantic import ValidationError

from flowstill.api.fields import StatusRef
from flowstill.artifacts.atomic import storage_full, write_atomic
from flowstill.artifacts.digests import (
    MANIFEST,
    bytes_digest,
    canonical_json,
    file_digest,
    files_of,
    is_ours,
    tree_digest,
)
from flowstill.artifacts.fetching import fetch_remote
from flowstill.artifacts.folders import Reference, publish_folder, push_folder, read_folder
from flowstill.artifacts.manifest import Kind, Manifest, Properties, describe_files, verify
from flowstill.artifacts.transfers import Movement
from flowstill.artifacts.uris import ArtifactUri, local_path, resolved
from flowstill.errors import ArtifactError

BY_INPUTS = "store://by-inputs"


def fetch(source: Reference, what: str = "spec.teacher") -> Path:
    """The local folder of an artifact, verified against its digest when given, and against its manifest.

    What lies in a bucket or in the hub is fetched first (:mod:`flowstill.artifacts.fetching`).

    Args:
        source: what to read.
        what: the field that named it, for messages.

    Raises:
        ArtifactError: there is nothing to read; the message names ``what``, the place and the fix.
        DigestMismatch: the bytes are not those of the digest or of the manifest.
        TransferFailed: a store could not be reached; the next attempt continues.
    """
    try:
        place = resolved(source.uri)
        folder = local_path(source.uri) if place.scheme in ("file", "pvc") else None
    except ArtifactError as error:
        raise ArtifactError(str(error), field=f"{what}.uri") from error
    return fetch_remote(source, place, what) if folder is None else read_folder(folder, source, what)


def publish(folder: Path, kind: Kind, properties: Properties, parent: str = "store://students") -> StatusRef:
    """Publish a folder as ``PARENT/sha256-HEX``: all of it or none, and harmless when done twice.

    ``folder`` stays as it is.

    Raises:
        ArtifactError: the folder is empty or holds what is no file, or ``parent`` is no place to write.
        StorageFull: it did not fit; nothing of it is left behind.
        TransferFailed: the store could not be reached.
    """
    content = Manifest(kind=kind, files=describe_files(folder), properties=properties).to_bytes()
    digest = bytes_digest(content)
    uri = ArtifactUri.parse(parent) / digest.replace(":", "-")
    place = _writable(resolved(str(uri)))
    if place.scheme == "s3":
        _publish_in_bucket(folder, content, digest, place)
    else:
        publish_folder(folder, content, local_path(str(uri)))
    return StatusRef(uri=str(uri), digest=digest)


def push(folder: Path, uri: str, *, force: bool = False) -> StatusRef:
    """Copy a folder to ``uri``, all of it or none; links to files become files.

    Raises:
        ArtifactError: nothing to copy, or other bytes are there and ``force`` is not set.
        DigestMismatch: an artifact of ours that is damaged.
        StorageFull: it did not fit; what was there before is kept.
        TransferFailed: the store could not be reached.
    """
    parsed = ArtifactUri.parse(uri)
    if parsed.path in ("", "/"):
        whole = str(parsed)
        example = f"{whole}{'' if whole.endswith('/') else '/'}teachers/NAME"
        raise ArtifactError(f"{uri} is a whole store; name a folder in it, such as {example}")
    place = _writable(resolved(uri))
    if is_ours(folder):
        verify(folder)
    digest = tree_digest(folder)
    if place.scheme == "s3":
        from flowstill.artifacts.s3 import Content, S3Artifact

        contents = [Content.of(name, path) for name, path in files_of(folder)]
        S3Artifact(place).write(contents, digest, force=force)
    else:
        push_folder(folder, uri, local_path(uri), digest, force=force)
    return StatusRef(uri=str(parsed), digest=digest)


def lookup_by_inputs(key: str) -> StatusRef | None:
    """The student that these inputs gave before, and that is there; None when there is none, or it was removed since.

    A folder is verified; of a bucket's objects the sizes are compared.

    Raises:
        ArtifactError: the record is no record.
        DigestMismatch: the student is damaged.
    """
    uri = _inputs_uri(key)
    place = resolved(uri)
    content = _read_record(place)
    if content is None:
        return None
    try:
        ref = StatusRef.model_validate_json(content)
    except ValidationError as error:
        raise ArtifactError(f"{place} is no record of a student; remove it") from error
    return ref if _is_there(ref) else None


def record_by_inputs(key: str, ref: StatusRef) -> None:
    """Remember which student these inputs gave."""
    content = canonical_json(ref.model_dump(mode="json", by_alias=True)) + b"\n"
    uri = _inputs_uri(key)
    place = resolved(uri)
    if place.scheme == "s3":
        from flowstill.artifacts.bucket import Bucket

        bucket = Bucket(str(place.root))
        Movement(f"writing {place}", len(content)).persist(
            lambda: bucket.write_small(place.path, content, anyway=True), str(place)
        )
    else:
        write_atomic(local_path(uri), content)


def work_folder(uri: str) -> Path:
    """The folder of a child that survives its attempts, created.

    Raises:
        StorageFull: not even a folder fits.
    """
    folder = local_path(uri)
    with storage_full("the work folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _publish_in_bucket(folder: Path, manifest: bytes, digest: str, place: ArtifactUri) -> None:
    """The manifest is written beside the folder's files by its own bytes; the folder need not have it."""
    from flowstill.artifacts.s3 import Content, S3Artifact

    contents = [Content.of(name, path) for name, path in files_of(folder) if name != MANIFEST]
    S3Artifact(place).write([*contents, Content.of_bytes(MANIFEST, manifest)], digest)


def _writable(place: ArtifactUri) -> ArtifactUri:
    if place.scheme == "hf":
        raise ArtifactError(f"{place} is a commit, which nobody can write to; `flowstill store push` makes a new one")
    return place


def _inputs_uri(key: str) -> str:
    return f"{BY_INPUTS}/{key.removeprefix('sha256:')}.json"


def _read_record(place: ArtifactUri) -> bytes | None:
    if place.scheme == "s3":
        from flowstill.artifacts.bucket import Bucket

        bucket = Bucket(str(place.root))
        found = Movement(f"reading {place}", 0).persist(lambda: bucket.read_small(place.path), str(place))
        return None if found is None else found[0]
    try:
        return local_path(str(place)).read_bytes()
    except FileNotFoundError:
        return None


def _is_there(ref: StatusRef) -> bool:
    place = resolved(ref.uri)
    if place.scheme == "s3":
        from flowstill.artifacts.s3 import S3Artifact

        artifact = S3Artifact(place)
        return Movement(f"reading {place}", 0).persist(lambda: artifact.is_whole(ref.digest), str(place))
    manifest = local_path(ref.uri) / MANIFEST
    if not manifest.is_file() or file_digest(manifest) != ref.digest:
        return False
    fetch(ref, "student")
    return True
