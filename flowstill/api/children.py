"""What a child is told (one JSON file) and what it says at its end (one JSON line).

The operator writes a :data:`Task` into the file that ``--spec`` names; the child ends with a :class:`Result` in its
termination message, having first written the same as ``result.json`` into its work folder. The kubelet cuts
messages at 4,096 bytes, which would break the JSON, so ours are at most :data:`MAX_RESULT_BYTES`.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from flowstill.api.distilljob import Dataset, DistillJobSpec, Fidelity
from flowstill.api.fields import ArtifactRef, Digest, Message, Model, ShortText, Source, StatusRef
from flowstill.api.studentrollout import ArmResult, Evaluation, GateResult, Gates, Parity, Verdict

MAX_RESULT_BYTES = 3500


class TaskBase(Model):
    """What every child knows about itself. ``work`` is a URI of a folder of its own that survives attempts."""

    resource: ShortText
    uid: ShortText
    work: Annotated[str, Field(max_length=1024)]


class TrainTask(TaskBase):
    """Distill a student and publish it under ``store://students/``."""

    kind: Literal["Train"] = "Train"
    spec: DistillJobSpec


class StudentTask(TaskBase):
    """A task about one published student."""

    student: ArtifactRef


class RolloutTask(StudentTask):
    """What parity, rollouts and judge share. A missing teacher or baseline is the one in the student's manifest."""

    teacher: Source | None = None
    baseline: ArtifactRef | None = None
    evaluation: Evaluation
    gates: Gates = Field(default_factory=Gates)


class ParityTask(RolloutTask):
    """ONNX Runtime against PyTorch, same inputs, same noise."""

    kind: Literal["Parity"] = "Parity"
    parity: Parity = Field(default_factory=Parity)


class DatasetParityTask(StudentTask):
    """The same on recorded frames: a student that was just distilled has a dataset, and need not have a simulator."""

    kind: Literal["DatasetParity"] = "DatasetParity"
    dataset: Dataset
    parity: Parity = Field(default_factory=Parity)


class RolloutsTask(RolloutTask):
    """Run every arm and publish the records (``store://evidence/``), with latency, memory and fidelity."""

    kind: Literal["Rollouts"] = "Rollouts"


class JudgeTask(RolloutTask):
    """Judge published records by the nine gates; publish the evidence with the report."""

    kind: Literal["Judge"] = "Judge"
    rollouts: ArtifactRef
    parity_difference: Annotated[float, Field(ge=0.0)]


AnyTask = TrainTask | ParityTask | DatasetParityTask | RolloutsTask | JudgeTask
Task = Annotated[AnyTask, Field(discriminator="kind")]
TASK: TypeAdapter[AnyTask] = TypeAdapter(Task)
ResultKind = Literal["Train", "Parity", "Rollouts", "Judge"]
RESULT_KINDS: Mapping[str, ResultKind] = {
    "Train": "Train",
    "Parity": "Parity",
    "DatasetParity": "Parity",
    "Rollouts": "Rollouts",
    "Judge": "Judge",
}
"""What each kind of task ends with."""


class Result(Model):
    """What a child did. ``outcome`` UserError is final; Error may be tried again; Interrupted will be."""

    kind: ResultKind
    outcome: Literal["Succeeded", "UserError", "Error", "Interrupted"]
    reason: Annotated[str, Field(min_length=1, max_length=64)]
    message: Message = ""
    # Train
    student: StatusRef | None = None
    reused: bool = False
    inputs_digest: Digest | None = None
    fidelity: Annotated[list[Fidelity], Field(max_length=16)] = Field(default_factory=list)
    # Parity
    difference: Annotated[float, Field(ge=0.0)] | None = None
    threshold: float | None = None
    warning: Message | None = None
    teacher: StatusRef | None = None
    baseline: StatusRef | None = None
    # Rollouts
    rollouts: StatusRef | None = None
    # Judge
    verdict: Verdict | None = None
    gates: Annotated[list[GateResult], Field(max_length=9)] = Field(default_factory=list)
    arms: Annotated[list[ArmResult], Field(max_length=12)] = Field(default_factory=list)
    evidence: StatusRef | None = None


class ProgressReport(Model):
    """The body of ``GET /progress`` of every child."""

    activity: ShortText
    step: Annotated[int, Field(ge=0)]
    total_steps: Annotated[int, Field(ge=0)]
    estimated_remaining_seconds: Annotated[int, Field(ge=0)] | None = None
    loss: float | None = None
    samples_per_second: float | None = None
