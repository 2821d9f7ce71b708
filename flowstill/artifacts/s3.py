"""Artifacts in an S3 bucket: objects below a prefix, and an index that says which they are.

A bucket renames nothing, so one small object decides what a reader sees. :data:`INDEX` is written first, as
``partial``, where there is none yet (a conditional write, so that of several writers each knows of the other); then the
files; then the index again, as ``complete``, if it is still the one that was written. A reader takes a complete index
and the bytes that it names, or nothing. A prefix that somebody has filled by other means has no index, and is read as
it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from flowstill.api.fields import Digest, Model
from flowstill.artifacts.bucket import CHUNK, Bucket, Object, Taken, Unconditional
from flowstill.artifacts.digests import bytes_digest, canonical_json, file_digest
from flowstill.artifacts.remote import Algorithm, Listing, RemoteFile
from flowstill.artifacts.transfers import Movement, safe_names
from flowstill.artifacts.uris import ArtifactUri
from flowstill.errors import ArtifactError

INDEX = ".flowstill-index.json"
_MD5 = 34
"""Characters of an ETag that is an MD5, with its quotes."""


class Indexed(Model):
    """A file of the index."""

    path: Annotated[str, Field(min_length=1, max_length=1024)]
    size: Annotated[int, Field(ge=0)]
    sha256: Digest


class Index(Model):
    """What lies below a prefix."""

    schema_version: Literal[1] = 1
    state: Literal["partial", "complete"]
    digest: Digest
    files: list[Indexed]

    def to_bytes(self) -> bytes:
        """Always the same for the same files, so that writers of the same content agree."""
        return canonical_json(self.model_dump(mode="json", by_alias=True)) + b"\n"


@dataclass(frozen=True)
class Content:
    """A file that shall be published."""

    name: str
    source: Path | bytes
    size: int
    sha256: str

    @classmethod
    def of(cls, name: str, path: Path) -> Content:
        """Of a file as it is now."""
        return cls(name, path, path.stat().st_size, file_digest(path))

    @classmethod
    def of_bytes(cls, name: str, content: bytes) -> Content:
        """Of a file that lies in memory."""
        return cls(name, content, len(content), bytes_digest(content))


class S3Artifact:
    """One artifact's place in a bucket."""

    def __init__(self, uri: ArtifactUri, bucket: Bucket | None = None) -> None:
        if uri.scheme != "s3" or uri.root is None:
            raise ValueError(f"{uri} is in no bucket")
        self.uri = uri
        self._bucket = bucket or Bucket(uri.root)

    def listing(self) -> Listing:
        """The files of a complete index; without an index those below the prefix."""
        found = self.index()
        if found is None:
            return self._unindexed()
        index = found[0]
        if index.state != "complete":
            raise ArtifactError(
                f"{self.uri} is not whole: it is being published, or that was interrupted; publish or push it again"
            )
        files = [RemoteFile(each.path, each.size, self._key(each.path), None, _sha256_of(each)) for each in index.files]
        safe_names([file.name for file in files], str(self.uri))
        return Listing(str(self.uri), tuple(files), index.digest)

    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """The bytes of a file from ``offset`` on."""
        return self._bucket.stream(file.address, offset, file.version)

    def index(self) -> tuple[Index, str | None] | None:
        """The index with its ETag; None: there is none.

        Raises:
            ArtifactError: it is none that this version reads.
        """
        found = self._bucket.read_small(self._key(INDEX))
        if found is None:
            return None
        try:
            return Index.model_validate_json(found[0]), found[1]
        except ValidationError as error:
            raise ArtifactError(f"{self.uri}/{INDEX} is no index that this version reads; push it again") from error

    def is_whole(self, digest: str) -> bool:
        """Whether it is there with that digest, every object in its size; the objects are not read."""
        found = self.index()
        if found is None or found[0].state != "complete" or found[0].digest != digest:
            return False
        sizes = {each.key: each.size for each in self._bucket.below(self._prefix)}
        return all(sizes.get(self._key(file.path)) == file.size for file in found[0].files)

    def write(self, contents: list[Content], digest: str, *, force: bool = False) -> None:
        """Publish the files: readers see all of them or none, and the same ones may be written by several at once.

        Raises:
            ArtifactError: other bytes are there and ``force`` is not set, or somebody else writes others.
            TransferFailed: the bucket could not be reached; what is there is not readable, and is used when it is
                written again.
        """
        if any(content.name == INDEX for content in contents):
            raise ArtifactError(f"{INDEX} is the name of Flowstill's own index; leave that file out")
        files = [Indexed(path=each.name, size=each.size, sha256=each.sha256) for each in contents]
        partial = Index(state="partial", digest=digest, files=files)
        total = sum(content.size for content in contents)
        movement = Movement(f"publishing to {self.uri}", total)
        if not movement.persist(lambda: self._claim(partial, force=force), str(self.uri)):
            self._repair(contents, movement)
            return
        movement.run(lambda content: self._write_file(content, movement), contents)
        if force:
            movement.persist(lambda: self._delete_others(contents), str(self.uri))
        movement.persist(lambda: self._complete(partial, force=force), str(self.uri))

    def _claim(self, partial: Index, *, force: bool) -> bool:
        """Write the partial index; False: these files are there already, whole."""
        for _ in range(10):
            found = self.index()
            if found is None or force:
                objects = self._bucket.below(self._prefix)
                self._refuse_several(objects)
                if found is None and objects and not force:
                    if self.index() is not None:
                        continue  # somebody has begun between the two looks
                    raise self._occupied()
            if found is not None:
                same = found[0].digest == partial.digest
                if same and found[0].state == "complete":
                    return False
                if same:
                    return True
                if not force:
                    raise self._occupied()
            try:
                self._switch(partial, None if found is None else found[1])
                return True
            except Taken:
                continue
        raise ArtifactError(f"{self.uri} is being written by several others; try again when they have ended")

    def _complete(self, partial: Index, *, force: bool) -> None:
        complete = partial.model_copy(update={"state": "complete"})
        found = self.index()
        if found is not None and found[0] == complete:
            return
        if found is None or found[0] != partial:
            raise self._overtaken()
        try:
            self._switch(complete, found[1])
        except Taken as error:
            now = self.index()
            if now is None or now[0] != complete:
                raise self._overtaken() from error

    def _switch(self, index: Index, replaces: str | None) -> None:
        """One conditional write; where the server has none, a look before and a look after it."""
        key, content = self._key(INDEX), index.to_bytes()
        try:
            self._bucket.write_small(key, content, replaces=replaces)
        except Unconditional:
            found = self._bucket.read_small(key)
            if (None if found is None else found[1]) != replaces:
                raise Taken(key) from None
            self._bucket.write_small(key, content, anyway=True)
            after = self._bucket.read_small(key)
            if after is None or after[0] != content:
                raise Taken(key) from None

    def _repair(self, contents: list[Content], movement: Movement) -> None:
        """Write again what is missing of an artifact that is complete."""
        sizes = {each.key: each.size for each in self._bucket.below(self._prefix)}
        missing = [content for content in contents if sizes.get(self._key(content.name)) != content.size]
        movement.run(lambda content: self._write_file(content, movement), missing)

    def _write_file(self, content: Content, movement: Movement) -> None:
        """Write one file, unless an interrupted attempt has; its SHA-256 lies beside the object."""
        key, sha256 = self._key(content.name), content.sha256.removeprefix("sha256:")
        what = f"{self.uri}/{content.name}"
        there = movement.persist(lambda: self._bucket.look(key), what)
        if there is not None and (there.size, there.sha256) == (content.size, sha256):
            movement.advance(content.size)
            return
        sent = 0

        def send() -> None:
            nonlocal sent
            movement.advance(-sent)
            sent = 0

            def count(chunk: bytes) -> bytes:
                nonlocal sent
                movement.check()
                sent += len(chunk)
                movement.advance(len(chunk))
                return chunk

            self._bucket.write_file(key, map(count, _chunks(content)), content.size, sha256)

        movement.persist(send, what)

    def _delete_others(self, contents: list[Content]) -> None:
        ours = {self._key(content.name) for content in contents} | {self._key(INDEX)}
        self._bucket.delete([each.key for each in self._bucket.below(self._prefix) if each.key not in ours])

    def _unindexed(self) -> Listing:
        objects = self._bucket.below(self._prefix)
        if not objects:
            raise ArtifactError(
                f"{self.uri} cannot be read: nothing there; put it there with "
                f"`flowstill store push FOLDER {self.uri}`, or correct the URI"
            )
        self._refuse_several(objects)
        files = tuple(
            RemoteFile(
                each.key.removeprefix(f"{self._prefix}/") if self._prefix else each.key,
                each.size,
                each.key,
                each.etag,
                _md5_of(each.etag),
            )
            for each in objects
        )
        safe_names([file.name for file in files], str(self.uri))
        return Listing(str(self.uri), files)

    def _refuse_several(self, objects: list[Object]) -> None:
        """A prefix above other artifacts is none itself; what reads or replaces it means one of them."""
        own = self._key(INDEX)
        inner = next((each.key for each in objects if each.key.endswith(f"/{INDEX}") and each.key != own), None)
        if inner is not None:
            other = inner.removesuffix(f"/{INDEX}")
            raise ArtifactError(f"{self.uri} is a folder of artifacts, such as s3://{self.uri.root}/{other}; name one")

    @property
    def _prefix(self) -> str:
        return self.uri.path

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _occupied(self) -> ArtifactError:
        return ArtifactError(f"{self.uri} holds other bytes; push to another URI, or replace them with --force")

    def _overtaken(self) -> ArtifactError:
        return ArtifactError(f"{self.uri} was written by somebody else meanwhile, with other bytes; it is theirs now")


def _sha256_of(file: Indexed) -> tuple[Algorithm, str]:
    return "sha256", file.sha256.removeprefix("sha256:")


def _md5_of(etag: str | None) -> tuple[Algorithm, str] | None:
    """The MD5 that the ETag of an object is which was written in one part."""
    plain = etag is not None and len(etag) == _MD5 and "-" not in etag
    return ("md5", etag.strip('"')) if plain and etag is not None else None


def _chunks(content: Content) -> Iterator[bytes]:
    """The bytes of a file, which must still be those that were described.

    Raises:
        ArtifactError: they are not.
    """
    if isinstance(content.source, bytes):
        yield content.source
        return
    hashed = hashlib.sha256()
    with content.source.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            hashed.update(chunk)
            yield chunk
    if f"sha256:{hashed.hexdigest()}" != content.sha256:
        raise ArtifactError(f"{content.source} changed while it was published; do it again when nothing writes to it")
