"""Published whole or not at all in a real S3 server, whoever writes there too and whatever the network does."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from flowstill.api.fields import Source, StatusRef
from flowstill.artifacts import transfers
from flowstill.artifacts.bucket import Bucket, Object
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.s3 import INDEX, Content, S3Artifact
from flowstill.artifacts.stores import fetch, lookup_by_inputs, publish, push, record_by_inputs
from flowstill.artifacts.transfers import TransferFailed
from flowstill.artifacts.uris import ArtifactUri
from flowstill.errors import ArtifactError
from tests.local.s3.folders import KEY, same
from tests.support.fault_proxy import Fault, FaultProxy
from tests.unit.artifacts.samples import make_folder, student_properties


def test_published_by_its_digest_and_found_by_its_inputs(folder: Path, bucket: Path) -> None:
    ref = publish(folder, "Student", student_properties())
    name = ref.digest.replace(":", "-")
    assert ref.uri == f"store://students/{name}"
    assert (bucket / "flowstill/students" / name / "manifest.json").is_file()
    assert not (folder / "manifest.json").exists()
    assert (fetch(ref) / "policy/model.safetensors").read_text() == "weights"
    assert lookup_by_inputs(KEY) is None
    record_by_inputs(KEY, ref)
    assert lookup_by_inputs(KEY) == ref
    (bucket / "flowstill/students" / name / "onnx/student.onnx").unlink()
    assert lookup_by_inputs(KEY) is None
    assert publish(folder, "Student", student_properties()) == ref
    assert lookup_by_inputs(KEY) == ref


def test_a_flipped_byte_of_an_upload_is_refused_by_the_server_and_sent_again(
    big: Path, bucket: Path, proxy: FaultProxy
) -> None:
    proxy.faults.append(Fault("flip-request", "data.bin", method="PUT", at=99, times=1, least=2**20))
    try:
        push(big, "store://teachers/mine")
    except ArtifactError:
        push(big, "store://teachers/mine")
    assert (bucket / "flowstill/teachers/mine/data.bin").read_bytes() == (big / "data.bin").read_bytes()


def test_an_interrupted_upload_is_not_readable_and_is_continued(big: Path, bucket: Path, proxy: FaultProxy) -> None:
    proxy.faults.append(Fault("answer", "data.bin", method="PUT", times=1000))
    proxy.faults.append(Fault("answer", "data.bin", method="POST", times=1000))
    with pytest.raises(TransferFailed, match="kept for the next attempt"):
        push(big, "store://teachers/mine")
    assert json.loads((bucket / f"flowstill/teachers/mine/{INDEX}").read_text())["state"] == "partial"
    with pytest.raises(ArtifactError, match="is not whole"):
        fetch(Source(uri="store://teachers/mine"))
    proxy.faults.clear()
    proxy.seen.clear()
    ref = push(big, "store://teachers/mine")
    written = {seen.path.rpartition("/")[2] for seen in proxy.seen if seen.method == "PUT" and "?" not in seen.path}
    assert not any("json" in name and INDEX not in name for name in written)
    assert same(fetch(ref), big)


def found_by_a_reader(uri: str, folder: Path) -> str:
    """What a reader of ``uri`` gets, of which nothing is ever in between."""
    try:
        assert same(fetch(Source(uri=uri)), folder)
    except ArtifactError as error:
        return next(words for words in ("is not whole", "nothing there") if words in str(error))
    return "all"


def test_wherever_publishing_breaks_off_readers_see_nothing_or_all(
    folder: Path, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost for good before the n-th request, for every n."""
    monkeypatch.setattr(transfers, "TRIES", 1)
    seen: set[str] = set()
    for count in range(50):
        uri = f"store://teachers/cut-{count}"
        left = [count]
        methods = ("GET", "HEAD", "PUT", "POST", "DELETE")
        proxy.faults = [Fault("answer", method=each, status=400, times=1000, shared=left) for each in methods]
        try:
            push(folder, uri)
            finished = True
        except (ArtifactError, TransferFailed):
            finished = False
        proxy.faults = []
        found = found_by_a_reader(uri, folder)
        assert found == "all" or not finished
        seen.add(found)
        assert same(fetch(push(folder, uri)), folder)
        if finished:
            break
    assert finished
    assert seen == {"nothing there", "is not whole", "all"}


def test_publishers_of_the_same_content_agree(big: Path, bucket: Path) -> None:
    errors: list[BaseException] = []
    refs: list[StatusRef] = []

    def run() -> None:
        try:
            refs.append(push(big, "store://teachers/mine"))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(refs_text(refs))) == 1
    assert json.loads((bucket / f"flowstill/teachers/mine/{INDEX}").read_text())["state"] == "complete"
    assert same(fetch(refs[0]), big)


def test_a_publisher_who_comes_between_two_looks_is_no_stranger(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, others = Bucket.below, iter(["once"])

    def below(bucket: Bucket, prefix: str) -> list[Object]:
        if next(others, None) is not None:
            push(folder, "store://teachers/mine")
        return real(bucket, prefix)

    monkeypatch.setattr(Bucket, "below", below)
    assert same(fetch(push(folder, "store://teachers/mine")), folder)


def refs_text(refs: list[StatusRef]) -> list[str]:
    return [f"{ref.uri}@{ref.digest}" for ref in refs]


def test_other_bytes_need_force_and_leave_nothing_of_the_old(folder: Path, tmp_path: Path, bucket: Path) -> None:
    push(folder, "store://teachers/mine")
    other = make_folder(tmp_path / "other", **{"weights": "new"})
    with pytest.raises(ArtifactError, match="holds other bytes"):
        push(other, "store://teachers/mine")
    ref = push(other, "store://teachers/mine", force=True)
    assert same(fetch(ref), other)
    assert {p.name for p in (bucket / "flowstill/teachers/mine").rglob("*") if p.is_file()} == {"weights", INDEX}


def test_who_was_overtaken_says_so_and_completes_nothing(folder: Path, tmp_path: Path) -> None:
    """Two writers of different bytes: the one whose index was replaced must not call its own complete."""
    uri = ArtifactUri.parse(os.environ["FLOWSTILL_STORE"]) / "teachers/mine"
    mine = [Content.of("a", make_folder(tmp_path / "one", a="mine") / "a")]

    class Overtaken(S3Artifact):
        def _write_file(self, content: Content, movement: transfers.Movement) -> None:
            super()._write_file(content, movement)
            push(make_folder(tmp_path / "two", b="theirs"), str(uri), force=True)

    with pytest.raises(ArtifactError, match="somebody else meanwhile"):
        Overtaken(uri).write(mine, "sha256:" + "1" * 64)
    assert (fetch(Source(uri=str(uri))) / "b").read_text() == "theirs"


def test_who_is_overtaken_in_the_last_moment_says_so_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, theirs = Bucket.write_small, make_folder(tmp_path / "two", b="theirs")

    def write_small(bucket: Bucket, key: str, content: bytes, **conditions: Any) -> None:
        if b'"complete"' in content and tree_digest(theirs).encode() not in content:
            push(theirs, "store://teachers/mine", force=True)
        real(bucket, key, content, **conditions)

    monkeypatch.setattr(Bucket, "write_small", write_small)
    with pytest.raises(ArtifactError, match="somebody else meanwhile"):
        push(folder, "store://teachers/mine")
    assert same(fetch(Source(uri="store://teachers/mine")), theirs)


def test_force_does_not_delete_a_folder_of_artifacts(folder: Path) -> None:
    ref = push(folder, "store://teachers/mine")
    with pytest.raises(ArtifactError, match="folder of artifacts"):
        push(folder, "store://teachers", force=True)
    with pytest.raises(ArtifactError, match="folder of artifacts"):
        fetch(Source(uri="store://teachers"))
    inner = push(folder, "store://teachers/mine/inner")
    with pytest.raises(ArtifactError, match=r"folder of artifacts, such as s3://.*/teachers/mine/inner"):
        push(folder.parent, "store://teachers/mine", force=True)
    assert fetch(ref)
    assert S3Artifact(ArtifactUri.parse(f"{os.environ['FLOWSTILL_STORE']}/teachers/mine/inner")).is_whole(inner.digest)


def test_a_server_without_conditional_writes(folder: Path, proxy: FaultProxy) -> None:
    refusal = b"<Error><Code>NotImplemented</Code><Message>A header is not implemented</Message></Error>"
    for header in ("If-None-Match", "If-Match"):
        proxy.faults.append(Fault("answer", INDEX, "PUT", status=501, body=refusal, header=header, times=100))
    ref = push(folder, "store://teachers/mine")
    assert push(folder, "store://teachers/mine") == ref
    assert same(fetch(ref), folder)
    assert any(fault.times < 100 for fault in proxy.faults)
