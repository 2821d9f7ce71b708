"""Where an artifact lies: ``file:///PATH``, ``pvc://CLAIM/PATH`` or ``store://PATH`` in the default store."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from flowstill.errors import ArtifactError

DEFAULT_VOLUMES_ROOT = Path("/var/run/flowstill/volumes")
_CLAIM = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f?#\\]")


@dataclass(frozen=True)
class ArtifactUri:
    """A parsed URI; ``str()`` gives it back in its one normal form.

    Attributes:
        scheme: which kind of place.
        path: for ``file`` absolute; else relative to the claim or the default store, possibly empty.
        claim: of ``pvc``: the PersistentVolumeClaim in the resource's own namespace.
    """

    scheme: Literal["file", "pvc", "store"]
    path: str
    claim: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ArtifactUri":
        """Read a URI; repeated, trailing and ``.`` parts of its path are dropped.

        Raises:
            ArtifactError: the scheme is unknown, the path leaves its root, or a claim's name is none.
        """
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in ("file", "pvc", "store"):
            raise ArtifactError(f"{text!r} is no URI of Flowstill: use file:///PATH, pvc://CLAIM/PATH or store://PATH")
        if _FORBIDDEN.search(rest):
            raise ArtifactError(
                f"{text!r} has a character that no artifact path may have: ? # \\ or a control character"
            )
        claim = None
        if scheme == "file" and not rest.startswith("/"):
            raise ArtifactError(f"{text!r} needs an absolute path: file:///PATH, with three slashes")
        if scheme == "pvc":
            claim, _, rest = rest.partition("/")
            if not _CLAIM.match(claim):
                raise ArtifactError(
                    f"{text!r} names no claim: use pvc://CLAIM/PATH with a PersistentVolumeClaim's name"
                )
        parts = [part for part in rest.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise ArtifactError(f"{text!r} has '..' in its path; name the folder itself")
        path = "/".join(parts)
        kind = cast(Literal["file", "pvc", "store"], scheme)
        return cls(kind, f"/{path}" if scheme == "file" else path, claim)

    def __str__(self) -> str:
        where = f"{self.claim}/{self.path}".rstrip("/") if self.claim else self.path
        return f"{self.scheme}://{where}"

    def __truediv__(self, name: str) -> "ArtifactUri":
        return ArtifactUri.parse(f"{self}/{name}")


@dataclass(frozen=True)
class Locations:
    """What this process knows about places.

    Attributes:
        default_store: URI (``file`` or ``pvc``) or absolute path that ``store://`` stands for; None: none.
        volumes_root: folder under which every claim is mounted by its name.
    """

    default_store: str | None = None
    volumes_root: Path = DEFAULT_VOLUMES_ROOT

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Locations":
        """``FLOWSTILL_STORE`` and ``FLOWSTILL_VOLUMES``."""
        variables = os.environ if environment is None else environment
        volumes = variables.get("FLOWSTILL_VOLUMES")
        return cls(variables.get("FLOWSTILL_STORE") or None, Path(volumes) if volumes else DEFAULT_VOLUMES_ROOT)


def local_path(uri: str, locations: Locations | None = None) -> Path:
    """The path at which this process finds ``uri``; nothing need be there yet.

    Raises:
        ArtifactError: the URI is none, there is no default store, the claim is not mounted, or a symbolic
            link on the way leads out of the claim or the store.
    """
    locations = locations or Locations.from_environment()
    parsed = ArtifactUri.parse(uri)
    if parsed.scheme == "file":
        return Path(parsed.path)
    root = _store_root(uri, locations) if parsed.scheme == "store" else _claim_root(parsed, locations)
    path = root / parsed.path
    if not path.resolve().is_relative_to(root.resolve()):
        raise ArtifactError(f"{uri}: a symbolic link in {path} leads out of {root}; copy the files there instead")
    return path


def _store_root(uri: str, locations: Locations) -> Path:
    store = locations.default_store
    if store is None:
        raise ArtifactError(f"{uri} needs a default store: set FLOWSTILL_STORE, --store DIR, or the chart's store.uri")
    if store.startswith("/"):
        return Path(store)
    parsed = ArtifactUri.parse(store)
    if parsed.scheme == "store":
        raise ArtifactError(f"the default store {store} must be file:///PATH, pvc://CLAIM/PATH or an absolute path")
    return local_path(store, locations)


def _claim_root(parsed: ArtifactUri, locations: Locations) -> Path:
    root = locations.volumes_root / str(parsed.claim)
    if not root.is_dir():
        raise ArtifactError(f"{parsed}: the claim {parsed.claim} is not mounted at {root}")
    return root
