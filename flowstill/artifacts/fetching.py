"""From a store on the network to a verified folder of this machine."""

from pathlib import Path

from flowstill.api.fields import Source
from flowstill.artifacts.cache import Cache, Entry
from flowstill.artifacts.digests import is_ours, tree_digest
from flowstill.artifacts.folders import Reference, read_folder, wrong_digest
from flowstill.artifacts.manifest import verify
from flowstill.artifacts.remote import Listing, Remote
from flowstill.artifacts.transfers import Movement, download
from flowstill.artifacts.uris import ArtifactUri
from flowstill.errors import ArtifactError, DigestMismatch


def open_remote(place: ArtifactUri) -> Remote:
    """The store of a place that is no folder. Its client is imported here, so that who reads folders does not wait."""
    if place.scheme == "s3":
        from flowstill.artifacts.s3 import S3Artifact

        return S3Artifact(place)
    from flowstill.artifacts.hub import HubArtifact

    return HubArtifact(place)


def fetch_remote(source: Reference, place: ArtifactUri, what: str, cache: Cache | None = None) -> Path:
    """The artifact's folder in the cache, whole and verified; what was fetched before is not fetched again.

    Raises:
        ArtifactError: there is nothing whole to read, or it is refused.
        DigestMismatch: the bytes are not those of the digest.
        StorageFull: it does not fit.
        TransferFailed: the store could not be reached; the next attempt continues.
    """
    cache = cache or Cache.here()
    cache.forget_old()
    try:
        if source.digest is not None:
            entry = cache.entry(source.digest.replace(":", "-"))
            with entry.locked():
                found = _cached(entry, source, source.digest, what)
                return found or _fetch(entry, _list(place), source, place, what)
        listing = _list(place)
        entry = cache.entry(listing.key)
        with entry.locked():
            found = _cached(entry, source, listing.digest, what)
            return found or _fetch(entry, listing, source, place, what)
    except ArtifactError as error:
        if error.field is not None:
            raise
        raise type(error)(str(error), field=f"{what}.uri") from error


def _list(place: ArtifactUri) -> Listing:
    return Movement(f"listing {place}", 0).persist(open_remote(place).listing, str(place))


def _cached(entry: Entry, source: Reference, wanted: str | None, what: str) -> Path | None:
    """What is in the cache, if its bytes are those that are wanted, or still those that were fetched."""
    fetched = entry.digest
    if fetched is None:
        return None
    try:
        return read_folder(entry.folder, Source(uri=source.uri, digest=wanted or fetched), what)
    except ArtifactError:
        entry.remove()
        return None


def _fetch(entry: Entry, listing: Listing, source: Reference, place: ArtifactUri, what: str) -> Path:
    """Download into the cache; only what is whole and good gets its name there."""
    if source.digest is not None and listing.digest not in (None, source.digest):
        raise wrong_digest(source.uri, str(listing.digest), source.digest, what)
    download(listing, open_remote(place), entry.partial, f"the cache {entry.folder.parent}")
    try:
        digest = _digest_of(entry.partial, source)
        wanted = source.digest or listing.digest
        if wanted is not None and digest != wanted:
            raise wrong_digest(source.uri, digest, wanted, what)
    except DigestMismatch:
        entry.remove()
        raise
    entry.keep(digest)
    return entry.folder


def _digest_of(folder: Path, source: Reference) -> str:
    try:
        if is_ours(folder):
            verify(folder)
        return tree_digest(folder)
    except ArtifactError as error:
        raise type(error)(f"{source.uri}: {error}") from error
