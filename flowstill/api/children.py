"""What a child is told (one JSON file) and what it says at its end (one JSON line).

The operator writes a :data:`Task` into the file that ``--spec`` names; the child ends with a :class:`Result` in its
termination message, having first written the same as ``result.json`` into its work folder. The kubelet cuts
messages at 4,096 bytes, which would break the JSON, so ours are at most :data:`MAX_RESULT_BYTES`.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from flowstill.api.distilljob import Dataset, DistillJobSpec, Fidelity
from flowstill.api.fields import ArtifactRef, Digest, Message, Model, Moment, ShortText, Source, StatusRef
from flowstill.api.gates import Gates
from flowstill.api.studentrollout import ArmResult, Evaluation, GateResult, Override, Parity, Verdict

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
    """What parity, rollouts and judge share. A missing teacher or baseline is the one in the student's manifest.

    ``overrides`` change no verdict: they go into the record. ``image``: the evaluator's.
    """

    teacher: Source | None = None
    baseline: ArtifactRef | None = None
    evaluation: Evaluation
    gates: Gates = Field(default_factory=Gates)
    parity: Parity = Field(default_factory=Parity)
    overrides: Annotated[list[Override], Field(max_length=6)] = Field(default_factory=list)
    image: Annotated[str, Field(max_length=512)] | None = None


class ParityTask(RolloutTask):
    """ONNX Runtime against PyTorch, same inputs, same noise; or the verdict that was published for all of this."""

    kind: Literal["Parity"] = "Parity"


class DatasetParityTask(StudentTask):
    """The same on recorded frames: a student that was just distilled has a dataset, and need not have a simulator.

    With a ``reference``, a teacher, the result also has gate P4 on those frames.
    """

    kind: Literal["DatasetParity"] = "DatasetParity"
    dataset: Dataset
    reference: Source | None = None
    parity: Parity = Field(default_factory=Parity)


Episodes = Annotated[int, Field(ge=1, le=100_000)]


class RolloutsTask(RolloutTask):
    """Run every arm on one round of episodes and publish the records (``store://evidence/``).

    The first shard of the first round also measures latency, memory and fidelity. ``episodes``: of every task, from
    ``first_episode`` on; default: ``evaluation.episodesPerTask``.
    """

    kind: Literal["Rollouts"] = "Rollouts"
    first_episode: Annotated[int, Field(ge=0, lt=100_000)] = 0
    episodes: Episodes | None = None

    @property
    def episodes_per_task(self) -> int:
        """Episodes of every task in this round."""
        return self.episodes or self.evaluation.episodes_per_task

    @property
    def shards(self) -> int:
        """Shards of this round: none has no episode at all."""
        return min(self.evaluation.shards, len(self.evaluation.tasks) * self.episodes_per_task)


class JudgingTask(RolloutTask):
    """What the two ways of judging share; the record says which overrides had lapsed when the judge was ``asked``."""

    parity_difference: Annotated[float, Field(ge=0.0)]
    asked: Moment | None = None


class JudgeTask(JudgingTask):
    """Judge published records by the nine gates; publish the evidence with the report.

    ``episodes``: of every task in the records; default: ``evaluation.episodesPerTask``.
    """

    kind: Literal["Judge"] = "Judge"
    rollouts: ArtifactRef
    episodes: Episodes | None = None

    @property
    def episodes_per_task(self) -> int:
        """Episodes of every task that the records have to hold."""
        return self.episodes or self.evaluation.episodes_per_task


class RoundWork(Model):
    """The work folder of one round's rollouts, below which each shard has its own (:func:`shard_work`)."""

    work: Annotated[str, Field(max_length=1024)]
    shards: Annotated[int, Field(ge=1, le=64)] = 1


class JudgeRoundsTask(JudgingTask):
    """The same of records in parts: merge what every shard of every round published, publish that, and judge it.

    ``episodes``: of every task in all rounds together.
    """

    kind: Literal["JudgeRounds"] = "JudgeRounds"
    rounds: Annotated[list[RoundWork], Field(min_length=1, max_length=99)]
    episodes: Episodes

    @property
    def episodes_per_task(self) -> int:
        """Episodes of every task that the records have to hold."""
        return self.episodes


def shard_work(work: str, shard: int, shards: int) -> str:
    """The work folder (URI or path) of one shard below that of all; the only one has the whole of it."""
    return f"{work}/{shard}" if shards > 1 else work


AnyTask = TrainTask | ParityTask | DatasetParityTask | RolloutsTask | JudgeTask | JudgeRoundsTask
Task = Annotated[AnyTask, Field(discriminator="kind")]
TASK: TypeAdapter[AnyTask] = TypeAdapter(Task)
ResultKind = Literal["Train", "Parity", "Rollouts", "Judge"]
RESULT_KINDS: Mapping[str, ResultKind] = {
    "Train": "Train",
    "Parity": "Parity",
    "DatasetParity": "Parity",
    "Rollouts": "Rollouts",
    "Judge": "Judge",
    "JudgeRounds": "Judge",
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
    # Judge, and Parity that is reused; of the gates P4 alone after DatasetParity with a reference
    wanted_episodes: Episodes | None = Field(
        default=None, description="Of every task, in all, before it is judged again; then there is no verdict yet."
    )
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
