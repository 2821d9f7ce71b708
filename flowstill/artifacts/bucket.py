"""An S3 bucket through obstore: the few calls that artifacts need, and errors in our own words.

Endpoint and credentials come from the environment under the names that every S3 client knows (``AWS_ENDPOINT_URL_S3``,
``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, …), and never from a URI.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from flowstill.artifacts.remote import CA_FILE, TransferBroken
from flowstill.artifacts.secrets import redact
from flowstill.errors import ArtifactError

PATH_STYLE = "FLOWSTILL_S3_PATH_STYLE"
ALLOWED = "FLOWSTILL_S3_BUCKETS"
"""Names, comma-separated, of the buckets that this process may use; not set: all that its credentials may."""
CHUNK = 8 * 2**20
_PARTS = 9_000
"""Of one upload at most; S3 has 10,000."""
_MAX_MESSAGE = 400
_ANSWER = re.compile(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", re.S)
_CAUSE = re.compile(r'InvalidCertificate\(\s*(\w+)|error: "([^"]{1,200})"|message: "([^"]{1,200})"')
"""In the dump of an error's sources: why there was no answer."""
_FORBIDDEN = re.compile(r"status code: 40[13] ")
_REFUSED = re.compile(r"status code: 4(?!08|25|29)[0-9]{2} ")
"""The server has understood, and says no: asking again gives the same answer."""


class Taken(Exception):
    """A conditional write found something else than it was made for."""


class Unconditional(Exception):
    """The server knows no conditional writes."""


@dataclass(frozen=True)
class Object:
    """What a bucket says about an object. ``sha256`` is ours, and None where somebody else has written it."""

    key: str
    size: int
    etag: str | None
    sha256: str | None = None


class _Local(Exception):
    """What went wrong was on this side: no fault of the bucket's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class _Source:
    """An iterator that remembers what it raised, since the library that consumes it raises something else."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._chunks)
        except StopIteration:
            raise
        except Exception as error:
            self.error = error
            raise


class Bucket:
    """One bucket of the one endpoint that this process knows."""

    def __init__(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._environment = os.environ if environment is None else environment
        self._store = _connect(name, self._environment)

    def read_small(self, key: str) -> tuple[bytes, str | None] | None:
        """An object's bytes and its ETag; None: there is none."""
        with self._explained(key):
            try:
                found = obstore.get(self._store, key)
                return bytes(found.bytes()), found.meta["e_tag"]
            except FileNotFoundError as error:
                self._refuse_no_bucket(error)
                return None

    def look(self, key: str) -> Object | None:
        """What is known about an object; None: there is none."""
        with self._explained(key):
            try:
                found = obstore.get(self._store, key, options={"head": True})
            except FileNotFoundError:
                return None
            meta = found.meta
            return Object(key, meta["size"], meta["e_tag"], found.attributes.get("sha256"))

    def below(self, prefix: str) -> list[Object]:
        """All objects below a prefix; markers of empty folders are left out."""
        with self._explained(prefix):
            try:
                pages = list(obstore.list(self._store, prefix=prefix or None))
            except FileNotFoundError as error:
                self._refuse_no_bucket(error)
                return []
            found = [Object(meta["path"], meta["size"], meta["e_tag"]) for page in pages for meta in page]
            return [each for each in found if each.key != prefix or each.size]

    def stream(self, key: str, offset: int, etag: str | None) -> Iterator[bytes]:
        """The bytes from ``offset`` on, of that version only."""
        with self._explained(key):
            options: dict[str, Any] = {"range": {"offset": offset}} if offset else {}
            if etag is not None:
                options["if_match"] = etag
            try:
                found = obstore.get(self._store, key, options=cast(Any, options))
            except FileNotFoundError as error:
                raise ArtifactError(f"s3://{self.name}/{key} is gone since it was listed; publish it again") from error
            except PreconditionError as error:
                raise ArtifactError(
                    f"s3://{self.name}/{key} was written while it was read; read it again when nothing writes to it"
                ) from error
            for chunk in found.stream(min_chunk_size=2**20):
                yield bytes(chunk)

    def write_small(self, key: str, content: bytes, *, replaces: str | None = None, anyway: bool = False) -> None:
        """Write a small object, if there is none, or if the one there has the ETag ``replaces``.

        Args:
            key: of the object.
            content: its bytes.
            replaces: ETag of what it replaces; None: there must be none.
            anyway: write whatever is there.

        Raises:
            Taken: something else is there.
            Unconditional: the server takes no conditions.
        """
        mode: Any = "overwrite" if anyway else "create" if replaces is None else {"e_tag": replaces}
        with self._explained(key):
            try:
                obstore.put(self._store, key, content, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError, FileNotFoundError) as error:
                self._refuse_no_bucket(error)
                raise Taken(key) from error
            except NotSupportedError as error:
                raise Unconditional(key) from error
            except BaseError as error:
                if "NotImplemented" in str(error) and not anyway:
                    raise Unconditional(key) from error
                raise

    def write_file(self, key: str, chunks: Iterator[bytes], size: int, sha256: str) -> None:
        """Write an object of any size, with its SHA-256 beside it."""
        chunk = max(CHUNK, -(-size // _PARTS))
        source = _Source(chunks)
        body: Any = b"".join(source) if size <= chunk else source
        with self._explained(key):
            try:
                obstore.put(self._store, key, body, attributes={"sha256": sha256}, chunk_size=chunk, max_concurrency=2)
            except BaseException:
                if source.error is not None:
                    raise _Local(source.error) from None
                raise

    def delete(self, keys: list[str]) -> None:
        """Remove objects."""
        with self._explained(keys[0] if keys else ""):
            for key in keys:
                obstore.delete(self._store, key)

    def _refuse_no_bucket(self, error: Exception) -> None:
        if "NoSuchBucket" in str(error):
            raise ArtifactError(f"s3://{self.name}: there is no such bucket at {self._where()}") from error

    def _where(self) -> str:
        return endpoint_of(self._environment) or "Amazon S3"

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        what = f"s3://{self.name}/{key}"
        try:
            yield
        except _Local as error:
            raise error.error from None
        except (BaseError, OSError, ValueError) as error:
            if isinstance(error, PermissionDeniedError | UnauthenticatedError) or _FORBIDDEN.search(str(error)):
                raise ArtifactError(
                    f"{what}: {self._where()} refuses these credentials ({_short(error)}): correct AWS_ACCESS_KEY_ID "
                    "and AWS_SECRET_ACCESS_KEY, on a cluster in the Secret that the chart's store.s3.secret names"
                ) from None
            if _REFUSED.search(str(error)):
                raise ArtifactError(f"{what}: {_short(error)}") from None
            raise TransferBroken(_short(error)) from None


def endpoint_of(environment: Mapping[str, str]) -> str | None:
    """The address of the S3 server; None: Amazon's."""
    return environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or None


def _connect(bucket: str, environment: Mapping[str, str]) -> S3Store:
    allowed = environment.get(ALLOWED)
    if allowed is not None and bucket not in allowed.split(","):
        raise ArtifactError(f"s3://{bucket} may not be used here: add it to the chart value store.s3.buckets")
    endpoint = endpoint_of(environment)
    path_style = environment.get(PATH_STYLE, "true" if endpoint else "false").lower() == "true"
    config: dict[str, Any] = {
        "region": environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1",
        "virtual_hosted_style_request": not path_style,
        "checksum_algorithm": "SHA256",
    }
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SKIP_SIGNATURE")
    config |= {name.removeprefix("AWS_").lower(): environment[name] for name in names if environment.get(name)}
    if endpoint is not None:
        config["aws_endpoint_url_s3"] = endpoint if path_style else _with_bucket(endpoint, bucket)
    # Of a stream the whole is not limited, only each wait for more.
    client: dict[str, Any] = {"timeout": "1d", "read_timeout": "30s", "connect_timeout": "5s"}
    client["allow_http"] = bool(endpoint and endpoint.startswith("http://"))
    certificate = environment.get(CA_FILE)
    if certificate:
        client["root_certificate"] = _certificate(Path(certificate))
    retry: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
    try:
        return S3Store(bucket, config=cast(Any, config), client_options=cast(Any, client), retry_config=retry)
    except (BaseError, ValueError) as error:
        raise ArtifactError(f"s3://{bucket} cannot be reached: {_short(error)}") from None


def _with_bucket(endpoint: str, bucket: str) -> str:
    scheme, _, host = endpoint.partition("://")
    return f"{scheme}://{bucket}.{host}"


def _certificate(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{CA_FILE}: {path} cannot be read: {error.strerror}") from error


def _short(error: BaseException) -> str:
    """What the server has answered; without an answer the library's sentence with the cause from its dump."""
    sentence, _, dump = str(error).partition("Debug source:")
    answer, cause = _ANSWER.search(sentence), _CAUSE.search(dump)
    text = f"{answer[1]}: {answer[2]}" if answer else " ".join(sentence.split())
    if answer is None and cause is not None:
        text = f"{text}: {next(group for group in cause.groups() if group)}"
    text = redact(text)
    return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}..."
