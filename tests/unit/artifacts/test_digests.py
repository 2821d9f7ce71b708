import hashlib
from pathlib import Path

import pytest

from flowstill.artifacts.digests import file_digest, json_digest, tree_digest
from flowstill.errors import ArtifactError
from tests.unit.artifacts.samples import make_folder


def sha(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def test_file_and_json(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == sha(b"abc")
    assert json_digest({"b": [1, "é"], "a": None}) == sha('{"a":null,"b":[1,"é"]}'.encode())
    with pytest.raises(ValueError, match="JSON compliant"):
        json_digest({"a": float("nan")})


def test_tree_is_the_sorted_list_of_its_files(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "x", **{"b": "1", "a/z": "22"})
    expected = f'[["a/z",2,"{sha(b"22")}"],["b",1,"{sha(b"1")}"]]'
    assert tree_digest(folder) == sha(expected.encode())


@pytest.mark.parametrize("change", ["content", "name", "more"])
def test_tree_sees_every_change(tmp_path: Path, change: str) -> None:
    folder = make_folder(tmp_path / "x", **{"a": "1", "b/c": "2"})
    before = tree_digest(folder)
    if change == "content":
        (folder / "b/c").write_text("3")
    elif change == "name":
        (folder / "b").rename(folder / "d")
    else:
        (folder / ".hidden").write_text("")
    assert tree_digest(folder) != before


def test_a_linked_file_counts_as_its_bytes(tmp_path: Path) -> None:
    plain = make_folder(tmp_path / "plain", model="weights")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "model").symlink_to(plain / "model")
    assert tree_digest(linked) == tree_digest(plain)


def test_what_is_no_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a folder"):
        tree_digest(tmp_path / "gone")
    with pytest.raises(ArtifactError, match="empty"):
        tree_digest(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with pytest.raises(ArtifactError, match="neither a file nor a folder"):
        tree_digest(tmp_path)


def test_another_programs_manifest_is_a_file_as_any_other(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "x", **{"manifest.json": '{"kind": "web app", "schemaVersion": 1}', "a": "1"})
    before = tree_digest(folder)
    (folder / "a").write_text("2")
    assert tree_digest(folder) != before
