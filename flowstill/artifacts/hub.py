"""Artifacts in a repository of the Hugging Face Hub, at one commit.

The endpoint and the token come from the environment (``HF_ENDPOINT``, ``HF_TOKEN``), and never from a URI. Children run
with ``HF_HUB_OFFLINE``, so that no library fetches anything by itself; what a spec names is asked for here, by plain
HTTP, and every file is held against the hub's own checksum: SHA-256 of large files, Git's of the others.
"""

import json
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from flowstill.artifacts.digests import KINDS, MANIFEST
from flowstill.artifacts.remote import CA_FILE, Algorithm, Listing, RemoteFile, TransferBroken
from flowstill.artifacts.secrets import redact
from flowstill.artifacts.transfers import safe_names
from flowstill.artifacts.uris import HUB, ArtifactUri, hub_of
from flowstill.errors import ArtifactError

NOT_CONTENT = ".gitattributes"
"""Git's own, which the hub adds by itself."""
SWITCH = "FLOWSTILL_HUB"
"""``off``: this process asks no hub, whatever a manifest names."""
_CHUNK = 2**20
_MAX_MANIFEST = 64 * 2**20


class HubArtifact:
    """One artifact's place in the hub."""

    def __init__(self, uri: ArtifactUri, environment: Mapping[str, str] | None = None) -> None:
        if uri.scheme != "hf":
            raise ValueError(f"{uri} is not in the hub")
        self.uri = uri
        self._repository, self._commit = hub_of(uri)
        self._environment = os.environ if environment is None else environment
        self._endpoint = endpoint_of(self._environment)
        if self._environment.get(SWITCH) == "off":
            raise ArtifactError(f"{uri}: the hub is not asked here: set the chart value store.hub.enabled")

    def listing(self) -> Listing:
        """The files of the commit below the path; of an artifact of ours those of its manifest."""
        files = self.files()
        if not files:
            raise ArtifactError(f"{self.uri} cannot be read: there is no such folder in that commit, or it is empty")
        safe_names([file.name for file in files], str(self.uri))
        ours = self._named_by_manifest(files)
        return Listing(str(self.uri), tuple(file for file in files if ours is None or file.name in ours))

    def files(self) -> list[RemoteFile]:
        """All files of the commit below the path."""
        return [file for entry in self._tree() if (file := self._file_of(entry)) is not None]

    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """The bytes of a file from ``offset`` on; the hub's redirects are followed, without the token."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        url = f"{self._endpoint}/{self._repository}/resolve/{self._commit}/{quote(file.address)}"
        with self._explained(url), self._client() as client, client.stream("GET", url, headers=headers) as answer:
            self._check(answer, url)
            if offset and answer.status_code != httpx.codes.PARTIAL_CONTENT:
                raise TransferBroken("the server sends no part of a file")
            yield from answer.iter_raw(_CHUNK)

    def _tree(self) -> Iterator[dict[str, Any]]:
        """All entries below the path, page by page."""
        path = f"/{quote(self.uri.path)}" if self.uri.path else ""
        repository = f"{self._endpoint}/api/{self._repository.kind}s/{self._repository.name}"
        tree = f"{repository}/tree/{self._commit}{path}"
        url: str | None = f"{tree}?recursive=true"
        with self._client() as client:
            while url is not None:
                with self._explained(url):
                    answer = client.get(url)
                    self._check(answer, url)
                    yield from answer.json()
                    # Of the next page only what it asks for: the token goes to no other address.
                    more = answer.links.get("next", {}).get("url")
                    url = f"{tree}?{urlsplit(more).query}" if more else None

    def _file_of(self, entry: dict[str, Any]) -> RemoteFile | None:
        below = f"{self.uri.path}/" if self.uri.path else ""
        path = str(entry["path"])
        if entry["type"] != "file" or not path.startswith(below) or path == NOT_CONTENT:
            return None
        large = entry.get("lfs")
        checksum: tuple[Algorithm, str] = ("sha256", large["oid"]) if large else ("git", entry["oid"])
        return RemoteFile(path.removeprefix(below), int(entry["size"]), path, self._commit, checksum)

    def _named_by_manifest(self, files: list[RemoteFile]) -> set[str] | None:
        """The names of an artifact of ours; None of anything else."""
        manifest = next((file for file in files if file.name == MANIFEST and file.size <= _MAX_MANIFEST), None)
        if manifest is None:
            return None
        try:
            value = json.loads(b"".join(self.read(manifest, 0)))
            ours = value["kind"] in KINDS and "schemaVersion" in value
            return {MANIFEST, *(str(file["path"]) for file in value["files"])} if ours else None
        except (ValueError, TypeError, KeyError):
            return None

    def _client(self) -> httpx.Client:
        token = self._environment.get("HF_TOKEN")
        headers = {"Accept-Encoding": "identity", "User-Agent": "flowstill"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return httpx.Client(
            headers=headers,
            follow_redirects=True,
            timeout=httpx.Timeout(30.0, connect=5.0),
            verify=_trust(self._environment),
        )

    def _check(self, answer: httpx.Response, url: str) -> None:
        if answer.status_code in (401, 403, 404):
            raise ArtifactError(
                f"{self.uri} cannot be read: {self._endpoint} answers {answer.status_code}. There is no such "
                "repository, commit or path, or it is private and HF_TOKEN (on a cluster from the Secret that the "
                "chart's store.hub.secret names) may not read it"
            )
        if answer.is_error and answer.status_code not in (408, 425, 429) and answer.status_code < 500:
            raise ArtifactError(f"{self.uri} cannot be read: {redact(url)} answers {answer.status_code}")
        if answer.is_error:
            raise TransferBroken(f"{redact(url)} answers {answer.status_code}")

    @contextmanager
    def _explained(self, url: str) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise TransferBroken(f"{redact(url)}: {redact(str(error)) or type(error).__name__}") from None
        except ValueError as error:
            raise TransferBroken(f"{redact(url)} answers what is no JSON") from error


def endpoint_of(environment: Mapping[str, str]) -> str:
    """The address of the hub."""
    return (environment.get("HF_ENDPOINT") or HUB).rstrip("/")


def _trust(environment: Mapping[str, str]) -> ssl.SSLContext:
    """The system's certificates, and the one that the chart names."""
    context = ssl.create_default_context()
    name = environment.get(CA_FILE)
    if name:
        try:
            context.load_verify_locations(Path(name))
        except (OSError, ssl.SSLError) as error:
            raise ArtifactError(f"{CA_FILE}: {name} cannot be read: {error}") from error
    return context
