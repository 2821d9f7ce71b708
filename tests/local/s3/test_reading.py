"""Read from a real S3 server with every byte checked, through a bad network and from the cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowstill.api.fields import Source, StatusRef
from flowstill.artifacts import transfers
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.stores import fetch, publish, push
from flowstill.artifacts.transfers import TransferFailed, reporting
from flowstill.errors import DigestMismatch, StorageFull
from tests.local.s3.folders import BIG, KEY, cache, same
from tests.support.fault_proxy import Fault, FaultProxy, flipped
from tests.unit.artifacts.samples import student_properties


def test_pushed_and_read_back_whole(big: Path, tmp_path: Path) -> None:
    ref = push(big, "store://teachers/mine")
    assert ref == StatusRef(uri="store://teachers/mine", digest=tree_digest(big))
    read = fetch(ref)
    assert same(read, big)
    assert read.parent == cache(tmp_path)


def test_read_once_then_from_the_cache(folder: Path, proxy: FaultProxy) -> None:
    ref = push(folder, "store://teachers/mine")
    first = fetch(ref)
    proxy.seen.clear()
    assert fetch(ref) == first
    assert proxy.seen == []


def test_a_byte_flipped_in_the_cache_is_fetched_again(folder: Path) -> None:
    ref = push(folder, "store://teachers/mine")
    file = fetch(ref) / "policy/model.safetensors"
    file.write_bytes(flipped(file.read_bytes(), 2))
    assert (fetch(ref) / "policy/model.safetensors").read_text() == "weights"


def test_what_somebody_else_has_put_into_the_cache_is_not_taken(folder: Path, tmp_path: Path) -> None:
    ref = push(folder, "store://teachers/mine")
    for source in (ref, Source(uri=ref.uri)):
        read = fetch(source)
        (read / "policy/model.safetensors").write_text("others")
        (read.parent / f"{read.name}.digest").write_text(tree_digest(read))
        assert same(fetch(source), folder)


def test_a_cut_download_continues_where_it_broke(big: Path, proxy: FaultProxy) -> None:
    ref = push(big, "store://teachers/mine")
    proxy.seen.clear()
    proxy.faults.append(Fault("cut", "data.bin", at=7 * 2**20, times=3))
    assert same(fetch(ref), big)
    ranges = [seen.range for seen in proxy.seen if seen.path.endswith("data.bin")]
    assert ranges[0] is None
    assert len(ranges) >= 2
    assert all(each is not None and each != "bytes=0-" for each in ranges[1:])


def test_an_interrupted_download_is_continued_by_the_next_process(big: Path, proxy: FaultProxy, tmp_path: Path) -> None:
    ref = push(big, "store://teachers/mine")
    proxy.faults.append(Fault("cut", "data.bin", at=9 * 2**20, times=1))
    proxy.faults.append(Fault("answer", "data.bin", after=1, times=100))
    with pytest.raises(TransferFailed, match="given up after 10 tries"):
        fetch(ref)
    key = ref.digest.replace(":", "-")
    assert not (cache(tmp_path) / key).exists()
    arrived = (cache(tmp_path) / f"{key}.partial/data.bin").stat().st_size
    assert 0 < arrived <= 9 * 2**20
    proxy.faults.clear()
    proxy.seen.clear()
    assert same(fetch(ref), big)
    assert [seen.range for seen in proxy.seen if seen.path.endswith("data.bin")] == [f"bytes={arrived}-"]


def test_one_flipped_byte_is_fetched_again_and_then_refused(big: Path, proxy: FaultProxy, tmp_path: Path) -> None:
    ref = push(big, "store://teachers/mine")
    proxy.faults.append(Fault("flip", "data.bin", at=12345, times=1))
    assert same(fetch(ref), big)
    for path in cache(tmp_path).glob("sha256-*.digest"):
        path.unlink()
    fetched = cache(tmp_path) / ref.digest.replace(":", "-")
    fetched.rename(tmp_path / "away")
    proxy.faults.append(Fault("flip", "data.bin", at=12345, times=3))
    with pytest.raises(DigestMismatch, match=r"spec\.teacher\.uri: .*data\.bin arrived 3 times with other bytes"):
        fetch(ref)
    assert not fetched.exists()


def test_one_byte_flipped_in_the_bucket_is_refused(folder: Path, bucket: Path) -> None:
    ref = publish(folder, "Student", student_properties())
    stored = next(bucket.rglob("model.safetensors"))
    stored.write_bytes(flipped(stored.read_bytes(), 0))
    with pytest.raises(DigestMismatch, match=r"model\.safetensors arrived 3 times"):
        fetch(ref)


def test_what_others_have_uploaded_is_read_and_can_be_pinned(folder: Path, bucket: Path, proxy: FaultProxy) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            copy = bucket / "elsewhere" / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    uri = f"s3://{bucket.name}/elsewhere"
    assert same(fetch(Source(uri=uri)), folder)
    assert same(fetch(Source(uri=uri, digest=tree_digest(folder))), folder)
    with pytest.raises(DigestMismatch, match=r"spec\.teacher\.digest: .* has digest sha256:.*, not sha256:bbb"):
        fetch(Source(uri=uri, digest=KEY))


def test_another_digest_is_refused_before_a_byte_is_fetched(big: Path, proxy: FaultProxy) -> None:
    push(big, "store://teachers/mine")
    proxy.seen.clear()
    with pytest.raises(DigestMismatch, match="not sha256:bbb"):
        fetch(Source(uri="store://teachers/mine", digest=KEY))
    assert not any(seen.path.endswith("data.bin") for seen in proxy.seen)


def test_room_is_checked_before_the_first_byte(big: Path, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = push(big, "store://teachers/mine")
    usage = transfers.shutil.disk_usage("/")
    monkeypatch.setattr(transfers.shutil, "disk_usage", lambda _: usage._replace(free=BIG))
    proxy.seen.clear()
    with pytest.raises(StorageFull, match=r"needs 8\d MiB .* and 20 MiB are free"):
        fetch(ref)
    assert not any(seen.path.endswith("data.bin") for seen in proxy.seen)


def test_progress_is_told_and_whoever_is_told_can_end_it(big: Path, tmp_path: Path) -> None:
    ref = push(big, "store://teachers/mine")

    class Stopped(Exception):
        pass

    def stop(activity: str, done: int, total: int) -> None:
        if activity.startswith("downloading"):
            raise Stopped

    with reporting(stop), pytest.raises(Stopped):
        fetch(ref)
    said: list[tuple[str, int, int]] = []
    with reporting(lambda *words: said.append(words)):
        fetch(ref)
    size = sum(path.stat().st_size for path in big.rglob("*") if path.is_file())
    assert said[-1] == (f"downloading {os.environ['FLOWSTILL_STORE']}/teachers/mine", size, size)


def test_processes_fetch_the_same_artifact_once(big: Path, proxy: FaultProxy) -> None:
    ref = push(big, "store://teachers/mine")
    proxy.seen.clear()
    program = f"from flowstill.artifacts.stores import *; print(fetch(StatusRef(**{ref.model_dump()!r})))"
    children = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {child.communicate(timeout=120)[0] for child in children}
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len(said) == 1
    assert same(Path(said.pop().strip()), big)
    assert len([seen for seen in proxy.seen if seen.path.endswith("data.bin")]) == 1
