import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowstill.api.fields import Source, StatusRef
from flowstill.artifacts import atomic
from flowstill.artifacts.digests import file_digest, tree_digest
from flowstill.artifacts.stores import fetch, lookup_by_inputs, publish, push, record_by_inputs, work_folder
from flowstill.errors import ArtifactError, DigestMismatch, StorageFull
from tests.unit.artifacts.samples import DIGEST, make_folder, student_properties

KEY = "sha256:" + "b" * 64


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWSTILL_STORE", f"file://{tmp_path}/store")
    return tmp_path / "store"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "made")


def leftovers(store: Path) -> list[Path]:
    return [path for path in store.rglob("*") if atomic.PARTIAL in path.name]


def failing_after(count: int, real: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    calls = iter(range(count))

    def call(*arguments: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            raise error
        return real(*arguments, **options)

    return call


def test_published_by_its_digest_and_read_back(store: Path, folder: Path) -> None:
    ref = publish(folder, "Student", student_properties())
    assert ref.uri == f"store://students/sha256-{ref.digest.removeprefix('sha256:')}"
    read = fetch(ref, "spec.student")
    assert read == store / "students" / ref.uri.rpartition("/")[2]
    assert file_digest(read / "manifest.json") == ref.digest == tree_digest(read)
    assert (read / "policy/model.safetensors").read_text() == "weights"
    assert not (folder / "manifest.json").exists()


def test_publishing_twice_is_harmless(store: Path, folder: Path) -> None:
    ref = publish(folder, "Student", student_properties())
    written = (fetch(ref) / "manifest.json").stat().st_ino
    assert publish(folder, "Student", student_properties()) == ref
    assert (fetch(ref) / "manifest.json").stat().st_ino == written
    assert len(list((store / "students").iterdir())) == 1


def test_interrupted_anywhere_it_is_there_whole_or_not_at_all(
    store: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = 0
    for steps in range(100):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing_after(steps, os.fsync, KeyboardInterrupt()))
            try:
                ref = publish(folder, "Student", student_properties())
                break
            except KeyboardInterrupt:
                crashes += 1
        assert leftovers(store) == []
        for path in (store / "students").glob("sha256-*"):
            fetch(Source(uri=f"store://students/{path.name}"))
    assert crashes >= 5
    assert fetch(ref)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_behind(
    store: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    full = OSError(number, os.strerror(number))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", failing_after(1, shutil.copyfile, full))
        with pytest.raises(StorageFull, match="students"):
            publish(folder, "Student", student_properties())
    assert list((store / "students").iterdir()) == []
    assert fetch(publish(folder, "Student", student_properties()))


def test_a_faster_publisher_has_done_the_work(store: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = publish(folder, "Student", student_properties())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda _: False)
        assert publish(folder, "Student", student_properties()) == first
    assert leftovers(store) == []


def test_old_leftovers_go_and_young_ones_stay(store: Path, folder: Path) -> None:
    ref = publish(folder, "Student", student_properties())
    name = ref.uri.rpartition("/")[2]
    shutil.rmtree(store / "students" / name)
    old, young = (store / "students" / f".{name}{atomic.PARTIAL}{age}" for age in ("old", "young"))
    old.mkdir()
    young.mkdir()
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (long_ago, long_ago))
    publish(folder, "Student", student_properties())
    assert leftovers(store) == [young]


def test_damage_names_field_path_and_fix(store: Path, folder: Path) -> None:
    ref = publish(folder, "Student", student_properties())
    (fetch(ref) / "onnx/student.onnx").write_text("GRAPH")
    with pytest.raises(DigestMismatch, match=r"spec\.student\.uri: .*onnx/student\.onnx.*again"):
        fetch(Source(uri=ref.uri), "spec.student")
    with pytest.raises(DigestMismatch):
        publish(folder, "Student", student_properties())


def test_another_digest_names_both(store: Path, folder: Path) -> None:
    ref = push(folder, "store://teachers/x")
    assert fetch(ref, "spec.teacher") == store / "teachers/x"
    with pytest.raises(DigestMismatch, match=rf"spec\.teacher\.digest: .*{ref.digest}, not {DIGEST}") as caught:
        fetch(StatusRef(uri=ref.uri, digest=DIGEST), "spec.teacher")
    assert caught.value.reason == "DigestMismatch"


@pytest.mark.usefixtures("store")
def test_nothing_there_names_the_way_to_put_it_there(tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"spec\.dataset\.uri: .*flowstill store push FOLDER store://gone"
    ) as caught:
        fetch(Source(uri="store://gone"), "spec.dataset")
    assert caught.value.reason == "ArtifactUnreadable"
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="a file, and an artifact is a folder"):
        fetch(Source(uri=f"file://{tmp_path}/file"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="empty"):
        fetch(Source(uri=f"file://{tmp_path}/empty"))


def test_push_never_replaces_other_bytes_unasked(store: Path, folder: Path) -> None:
    ref = push(folder, "store://teachers/x/")
    assert ref == StatusRef(uri="store://teachers/x", digest=tree_digest(folder))
    assert push(folder, "store://teachers/x") == ref
    (folder / "policy/model.safetensors").write_text("other")
    with pytest.raises(ArtifactError, match="--force"):
        push(folder, "store://teachers/x")
    assert tree_digest(store / "teachers/x") == ref.digest
    forced = push(folder, "store://teachers/x", force=True)
    assert tree_digest(store / "teachers/x") == forced.digest != ref.digest
    assert leftovers(store) == []


def test_push_refuses_what_would_lose_or_spread_damage(store: Path, folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"whole store; name a folder in it, such as store://teachers/NAME$"):
        push(folder, "store://", force=True)
    ref = publish(folder, "Student", student_properties())
    student = fetch(ref)
    (student / "onnx/student.onnx").write_text("GRAPH")
    with pytest.raises(DigestMismatch):
        push(student, "store://copy")
    assert not (store / "copy").exists()


@pytest.mark.usefixtures("store")
def test_a_published_artifact_keeps_its_digest_when_pushed(folder: Path) -> None:
    ref = publish(folder, "Student", student_properties())
    copied = push(fetch(ref), "store://elsewhere/y")
    assert copied.digest == ref.digest
    assert fetch(copied)


def test_by_inputs(store: Path, folder: Path) -> None:
    assert lookup_by_inputs(KEY) is None
    ref = publish(folder, "Student", student_properties())
    record_by_inputs(KEY, ref)
    assert lookup_by_inputs(KEY) == ref
    assert [path.name for path in (store / "by-inputs").iterdir()] == [f"{'b' * 64}.json"]


def test_by_inputs_knows_what_is_gone_or_damaged(store: Path, folder: Path) -> None:
    ref = publish(folder, "Student", student_properties())
    record_by_inputs(KEY, ref)
    (fetch(ref) / "onnx/student.onnx").write_text("GRAPH")
    with pytest.raises(DigestMismatch):
        lookup_by_inputs(KEY)
    shutil.rmtree(store / "students")
    assert lookup_by_inputs(KEY) is None
    (store / "by-inputs" / f"{'b' * 64}.json").write_text("{")
    with pytest.raises(ArtifactError, match="remove it"):
        lookup_by_inputs(KEY)


def test_work_folder_is_created(store: Path) -> None:
    assert work_folder("store://work/uid/train") == store / "work/uid/train"
    assert (store / "work/uid/train").is_dir()


def test_small_files_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    atomic.write_atomic(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_after(0, os.fsync, OSError(errno.ENOSPC, "full")))
        with pytest.raises(StorageFull):
            atomic.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
