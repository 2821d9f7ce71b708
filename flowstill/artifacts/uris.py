"""Where an artifact lies: a folder, a claim, a bucket, a commit of the Hugging Face Hub, or the default store."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from flowstill.api import uris as written
from flowstill.errors import ArtifactError

DEFAULT_VOLUMES_ROOT = Path("/var/run/flowstill/volumes")
HUB = "https://huggingface.co"
Scheme = Literal["file", "pvc", "s3", "hf", "store"]
_CLAIM = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")
_BUCKET = re.compile(rf"^{written.BUCKET}$")
_HUB_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f?#\\]")
_WORK = "work"


@dataclass(frozen=True)
class ArtifactUri:
    """A parsed URI; ``str()`` gives it back in its one normal form.

    Attributes:
        scheme: which kind of place.
        path: for ``file`` absolute; else relative to the root, possibly empty.
        root: of ``pvc`` the PersistentVolumeClaim in the resource's own namespace, of ``s3`` the bucket, of ``hf``
            ``[datasets/]ORG/NAME@COMMIT``.
    """

    scheme: Scheme
    path: str
    root: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ArtifactUri":
        """Read a URI; repeated, trailing and ``.`` parts of its path are dropped.

        Raises:
            ArtifactError: the scheme is unknown, the path leaves its root, or the root's name is none.
        """
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in ("file", "pvc", "s3", "hf", "store"):
            raise ArtifactError(f"{text!r} is no URI of Flowstill: use {written.OFFERED}")
        if _FORBIDDEN.search(rest):
            raise ArtifactError(
                f"{text!r} has a character that no artifact path may have: ? # \\ or a control character"
            )
        if scheme == "file" and not rest.startswith("/"):
            raise ArtifactError(f"{text!r} needs an absolute path: file:///PATH, with three slashes")
        root, rest = _root_of(text, scheme, rest)
        parts = [part for part in rest.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise ArtifactError(f"{text!r} has '..' in its path; name the folder itself")
        path = "/".join(parts)
        return cls(cast(Scheme, scheme), f"/{path}" if scheme == "file" else path, root)

    def __str__(self) -> str:
        where = f"{self.root}/{self.path}".rstrip("/") if self.root else self.path
        return f"{self.scheme}://{where}"

    def __truediv__(self, name: str) -> "ArtifactUri":
        return ArtifactUri.parse(f"{self}/{name}")


@dataclass(frozen=True)
class HubRepository:
    """A repository of the Hugging Face Hub."""

    kind: Literal["model", "dataset"]
    name: str

    @classmethod
    def parse(cls, text: str) -> "HubRepository":
        """Read ``[datasets/]ORG/NAME``.

        Raises:
            ArtifactError: it is none.
        """
        name = text.removeprefix("datasets/")
        parts = name.split("/")
        if len(parts) != 2 or not all(_HUB_NAME.match(part) and ".." not in part for part in parts):
            raise ArtifactError(f"{text!r} is no repository of the hub: use ORG/NAME, or datasets/ORG/NAME")
        return cls("model" if name == text else "dataset", name)

    def __str__(self) -> str:
        return self.name if self.kind == "model" else f"datasets/{self.name}"


def hub_of(uri: ArtifactUri) -> tuple[HubRepository, str]:
    """Repository and commit of an ``hf`` URI."""
    repository, _, commit = str(uri.root).partition("@")
    return HubRepository.parse(repository), commit


def _root_of(text: str, scheme: str, rest: str) -> tuple[str | None, str]:
    """The root that the scheme has, and what is left for the path."""
    if scheme == "pvc":
        claim, _, rest = rest.partition("/")
        if not _CLAIM.match(claim):
            raise ArtifactError(f"{text!r} names no claim: use pvc://CLAIM/PATH with a PersistentVolumeClaim's name")
        return claim, rest
    if scheme == "s3":
        bucket, _, rest = rest.partition("/")
        if not _BUCKET.match(bucket) or ".." in bucket:
            raise ArtifactError(
                f"{text!r} names no bucket: use s3://BUCKET/PATH, the bucket's name in small letters, digits, - and ."
            )
        return bucket, rest
    return _hub_root(text, rest) if scheme == "hf" else (None, rest)


def _hub_root(text: str, rest: str) -> tuple[str, str]:
    count = 3 if rest.startswith("datasets/") else 2
    parts = rest.split("/")
    name, _, commit = "/".join(parts[:count]).partition("@")
    try:
        repository = HubRepository.parse(name)
    except ArtifactError as error:
        raise ArtifactError(f"{text!r}: {error}, as hf://[datasets/]ORG/NAME@COMMIT") from error
    if not _COMMIT.match(commit):
        revision = commit or "main"
        ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        raise ArtifactError(
            f"{text!r} is not pinned: what a branch or a tag names changes. Put the commit's 40 hexadecimal digits "
            f"after {repository}@; `git ls-remote {HUB}/{repository} {ref}` prints them (of a tag: refs/tags/NAME)"
        )
    return f"{repository}@{commit}", "/".join(parts[count:])


@dataclass(frozen=True)
class Locations:
    """What this process knows about places.

    Attributes:
        default_store: URI (``file``, ``pvc`` or ``s3``) or absolute path that ``store://`` stands for; None: none.
        volumes_root: folder under which every claim is mounted by its name.
        work: URI (``file`` or ``pvc``) or absolute path that ``store://work`` stands for, since a child works in a
            folder and a bucket is none; None: a folder of the default store.
    """

    default_store: str | None = None
    volumes_root: Path = DEFAULT_VOLUMES_ROOT
    work: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Locations":
        """``FLOWSTILL_STORE``, ``FLOWSTILL_VOLUMES`` and ``FLOWSTILL_WORK``."""
        variables = os.environ if environment is None else environment
        volumes = variables.get("FLOWSTILL_VOLUMES")
        return cls(
            variables.get("FLOWSTILL_STORE") or None,
            Path(volumes) if volumes else DEFAULT_VOLUMES_ROOT,
            variables.get("FLOWSTILL_WORK") or None,
        )


def resolved(uri: str, locations: Locations | None = None) -> ArtifactUri:
    """The URI with the default store's place instead of ``store``.

    Raises:
        ArtifactError: the URI is none, or there is no default store.
    """
    locations = locations or Locations.from_environment()
    parsed = ArtifactUri.parse(uri)
    if parsed.scheme != "store":
        return parsed
    first, _, rest = parsed.path.partition("/")
    if first == _WORK and locations.work is not None:
        return _below(locations.work, rest, "the work volume (FLOWSTILL_WORK, the chart's store.work)", ("file", "pvc"))
    store = locations.default_store
    if store is None:
        raise ArtifactError(f"{uri} needs a default store: set FLOWSTILL_STORE, --store DIR, or the chart's store.uri")
    found = _below(store, parsed.path, "the default store", ("file", "pvc", "s3"))
    if found.scheme == "s3" and first == _WORK:
        raise ArtifactError(
            f"{uri}: the default store {store} is a bucket, and children work in a folder: set FLOWSTILL_WORK, or the "
            "chart's store.work, to pvc://CLAIM/PATH"
        )
    return found


def _below(root: str, path: str, what: str, schemes: tuple[Scheme, ...]) -> ArtifactUri:
    parsed = ArtifactUri.parse(f"file://{root}" if root.startswith("/") else root)
    if parsed.scheme not in schemes:
        use = {"file": "file:///PATH, an absolute path", "pvc": "pvc://CLAIM/PATH", "s3": "s3://BUCKET/PATH"}
        raise ArtifactError(f"{what} {root} must be {' or '.join(use[scheme] for scheme in schemes)}")
    return parsed / path if path else parsed


def local_path(uri: str, locations: Locations | None = None) -> Path:
    """The path at which this process finds ``uri``; nothing need be there yet.

    Raises:
        ArtifactError: the URI is none or is no folder, there is no default store, the claim is not mounted, or a
            symbolic link on the way leads out of the claim or the store.
    """
    locations = locations or Locations.from_environment()
    place = resolved(uri, locations)
    if place.scheme in ("s3", "hf"):
        raise ArtifactError(f"{uri} is no folder of this machine, but lies in {place}")
    path = _mounted(place, locations)
    root = _root_path(uri, place, locations)
    if root is not None and not path.resolve().is_relative_to(root.resolve()):
        raise ArtifactError(f"{uri}: a symbolic link in {path} leads out of {root}; copy the files there instead")
    return path


def _root_path(uri: str, place: ArtifactUri, locations: Locations) -> Path | None:
    """The folder that ``uri`` must not lead out of; None: of ``file``, there is none."""
    parsed = ArtifactUri.parse(uri)
    if parsed.scheme == "store":
        top = f"store://{_WORK}" if _is_work(parsed, locations) else "store://"
        return _mounted(resolved(top, locations), locations)
    return locations.volumes_root / str(place.root) if place.scheme == "pvc" else None


def _is_work(parsed: ArtifactUri, locations: Locations) -> bool:
    return locations.work is not None and parsed.path.split("/")[0] == _WORK


def _mounted(place: ArtifactUri, locations: Locations) -> Path:
    if place.scheme == "file":
        return Path(place.path)
    root = locations.volumes_root / str(place.root)
    if not root.is_dir():
        raise ArtifactError(f"{place}: the claim {place.root} is not mounted at {root}")
    return root / place.path
