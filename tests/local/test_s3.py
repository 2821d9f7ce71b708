"""Artifacts in a real S3 server: published whole or not at all, read with every byte checked, through a bad network."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowstill.api.fields import Source, StatusRef
from flowstill.artifacts import transfers
from flowstill.artifacts.bucket import Bucket, Object
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.s3 import INDEX, Content, S3Artifact
from flowstill.artifacts.stores import fetch, lookup_by_inputs, publish, push, record_by_inputs
from flowstill.artifacts.transfers import TransferFailed, reporting
from flowstill.artifacts.uris import ArtifactUri
from flowstill.errors import ArtifactError, DigestMismatch, StorageFull
from flowstill_operator import cli
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy, flipped
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, s3_server
from tests.unit.artifacts.samples import make_folder, student_properties

BIG = 20 * 2**20
KEY = "sha256:" + "b" * 64


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def bucket(server: S3Server, request: pytest.FixtureRequest) -> Path:
    return server.bucket(f"test-{abs(hash(request.node.name)) % 10**9}")


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(server.url) as between:
        yield between


@pytest.fixture(autouse=True)
def here(server: S3Server, bucket: Path, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default store is a folder of the bucket, seen through the proxy; the cache is this test's."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment(proxy.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FLOWSTILL_STORE", f"s3://{bucket.name}/flowstill")
    monkeypatch.setenv("FLOWSTILL_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(transfers.Movement, "pause", lambda self, seconds: self.check())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "made")


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """Big enough for several parts, with names that need escaping."""
    made = make_folder(tmp_path / "big", **{"meta/a b%20[1]+ü.json": "{}", "empty": ""})
    (made / "data.bin").write_bytes(os.urandom(BIG))
    return made


def cache(tmp_path: Path) -> Path:
    return tmp_path / "work" / "cache"


def same(one: Path, other: Path) -> bool:
    names = {p.relative_to(one) for p in one.rglob("*") if p.is_file()}
    return names == {p.relative_to(other) for p in other.rglob("*") if p.is_file()} and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def test_pushed_and_read_back_whole(big: Path, tmp_path: Path) -> None:
    ref = push(big, "store://teachers/mine")
    assert ref == StatusRef(uri="store://teachers/mine", digest=tree_digest(big))
    read = fetch(ref)
    assert same(read, big)
    assert read.parent == cache(tmp_path)


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


def test_nothing_there_and_no_bucket(bucket: Path) -> None:
    with pytest.raises(ArtifactError, match=r"spec\.dataset\.uri: s3://.*nothing there; .*flowstill store push"):
        fetch(Source(uri="store://datasets/none"), "spec.dataset")
    with pytest.raises(ArtifactError, match=r"(?i)no such bucket|does not exist"):
        fetch(Source(uri="s3://no-such-bucket/x"))


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


def test_no_credential_in_errors_or_logs(
    folder: Path, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may repeat what it was sent; whoever reads the message must not see it."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-session-token-0001")
    words = f"bad key {ACCESS_KEY} {SECRET_KEY} the-session-token-0001 X-Amz-Signature=0123abcd&x".encode()
    for status in (403, 400, 500):
        body = b"<Error><Code>Odd</Code><Message>" + words.replace(b"&", b"&amp;") + b"</Message></Error>"
        proxy.faults[:] = [Fault("answer", method=m, status=status, body=body, times=1000) for m in ("GET", "PUT")]
        with caplog.at_level(logging.DEBUG), pytest.raises((ArtifactError, TransferFailed)) as caught:
            push(folder, "store://teachers/mine")
        for text in (str(caught.value), repr(caught.value), caplog.text):
            assert "[redacted]" in str(caught.value)
            for secret in (ACCESS_KEY, SECRET_KEY, "the-session-token-0001", "0123abcd"):
                assert secret not in text


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


def test_a_server_of_a_private_authority(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, certificate, key = (tmp_path / name for name in ("ca.crt", "server.crt", "server.key"))
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN"
    own = f"{make}=authority -keyout {tmp_path}/ca.key -out {authority}"
    signed = f"{make}=store -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
    signed += f" -CA {authority} -CAkey {tmp_path}/ca.key -keyout {key} -out {certificate}"
    for command in (own, signed):
        subprocess.run(command.split(), check=True, capture_output=True)
    monkeypatch.setattr(transfers, "TRIES", 1)
    with s3_server((certificate, key)) as server:
        server.bucket("private")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        with pytest.raises(TransferFailed, match=r"private.*error sending request: UnknownIssuer"):
            push(folder, "s3://private/teachers/mine")
        monkeypatch.setenv("FLOWSTILL_CA_FILE", str(authority))
        assert same(fetch(push(folder, "s3://private/teachers/mine")), folder)
        monkeypatch.setenv("FLOWSTILL_CA_FILE", str(tmp_path / "none"))
        with pytest.raises(ArtifactError, match=r"FLOWSTILL_CA_FILE: .*none cannot be read"):
            push(folder, "s3://private/teachers/mine")


def test_the_command_line_pushes_to_a_bucket_and_reads_from_it(
    folder: Path, bucket: Path, proxy: FaultProxy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ("--store", f"s3://{bucket.name}/flowstill")
    assert cli.main(["store", "push", str(folder), "store://teachers/mine", *store]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == f"store://teachers/mine@{tree_digest(folder)}"
    assert (bucket / "flowstill/teachers/mine/policy/model.safetensors").is_file()
    assert cli.main(["run", "none.yaml", *store]) == 2
    assert "--store: s3://" in capsys.readouterr().err
    monkeypatch.setattr(transfers, "TRIES", 1)
    proxy.faults += [Fault("answer", method=method, times=1000) for method in ("GET", "PUT")]
    assert cli.main(["store", "push", str(folder), "store://teachers/other", *store]) == 2
    assert "the same command continues" in capsys.readouterr().err


def test_refused_credentials_name_the_fix(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-0001")
    with pytest.raises(ArtifactError, match=r"refuses these credentials .*store\.s3\.secret"):
        push(folder, "store://teachers/mine")


def test_a_bucket_is_no_place_to_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from flowstill.artifacts.stores import work_folder

    monkeypatch.delenv("FLOWSTILL_WORK")
    with pytest.raises(ArtifactError, match=r"store\.work"):
        work_folder("store://work/uid/train")
