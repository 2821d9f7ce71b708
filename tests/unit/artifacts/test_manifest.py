import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from flowstill.api.fields import StatusRef
from flowstill.api.studentrollout import GateResult
from flowstill.artifacts.manifest import (
    EvidenceProperties,
    FileEntry,
    Kind,
    Manifest,
    Properties,
    RolloutsProperties,
    StudentProperties,
    describe_files,
    read_manifest,
    verify,
)
from flowstill.errors import ArtifactError, DigestMismatch
from tests.unit.artifacts.samples import DIGEST, make_folder, student_properties


def write_manifest(folder: Path) -> Manifest:
    manifest = Manifest(kind="Student", files=describe_files(folder), properties=student_properties())
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return manifest


def test_bytes_round_trip_and_are_canonical(tmp_path: Path) -> None:
    manifest = write_manifest(make_folder(tmp_path))
    assert read_manifest(tmp_path) == manifest
    assert isinstance(read_manifest(tmp_path).properties, StudentProperties)
    text = (tmp_path / "manifest.json").read_text()
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert json.loads(text)["properties"]["onnx"]["inputs"][0]["shape"] == ["B", 8, 16, 32]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["Student", "Rollouts", "Evidence"])
def test_every_kind_is_written_without_a_warning_and_read_as_it_was(kind: Kind) -> None:
    ref = StatusRef(uri="store://x", digest=DIGEST)
    common = {"suite": "metaworld", "tasks": ["t"], "arms": ["student"], "seeds": [0], "versions": {}}
    references = {"student": ref, "teacher": ref, "baseline": ref}
    gate = GateResult.model_validate({"name": "S1", "class": "safety", "verdict": "Pass", "measured": 0.0})
    properties: dict[Kind, Properties] = {
        "Student": student_properties(method={"name": "snapflow", "training": {"steps": 8, "ema": 0.5}}),
        "Rollouts": RolloutsProperties.model_validate(common | references),
        "Evidence": EvidenceProperties.model_validate(common | references | {"verdict": "Pass", "gates": [gate]}),
    }
    files = [FileEntry(path="a", size=1, sha256=DIGEST)]
    manifest = Manifest(kind=kind, files=files, properties=properties[kind])
    assert Manifest.model_validate_json(manifest.to_bytes()) == manifest


def test_properties_are_those_of_the_kind() -> None:
    ref = StatusRef(uri="store://x", digest=DIGEST)
    rollouts = RolloutsProperties(
        suite="metaworld",
        tasks=["t"],
        arms=["student"],
        seeds=[0],
        versions={},
        student=ref,
        teacher=ref,
        baseline=ref,
    )
    with pytest.raises(ValidationError, match="Student needs StudentProperties"):
        Manifest(kind="Student", files=[], properties=rollouts)
    value = json.loads(Manifest(kind="Rollouts", files=[], properties=rollouts).to_bytes())
    assert Manifest.model_validate(value).properties == rollouts
    with pytest.raises(ValidationError, match="policyType"):
        Manifest.model_validate(value | {"kind": "Student"})


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../b", "./a", "a//b"])
def test_no_file_entry_leaves_the_artifact(path: str) -> None:
    with pytest.raises(ValidationError, match="relative"):
        FileEntry(path=path, size=0, sha256=DIGEST)


@pytest.mark.parametrize("damage", ["flipped", "longer", "missing", "extra"])
def test_damage_is_found_and_named(tmp_path: Path, damage: str) -> None:
    write_manifest(make_folder(tmp_path))
    verify(tmp_path)
    weights = tmp_path / "policy/model.safetensors"
    if damage == "flipped":
        weights.write_text("WEIGHTS")
    elif damage == "longer":
        weights.write_text("weights and more")
    elif damage == "missing":
        weights.unlink()
    else:
        weights = tmp_path / "policy/adapter.json"
        weights.write_text("{}")
    with pytest.raises(DigestMismatch, match=str(weights.relative_to(tmp_path))):
        verify(tmp_path)


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="artifact of Flowstill"):
        read_manifest(tmp_path)
    value = json.loads(write_manifest(make_folder(tmp_path)).to_bytes())
    (tmp_path / "manifest.json").write_text(json.dumps(value | {"schemaVersion": 2}))
    with pytest.raises(ArtifactError, match="schemaVersion"):
        read_manifest(tmp_path)


def test_a_link_is_not_published(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "policy/model.safetensors")
    with pytest.raises(ArtifactError, match="symbolic link"):
        describe_files(tmp_path)
