"""``manifest.json``: what an artifact of Flowstill is, how it was made, and the digest of every file.

The artifact's digest is that of the manifest's bytes, so of every byte.
"""

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import Field, JsonValue, ValidationError, ValidationInfo, field_validator, model_validator

from flowstill.api.distilljob import Fidelity
from flowstill.api.fields import Digest, Model, StatusRef
from flowstill.api.studentrollout import GateResult, Verdict
from flowstill.artifacts.digests import MANIFEST, canonical_json, file_digest, files_of
from flowstill.errors import ArtifactError, DigestMismatch

SCHEMA_VERSION: Final = 1
Kind = Literal["Student", "Rollouts", "Evidence", "Records"]
Count = Annotated[int, Field(ge=1)]


class FileEntry(Model):
    """One file: its path within the artifact, its size in bytes, its digest."""

    path: Annotated[str, Field(min_length=1, max_length=1024)]
    size: Annotated[int, Field(ge=0)]
    sha256: Digest

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts or str(path) != value:
            raise ValueError("a file's path must be relative, normal and without '..'")
        return value


class TensorDescription(Model):
    """One input or output of the graph; a dimension is a size or the name of a free one."""

    name: str
    dtype: str
    shape: list[int | str]

    @model_validator(mode="before")
    @classmethod
    def _from_tuple(cls, value: Any) -> Any:
        """A tuple (name, dtype, shape), as the exporter gives it, is taken too."""
        return dict(zip(("name", "dtype", "shape"), value, strict=True)) if isinstance(value, tuple) else value


class GraphParity(Model):
    """The largest difference of normalised actions between graph and PyTorch at one size of batch."""

    batch: Count
    draws: Count
    difference: Annotated[float, Field(ge=0.0)]


class PartDescription(Model):
    """One graph of a pair; ``file`` is a path within the artifact."""

    file: str
    inputs: list[TensorDescription]
    outputs: list[TensorDescription]


class PairDescription(Model):
    """The graph in two: ``expert`` takes what ``prefix`` gives, and noise. ``parity`` is against the one graph."""

    prefix: PartDescription
    expert: PartDescription
    parity: list[GraphParity] = Field(default_factory=list)


class OnnxDescription(Model):
    """The exported graph; ``file`` is a path within the artifact.

    ``parity`` was measured at export, against PyTorch in float32, with ONNX Runtime's ``provider``. In fp16,
    ``products`` counts the linear layers that could be in it, and ``float32_products`` names those of them that stay
    float32, because their numbers are too large; in the other precisions none is watched.
    """

    file: str
    inputs: list[TensorDescription]
    outputs: list[TensorDescription]
    parity: list[GraphParity] = Field(default_factory=list)
    provider: str = "CPUExecutionProvider"
    pair: PairDescription | None = None
    products: Annotated[int, Field(ge=0)] = 0
    float32_products: list[str] = Field(default_factory=list)


PARITY_THRESHOLDS = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 2e-2}
"""Largest difference of normalised actions between a graph and PyTorch in float32, by the graph's precision."""


class StudentProperties(Model):
    """A student: what it is, and everything it was made of.

    ``method`` holds the method's name and every option. ``multi_step`` says whether it was trained for more
    than one step too. ``action_dim`` is the real one, ``padded_action_dim`` the tensors'. ``precision`` is
    the graph's. ``published_step`` is the step whose weights these are, those of the refinement counted on from the
    training's; ``refined_steps`` is how many of the refinement's are in them, 0 where it was left out because the
    student collapsed in it. ``curve`` is the path of the looks that chose the step (:mod:`flowstill.artifacts.curve`).
    Students that were made before have none of these.
    """

    policy_type: str
    method: dict[str, JsonValue]
    steps: Literal[1] = 1
    multi_step: bool
    draws: Count
    draw_neighbours: Count
    action_steps: Count
    chunk_size: Count
    action_dim: Count
    padded_action_dim: Count
    teacher: StatusRef
    teacher_steps: Count
    dataset: StatusRef
    seed: int
    inputs_digest: Digest
    trainer_version: str
    versions: dict[str, str]
    precision: Literal["fp32", "fp16", "bf16"]
    onnx: OnnxDescription
    fidelity: list[Fidelity] = Field(default_factory=list)
    published_step: Count | None = None
    refined_steps: Annotated[int, Field(ge=0)] | None = None
    curve: str | None = None
    parameters: Count
    training_seconds: Annotated[float, Field(ge=0.0)]


class RolloutsProperties(Model):
    """Records of paired episodes, with latency, memory and fidelity."""

    suite: str
    tasks: list[str]
    arms: list[str]
    seeds: list[int]
    versions: dict[str, str]
    student: StatusRef
    teacher: StatusRef
    baseline: StatusRef


class EvidenceProperties(RolloutsProperties):
    """What was judged from which records, with the report."""

    rollouts: StatusRef | None = None
    verdict: Verdict | None = None
    gates: list[GateResult] = Field(default_factory=list)


class RecordsProperties(Model):
    """Trials that were run elsewhere, and the two policies that they are about.

    ``pairs`` counts the pairs of every task; ``joints`` are those of the velocity logs. ``flowstill`` is the version
    that checked them.
    """

    pairs: dict[str, Count]
    student: StatusRef
    baseline: StatusRef
    joints: list[str] = Field(default_factory=list)
    flowstill: str


Properties = StudentProperties | RolloutsProperties | EvidenceProperties | RecordsProperties
_PROPERTIES: dict[Kind, type[Properties]] = {
    "Student": StudentProperties,
    "Rollouts": RolloutsProperties,
    "Evidence": EvidenceProperties,
    "Records": RecordsProperties,
}


class Manifest(Model):
    """The manifest; its properties are those of its kind."""

    kind: Kind
    schema_version: Literal[1] = SCHEMA_VERSION
    files: list[FileEntry]
    properties: Properties

    @field_validator("properties", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, info: ValidationInfo) -> Properties:
        if "kind" not in info.data:
            raise ValueError("properties cannot be read without a known kind")
        wanted = _PROPERTIES[info.data["kind"]]
        if isinstance(value, Model) and type(value) is not wanted:
            raise ValueError(f"a manifest of kind {info.data['kind']} needs {wanted.__name__}")
        return wanted.model_validate(value)

    def to_bytes(self) -> bytes:
        """The bytes of ``manifest.json``."""
        return canonical_json(self.model_dump(mode="json", by_alias=True)) + b"\n"


def describe_files(folder: Path) -> list[FileEntry]:
    """Entries of every file but the manifest, sorted by path.

    Raises:
        ArtifactError: the folder is empty, or holds links or something that is no file.
    """
    entries = []
    for name, path in files_of(folder):
        if path.is_symlink():
            raise ArtifactError(f"{path} is a symbolic link; an artifact holds the files themselves")
        if name != MANIFEST:
            entries.append(FileEntry(path=name, size=path.stat().st_size, sha256=file_digest(path)))
    if not entries:
        raise ArtifactError(f"{folder} has no files to publish")
    return entries


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact; its files are not looked at (:func:`verify`).

    Raises:
        ArtifactError: there is none, or it is not of a schema that this version reads.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read ({error.strerror}); is {folder} an artifact of Flowstill?"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{path} is no manifest that this version reads: {where}: {first['msg']}") from error


def verify(folder: Path) -> Manifest:
    """Read an artifact's manifest and hold every file against it.

    Raises:
        ArtifactError: no readable manifest.
        DigestMismatch: a file is missing, is none of the artifact's, or has other bytes.
    """
    manifest = read_manifest(folder)
    expected = {entry.path: entry for entry in manifest.files}
    there = dict(files_of(folder))
    there.pop(MANIFEST, None)
    fix = "publish or copy the artifact again"
    for name in expected.keys() - there.keys():
        raise DigestMismatch(f"{folder / name} is missing; {fix}")
    for name in there.keys() - expected.keys():
        raise DigestMismatch(f"{there[name]} does not belong to the artifact; remove it, or {fix}")
    for name, path in there.items():
        entry = expected[name]
        if path.stat().st_size != entry.size or file_digest(path) != entry.sha256:
            raise DigestMismatch(f"{path} has other bytes than its manifest says; {fix}")
    return manifest
