"""The cache of what was fetched: where it is, and what goes."""

import os
import time
from pathlib import Path

import pytest

from flowstill.artifacts.cache import KEPT_DAYS, Cache
from flowstill.errors import ArtifactError

DIGEST = "sha256:" + "a" * 64


def kept(cache: Cache, key: str) -> Path:
    entry = cache.entry(key)
    with entry.locked():
        entry.partial.mkdir()
        (entry.partial / "file").write_text("x")
        entry.keep(DIGEST)
    return entry.folder


def test_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "claim").mkdir()
    on_a_claim = {"FLOWSTILL_WORK": "pvc://claim/deep", "FLOWSTILL_VOLUMES": str(tmp_path)}
    assert Cache.here(on_a_claim).root == tmp_path / "claim/deep/cache"
    assert Cache.here(on_a_claim | {"FLOWSTILL_CACHE": "/mine"}).root == Path("/mine")
    assert Cache.here({"XDG_CACHE_HOME": "/xdg"}).root == Path("/xdg/flowstill/artifacts")


def test_there_is_nothing_before_it_is_whole(tmp_path: Path) -> None:
    entry = Cache(tmp_path).entry("key")
    with entry.locked():
        entry.partial.mkdir()
        assert entry.digest is None
        entry.keep(DIGEST)
    assert entry.digest == DIGEST
    (tmp_path / "key.digest").unlink()
    assert entry.digest is None
    assert kept(Cache(tmp_path), "key") == entry.folder
    assert entry.digest == DIGEST
    entry.remove()
    assert entry.digest is None


def test_what_nobody_has_asked_for_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    old, new, asked = (kept(cache, name) for name in ("old", "new", "asked"))
    before = time.time() - (KEPT_DAYS + 1) * 24 * 3600
    for name in ("old", "asked"):
        os.utime(tmp_path / f"{name}.lock", (before, before))
    with cache.entry("asked").locked():
        pass
    cache.forget_old()
    assert (old.exists(), new.exists(), asked.exists()) == (False, True, True)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="set FLOWSTILL_CACHE"), Cache(tmp_path / "file").entry("key").locked():
        pass
