"""Artifacts in a hub-compatible server: pinned commits read with every byte checked, and one commit for a push."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowstill.api.fields import Source
from flowstill.artifacts import transfers
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.hub_push import push_to_hub
from flowstill.artifacts.manifest import Manifest, describe_files
from flowstill.artifacts.stores import fetch, push
from flowstill.artifacts.transfers import TransferFailed
from flowstill.errors import ArtifactError, DigestMismatch
from flowstill_operator import cli
from flowstill_operator.rollout.promote import parse_reference
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.hub_server import TOKEN, Hub, hub_server
from tests.unit.artifacts.samples import make_folder, student_properties

NAME = "models/org/teacher"
LARGE = 3 * 2**20


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as running:
        yield running


@pytest.fixture
def proxy(hub: Hub) -> Iterator[FaultProxy]:
    """Before the server of large files."""
    with fault_proxy(hub.large_url) as between:
        hub.large_url = between.url
        yield between


@pytest.fixture(autouse=True)
def here(hub: Hub, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("FLOWSTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(transfers.Movement, "pause", lambda self, seconds: self.check())


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    made = make_folder(tmp_path / "teacher", **{"config.json": "{}", "sub/a b%20ü.txt": "odd", "empty": "", "z": "z"})
    (made / "model.safetensors").write_bytes(os.urandom(LARGE))
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def put(hub: Hub, folder: Path, name: str = NAME, below: str = "") -> str:
    files = {f"{below}{path}": content for path, content in contents(folder).items()}
    return hub.commit(name, {".gitattributes": b"*.safetensors filter=lfs", **files})


def uri(commit: str, path: str = "") -> str:
    return f"hf://org/teacher@{commit}{path}"


def test_a_pinned_commit_is_read_whole_page_by_page(hub: Hub, teacher: Path) -> None:
    commit = put(hub, teacher)
    hub.commit(NAME, {"config.json": b"newer"})
    read = fetch(Source(uri=uri(commit), digest=tree_digest(teacher)))
    assert contents(read) == contents(teacher)


def test_a_folder_of_a_dataset(hub: Hub, teacher: Path) -> None:
    commit = put(hub, teacher, "datasets/org/frames", "data/v3/")
    assert contents(fetch(Source(uri=f"hf://datasets/org/frames@{commit}/data/v3"))) == contents(teacher)


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(hub: Hub, teacher: Path) -> None:
    fetch(Source(uri=uri(put(hub, teacher))))
    assert {authorization for _, _, authorization in hub.asked} == {f"Bearer {TOKEN}"}
    assert [authorization for _, authorization in hub.large_asked] == [None]


def test_children_are_offline_and_read_what_their_spec_names(
    hub: Hub, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch(Source(uri=uri(put(hub, teacher))))


@pytest.mark.parametrize("revision", ["", "@main", "@v1.0", "@refs/pr/1", "@abcdef0"])
def test_what_is_not_pinned_is_refused_with_the_way_to_find_the_commit(revision: str, hub: Hub) -> None:
    with pytest.raises(ValueError, match=r"40 hexadecimal digits .*git ls-remote https://huggingface.co/"):
        Source(uri=f"hf://org/teacher{revision}")
    with pytest.raises(ArtifactError, match=r"not pinned.*git ls-remote https://huggingface.co/org/teacher"):
        fetch(Source.model_construct(uri=f"hf://org/teacher{revision}", digest=None))
    assert hub.asked == []


def test_a_cut_download_continues_where_it_broke(hub: Hub, teacher: Path, proxy: FaultProxy) -> None:
    proxy.faults.append(Fault("cut", at=2**20, times=2))
    assert contents(fetch(Source(uri=uri(put(hub, teacher))))) == contents(teacher)
    assert [asked for asked, _ in hub.large_asked] == ["", f"bytes={2**20}-", f"bytes={2**21}-"]


def test_an_interrupted_download_is_continued_by_the_next(hub: Hub, teacher: Path, proxy: FaultProxy) -> None:
    commit = put(hub, teacher)
    proxy.faults += [Fault("cut", at=2**20), Fault("answer", after=1, times=100)]
    with pytest.raises(TransferFailed, match="given up after 10 tries") as caught:
        fetch(Source(uri=uri(commit)))
    assert "0123" not in str(caught.value)
    proxy.faults.clear()
    hub.large_asked.clear()
    assert contents(fetch(Source(uri=uri(commit)))) == contents(teacher)
    assert [asked for asked, _ in hub.large_asked] == [f"bytes={2**20}-"]


def test_one_flipped_byte_is_fetched_again_and_then_refused(hub: Hub, teacher: Path, proxy: FaultProxy) -> None:
    proxy.faults.append(Fault("flip", at=5, times=1))
    assert contents(fetch(Source(uri=uri(put(hub, teacher))))) == contents(teacher)
    proxy.faults.append(Fault("flip", at=5, times=3))
    with pytest.raises(DigestMismatch, match=r"model\.safetensors arrived 3 times with other bytes than its sha256"):
        fetch(Source(uri=uri(put(hub, teacher))))


def test_one_flipped_byte_of_a_small_file_is_refused(hub: Hub, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = put(hub, teacher)
    with fault_proxy(hub.url) as between:
        monkeypatch.setenv("HF_ENDPOINT", between.url)
        between.faults.append(Fault("flip", "/config.json", at=1, times=3))
        with pytest.raises(DigestMismatch, match=r"config\.json arrived 3 times with other bytes than its git"):
            fetch(Source(uri=uri(commit)))


def test_nothing_there_and_no_right_to_read(hub: Hub, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = put(hub, teacher)
    for named in (uri("0" * 40), uri(commit, "/nowhere"), f"hf://org/none@{commit}"):
        with pytest.raises(ArtifactError, match=r"spec\.teacher\.uri: .*no such repository, commit or path"):
            fetch(Source(uri=named))
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(ArtifactError, match=r"HF_TOKEN .*store.hub.secret") as caught:
        fetch(Source(uri=uri(commit)))
    assert "hf_another" not in str(caught.value)


def student(tmp_path: Path) -> Path:
    folder = make_folder(tmp_path / "student")
    (folder / "onnx/student.onnx").write_bytes(os.urandom(LARGE))
    manifest = Manifest(kind="Student", files=describe_files(folder), properties=student_properties())
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return folder


def test_a_student_is_pushed_in_one_commit_and_read_back(hub: Hub, tmp_path: Path) -> None:
    made = student(tmp_path)
    first = hub.commit("models/org/student", {"README.md": b"# ours", ".gitattributes": b""})
    ref = push_to_hub(made, "hf://org/student")
    commits = hub.repositories["models/org/student"]
    assert len(commits) == 2
    head = hub.head("models/org/student")
    assert head != first
    assert (ref.uri, ref.digest) == (f"hf://org/student@{head}", tree_digest(made))
    assert "README.md" in commits[head]
    assert contents(fetch(ref, "student")) == contents(made)
    assert push_to_hub(made, "hf://org/student") == ref
    assert len(commits) == 2


def test_other_files_are_deleted_only_by_force(hub: Hub, teacher: Path) -> None:
    hub.commit("datasets/org/frames", {"old.bin": b"old", "keep/me": b"x"})
    with pytest.raises(ArtifactError, match=r"has other files \(keep/me, old\.bin\): push to a folder"):
        push_to_hub(teacher, "hf://datasets/org/frames")
    ref = push_to_hub(teacher, "hf://datasets/org/frames/v3")
    assert contents(fetch(ref)) == contents(teacher)
    ref = push_to_hub(teacher, "hf://datasets/org/frames", force=True)
    assert ref.digest == tree_digest(teacher)
    assert contents(fetch(ref)) == contents(teacher)


def test_a_push_that_cannot_be_names_the_fix(hub: Hub, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match="hf repos create org/none --private --type dataset"):
        push_to_hub(teacher, "hf://datasets/org/none")
    hub.commit("models/org/mine", {"z": b"old"})
    with pytest.raises(ArtifactError, match="leave out what follows the @"):
        push_to_hub(teacher, "hf://org/mine@main")
    with pytest.raises(ArtifactError, match="commit, which nobody can write to"):
        push(teacher, f"hf://org/mine@{'0' * 40}/x")
    hub.refuse_writes = True
    with pytest.raises(ArtifactError, match="HF_TOKEN may not write there"):
        push_to_hub(teacher, "hf://org/mine")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ArtifactError, match="unset it to push"):
        push_to_hub(teacher, "hf://org/mine")
    assert len(hub.repositories["models/org/mine"]) == 1


def test_who_was_overtaken_commits_nothing(hub: Hub, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit("models/org/mine", {"z": b"old"})
    from flowstill.artifacts import hub_push

    real = hub_push._commit

    def late(*arguments: object) -> str:
        hub.commit("models/org/mine", {"theirs": b"new"})
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(hub_push, "_commit", late)
    with pytest.raises(ArtifactError, match="somebody else has committed meanwhile"):
        push_to_hub(teacher, "hf://org/mine", force=True)
    assert list(hub.repositories["models/org/mine"][hub.head("models/org/mine")]) == ["theirs"]


def test_no_token_in_errors_or_logs(
    hub: Hub, teacher: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = put(hub, teacher)
    with fault_proxy(hub.url) as between, caplog.at_level(logging.DEBUG):
        monkeypatch.setenv("HF_ENDPOINT", between.url)
        for status in (400, 403, 500):
            body = f'{{"error": "your token {TOKEN} is odd"}}'.encode()
            between.faults[:] = [Fault("answer", method=m, status=status, body=body, times=99) for m in ("GET", "POST")]
            with pytest.raises((ArtifactError, TransferFailed)) as read:
                fetch(Source(uri=uri(commit)))
            with pytest.raises((ArtifactError, TransferFailed)) as written:
                push_to_hub(teacher, "hf://org/teacher/x")
            assert TOKEN not in f"{read.value} {written.value} {caplog.text}"


def test_the_command_line_commits_and_reads_what_it_committed(
    hub: Hub, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.commit("datasets/org/frames", {".gitattributes": b""})
    assert cli.main(["store", "push", str(teacher), "hf://datasets/org/frames/v3"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == f"hf://datasets/org/frames@{hub.head('datasets/org/frames')}/v3@{tree_digest(teacher)}"
    found = parse_reference(printed)
    assert found is not None
    assert contents(fetch(found)) == contents(teacher)
    assert cli.main(["store", "push", str(teacher), "hf://org"]) == 2
    assert "is no repository of the hub: use ORG/NAME" in capsys.readouterr().err
