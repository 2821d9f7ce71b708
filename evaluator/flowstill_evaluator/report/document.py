"""``report.json``: every number of the report as one typed document, from which the page is drawn.

``python -m flowstill_evaluator.report.document`` writes its JSON schema anew: beside this file, for the package, and in
``docs/``.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from flowstill.api.gates import GateName
from flowstill.api.studentrollout import Verdict
from flowstill.artifacts.curve import Curve

SCHEMA_VERSION: Final = 1
SCHEMA_FILE: Final = "report.schema.json"
DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

Role = Literal["baseline", "served", "other"]
Count = Annotated[int, Field(ge=0)]
Proportion = Annotated[float, Field(ge=0.0, le=1.0)]
Cosine = Annotated[float, Field(ge=-1.001, le=1.001)]


class Part(BaseModel):
    """A part of the document: frozen, finite numbers, camelCase outside, nothing that the schema does not name."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Range(Part):
    """A confidence interval."""

    low: float
    high: float


class Override(Part):
    """Somebody's decision to go on although a performance gate did not pass."""

    by: str
    reason: str
    expires: str | None = None
    lapsed: bool = False
    """It had expired when the judge was asked, and does not count."""


class Gate(Part):
    """One gate: what was measured, against which limit, on how much, and a sentence."""

    name: GateName
    title: str
    gate_class: Annotated[Literal["safety", "performance"], Field(alias="class")]
    verdict: Verdict
    measured: float | None = None
    threshold: float | None = None
    interval: Range | None = None
    samples: Count
    message: str
    override: Override | None = None


class Tally(Part):
    """Successes out of episodes."""

    success: Count
    episodes: Count


class Arm(Part):
    """One policy in one setting, over all its episodes."""

    name: str
    role: Role
    success: Count
    episodes: Annotated[int, Field(ge=1)]
    interval: Range
    """Wilson, 95 %, two-sided."""
    mean_steps: float | None
    """Null: not every trial on a robot says."""
    idle_rate: Proportion | None
    """Chunks that hardly moved; null: none was recorded."""
    clamped: Count | None
    """Episodes with an action that had to be clamped; null: not every trial on a robot says."""
    failures: dict[str, Count]
    tasks: dict[str, Tally]


class Comparison(Part):
    """The served student and the baseline on the same episodes: McNemar's table."""

    pairs: Annotated[int, Field(ge=1)]
    both: Count
    gained: Count
    """Only the student succeeded."""
    lost: Count
    """Only the baseline succeeded."""
    neither: Count
    difference: float
    """Student minus baseline, as a proportion of the pairs."""
    interval: Range
    """Tango's score interval; each end is a one-sided bound at the level of the look."""
    p_value: Proportion
    """Exact McNemar test, two-sided."""


class TaskComparison(Comparison):
    """The same of one task."""

    task: str


class Histogram(Part):
    """Counts in equal bins between the two ends; on a logarithmic axis the ends are powers of ten."""

    low: float
    high: float
    logarithmic: bool
    counts: list[Count]


class LatencyArm(Part):
    """Milliseconds of a call at batch 1."""

    arm: str
    role: Role
    calls: Annotated[int, Field(ge=1)]
    mean: float
    p50: float
    p90: float
    p99: float
    histogram: Histogram


class Latency(Part):
    """How long a call takes in the runtime that is served."""

    speedup: float
    """The baseline's median over the student's."""
    arms: list[LatencyArm]


class MemoryArm(Part):
    """Resident bytes of fresh processes."""

    arm: str
    role: Role
    processes: Annotated[int, Field(ge=1)]
    median: float
    low: float
    high: float


class JointShift(Part):
    """Wasserstein-1 distance of a joint's velocities, in units of the baseline's spread."""

    joint: str
    distance: float
    interval: Range


class Fidelity(Part):
    """How near the student's chunks are to the teacher's, on held-out observations."""

    observations: Annotated[int, Field(ge=1)]
    chunks: Count
    """Of each observation."""
    cosine: list[Cosine]
    """To the nearest teacher chunk, mean over the student's chunks; one number an observation."""
    teacher_self_cosine: list[Cosine]
    """The same of the teacher's own chunks on fresh noise; empty: not measured."""
    spread_ratio: float
    """Spread over draws, relative to the teacher's."""
    distances: dict[str, float]


class Ending(Part):
    """How an episode of one arm ended."""

    arm: str
    success: bool
    failure: str | None
    steps: Count | None


class Clip(Part):
    """A file of the records that the page holds."""

    path: str
    kind: Literal["video", "picture"]
    size: Count
    """Bytes."""
    sides: Annotated[list[Ending], Field(min_length=1)]
    """Whose episodes it shows, from left to right."""


class Film(Part):
    """One initial state: the student's episode and, where there is a film of it, the baseline's beside it."""

    task: str
    episode: Count
    seed: int
    clips: Annotated[list[Clip], Field(min_length=1)]


class LeftOut(Part):
    """Films of the records that the page does not hold."""

    why: str
    films: Annotated[int, Field(ge=1)]


class Films(Part):
    """What the page shows of the episodes."""

    shown: list[Film]
    left_out: list[LeftOut]
    size: Count
    """Bytes of the files shown."""
    room: Count
    """The most bytes that are shown."""


class Artifact(Part):
    """Where an artifact lies, and what its bytes are."""

    uri: str
    digest: str | None


class Subject(Part):
    """What was distilled, from what, and how."""

    resource: str
    policy_type: str
    method: str
    options: dict[str, Any]
    draws: Annotated[int, Field(ge=1)]
    teacher_steps: Annotated[int, Field(ge=1)]
    student: Artifact
    teacher: Artifact
    baseline: Artifact
    dataset: Artifact
    rollouts: Artifact
    parity_difference: float
    """Largest absolute difference of normalised actions between the exported graph and the trained student."""
    parameters: Count | None
    training_seconds: float | None
    trainer_version: str | None
    evaluator_version: str | None
    published_step: Count | None


class RunArm(Part):
    """Which bytes ran as an arm, and in what."""

    name: str
    uri: str
    digest: str
    steps: Count | None
    draws: Count | None
    runtime: str | None
    providers: list[str]


class Run(Part):
    """Where the records came from, as the evaluation wrote it down."""

    arms: list[RunArm]
    versions: dict[str, str]
    host: dict[str, Any]
    seeds: Any
    errors: list[Any]
    """Episodes that the simulator could not run; they are missing, not failed."""


class LookPlan(Part):
    """When the evidence was judged. The looks were fixed beforehand, and share the error rate."""

    episodes_per_task: Annotated[int, Field(ge=1)]
    """So many had been run."""
    looks: list[Annotated[int, Field(ge=1)]]
    """All numbers at which the evaluation may be judged; empty: this was the only look."""
    level: Proportion
    """One-sided error of this look: what the bounds of the gates and of the paired differences are at."""


class Report(Part):
    """Everything that was measured about a student, and what follows from it."""

    schema_version: Literal[1] = SCHEMA_VERSION
    verdict: Verdict
    message: str
    subject: Subject
    evaluation: dict[str, Any]
    """``spec.evaluation`` of the StudentRollout."""
    limits: dict[str, Any]
    """``spec.gates`` of the StudentRollout, with what was left to its defaults."""
    served: str
    """The arm of the student that would be served."""
    baseline: str
    """The arm that it was compared with."""
    look: LookPlan
    gates: list[Gate]
    missing: list[str]
    """Why evidence is missing, each reason once."""
    arms: list[Arm]
    paired: Comparison | None
    left_out: Count
    """Pairs that do not count, because the simulator gave up an episode of theirs."""
    tasks: list[TaskComparison]
    latency: Latency | None
    memory: list[MemoryArm]
    velocity_shifts: list[JointShift]
    fidelity: Fidelity | None
    training: Curve | None
    """How the student was held against its teacher while it was trained; null: made before that was recorded."""
    films: Films
    run: Run | None


def as_json(report: Report) -> str:
    """The document as it is written; the same report gives the same bytes."""
    return (
        json.dumps(report.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    )


def schema_text() -> str:
    """The JSON schema of :class:`Report` as it is written."""
    made = {"$schema": DRAFT} | Report.model_json_schema(by_alias=True, mode="serialization")
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def schema_paths() -> tuple[Path, Path]:
    """Where the schema lies: in the package, and in the documentation of a checkout."""
    here = Path(__file__)
    return here.with_name(SCHEMA_FILE), here.parents[3] / "docs" / SCHEMA_FILE


def main() -> None:
    """Write the schema to both places."""
    packaged, documented = schema_paths()
    packaged.write_text(schema_text(), encoding="utf-8")
    if documented.parent.is_dir():
        documented.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
