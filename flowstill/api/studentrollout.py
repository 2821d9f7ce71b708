"""StudentRollout: prove that a student is as good as its teacher, and only then roll it out."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from flowstill.api.actions import MAX_ACTIONS, Action
from flowstill.api.conditions import Condition
from flowstill.api.fields import (
    ArtifactRef,
    Digest,
    FeatureName,
    Fraction,
    Message,
    Model,
    Moment,
    Name,
    NotBlank,
    ParityThreshold,
    ShortText,
    Source,
    StatusModel,
    StatusRef,
    Timestamp,
    Uri,
)
from flowstill.api.gates import GateName, Gates
from flowstill.api.monitoring import Monitoring, MonitoringStatus
from flowstill.api.runtime import Runtime

Phase = Literal[
    "Pending", "Validating", "Evaluating", "Judging", "AwaitingApproval", "Suspended", "Promoting",
    "Monitoring", "Completed", "Rejected", "Inconclusive", "Superseded", "RolledBack", "Failed",
]  # fmt: skip
Verdict = Literal["Pass", "Fail", "Inconclusive"]
ArmName = Literal["teacher@10", "teacher@4", "teacher@2", "teacher@1", "teacher@10-draws", "student", "student-draws"]
DEFAULT_MOST_IN_ALL = 600
"""Enough for P1's default margin, which is about all tasks together: with fewer than three of them each gets more."""
DEFAULT_MOST_EPISODES = 200
DEFAULT_MOST_OF_MANY = 300
MANY_TASKS = 11
"""S3 has to hold on every task. From so many tasks on 200 episodes of each show it of an equal student less than nine
times in ten where 9.5 % of pairs differ, and 300 do up to 100 tasks."""
UNTIL_PROMOTION = ("overrides", "approval")
"""Fields of a spec that may be changed until the student is promoted, or the rollout has ended."""
WITH_EVIDENCE = (
    "spec.evaluation.evidence stands in the place of a simulator: leave out custom, arms, shards and maxEpisodesPerTask"
)
MONITORING_REFUSED = "spec.monitoring needs spec.target: without a Deployment there is nothing to watch"
SAFETY_REFUSED = "spec.overrides: a safety gate can never be overridden; only P1 to P6 can"


class StudentSource(Model):
    """Either the DistillJob in this namespace that makes the student, or a published student."""

    distill_job: Name | None = None
    uri: Uri | None = None
    digest: Digest | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> "StudentSource":
        if (self.distill_job is None) == (self.uri is None):
            raise ValueError("spec.student needs exactly one of distillJob, or uri with digest")
        if (self.uri is None) != (self.digest is None):
            raise ValueError("spec.student.uri and spec.student.digest belong together")
        return self


class Parity(Model):
    """Is the exported graph the trained student? Largest absolute difference of normalised actions."""

    threshold: ParityThreshold | None = Field(
        default=None, description="Default: 1e-3 for fp32, 2e-2 for fp16 and bf16."
    )
    samples: Annotated[int, Field(ge=1, le=65_536)] = 64


class CustomSuite(Model):
    """Environments of the user's own, in the evaluator's image or on its ``PYTHONPATH``."""

    entry_point: Annotated[
        str,
        Field(
            max_length=256,
            pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$",
            description="PACKAGE.MODULE:FUNCTION; the function makes the Gymnasium environment of a task.",
        ),
    ]
    config: Annotated[
        dict[str, ShortText], Field(max_length=32, description="Keyword arguments of that function, as text.")
    ] = Field(default_factory=dict)


class Evaluation(Model):
    """Paired rollouts in a simulator: every arm sees the same tasks, initial states, seeds and noise."""

    suite: Literal["metaworld", "libero", "custom"]
    custom: CustomSuite | None = Field(default=None, description="With suite custom only.")
    tasks: Annotated[list[Annotated[str, Field(min_length=1, max_length=128)]], Field(min_length=1, max_length=100)]
    rename_map: Annotated[dict[str, FeatureName], Field(max_length=16)] = Field(default_factory=dict)
    runner: Literal["auto", "onnx", "torch"] = "auto"
    episodes_per_task: Annotated[
        int, Field(ge=1, le=100_000, description="Run of every task before anything is judged.")
    ] = 50
    max_episodes_per_task: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None,
        description="Where gates stay undecided more episodes are run, up to so many; default: 200, with one task "
        "600, with two or with more than ten 300, or episodesPerTask when that is more.",
    )
    shards: Annotated[int, Field(ge=1, le=64, description="Pods that share the episodes of the evaluation.")] = 1
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    action_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    arms: Annotated[list[ArmName], Field(min_length=2, max_length=7)] | None = Field(
        default=None, description="Default: all. teacher@10 stands for the teacher at its own number of steps."
    )
    videos: Literal["failures", "none", "all"] = "failures"
    evidence: ArtifactRef | None = Field(
        default=None,
        description="Records of trials that were run elsewhere, on the robot for example, instead of a simulator "
        "(flowstill records push). The suite is a label then, and episodesPerTask the fewest pairs of every task.",
    )

    @property
    def most_episodes_per_task(self) -> int:
        """The most episodes of a task that may be run. Of recorded trials there are no more than there are."""
        if self.evidence is not None:
            return self.episodes_per_task
        if self.max_episodes_per_task is not None:
            return self.max_episodes_per_task
        tasks = len(set(self.tasks))
        each = DEFAULT_MOST_OF_MANY if tasks >= MANY_TASKS else DEFAULT_MOST_EPISODES
        return max(each, -(-DEFAULT_MOST_IN_ALL // tasks), self.episodes_per_task)

    @model_validator(mode="after")
    def _agrees(self) -> "Evaluation":
        if self.evidence is not None:
            if self.custom or self.arms or self.max_episodes_per_task or self.shards > 1:
                raise ValueError(WITH_EVIDENCE)
        elif (self.suite == "custom") != (self.custom is not None):
            raise ValueError("spec.evaluation.custom and the suite custom belong together")
        if self.max_episodes_per_task is not None and self.max_episodes_per_task < self.episodes_per_task:
            raise ValueError("spec.evaluation.maxEpisodesPerTask must be at least spec.evaluation.episodesPerTask")
        return self


class Override(Model):
    """Somebody answers, until a moment that they name, for a performance gate that did not pass."""

    gate: Annotated[GateName, Field(description="P1 to P6; a safety gate can never be overridden.")]
    by: Annotated[NotBlank, Field(max_length=256, description="Who answers for it.")]
    reason: Annotated[NotBlank, Field(max_length=512, description="Why the student may be served all the same.")]
    expires: Annotated[
        Moment, Field(description="It counts before this moment (RFC 3339): at the verdict, and again at promotion.")
    ]

    @field_validator("gate")
    @classmethod
    def _performance(cls, value: GateName) -> GateName:
        if value.startswith("S"):
            raise ValueError(SAFETY_REFUSED)
        return value

    @property
    def end(self) -> datetime:
        """The moment from which on it does not count."""
        return datetime.fromisoformat(self.expires)


class DeploymentTarget(Model):
    """The Deployment whose environment variable names the policy that is served."""

    name: Name
    container: Name | None = Field(default=None, description="Default: the only container.")
    env: Literal["FLOWSTILL_POLICY"] = "FLOWSTILL_POLICY"


class Target(Model):
    """Where the student is served; only Deployments labelled ``flowstill.dev/target: "true"``."""

    deployment: DeploymentTarget
    progress_deadline_seconds: Annotated[int, Field(ge=10, le=86_400)] = Field(
        default=600, description="A Deployment not available by then gets the previous entry back."
    )


class StudentRolloutSpec(Model):
    """Which student, against what, by which evidence, and where it goes."""

    student: StudentSource
    teacher: Source | None = Field(default=None, description="Fidelity reference; default: the manifest's teacher.")
    baseline: ArtifactRef | None = Field(
        default=None, description="Default: the policy recorded on the target, else the teacher."
    )
    parity: Parity = Field(default_factory=Parity)
    evaluation: Evaluation
    gates: Gates = Field(default_factory=Gates)
    overrides: Annotated[
        list[Override],
        Field(max_length=6, description="Of performance gates. May be changed until the student is promoted."),
    ] = Field(default_factory=list)
    approval: Literal["Automatic", "Manual"] = Field(
        default="Automatic",
        description="Manual: when all gates passed, wait for the annotation flowstill.dev/approve. "
        "May be changed until the student is promoted.",
    )
    target: Target | None = None
    monitoring: Monitoring | None = Field(
        default=None,
        description="Watch the promoted student before the rollout completes; a breach puts the policy before it back.",
    )
    runtime: Runtime = Field(default_factory=Runtime)
    suspend: bool = Field(
        default=False,
        description="Delete the Job, and begin nothing; false again: go on from there. May be changed; has no effect "
        "from Promoting on.",
    )

    @field_validator("overrides")
    @classmethod
    def _one_each(cls, value: list[Override]) -> list[Override]:
        names = [override.gate for override in value]
        if len(set(names)) != len(names):
            raise ValueError("spec.overrides has a gate twice; give each gate one override")
        return value

    @model_validator(mode="after")
    def _one_node(self) -> "StudentRolloutSpec":
        if self.runtime.nodes > 1:
            raise ValueError("spec.runtime.nodes must be 1 on a StudentRollout: only training uses several nodes")
        return self

    @model_validator(mode="after")
    def _something_to_watch(self) -> "StudentRolloutSpec":
        if self.monitoring is not None and self.target is None:
            raise ValueError(MONITORING_REFUSED)
        return self


class Interval(StatusModel):
    """A confidence interval."""

    low: float
    high: float


class GateOverride(StatusModel):
    """The override of a gate, as it was when the gate was last looked at; the verdict stays what was measured."""

    by: Annotated[str, Field(max_length=256)]
    reason: Annotated[str, Field(max_length=512)]
    expires: Timestamp
    lapsed: Annotated[bool, Field(description="It had expired by then, and does not count.")] = False


class GateResult(StatusModel):
    """One gate's verdict: what was measured, the threshold, the interval, N, and a sentence."""

    name: GateName
    gate_class: Literal["safety", "performance"] = Field(alias="class")
    verdict: Verdict
    measured: float | None = None
    threshold: float | None = None
    interval: Interval | None = None
    samples: Annotated[int, Field(ge=0)] = 0
    message: Annotated[str, Field(max_length=512)] = ""
    override: GateOverride | None = None


class ArmResult(StatusModel):
    """One arm's success with N and interval."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    success: Fraction
    episodes: Annotated[int, Field(ge=0)]
    interval: Interval


class StudentRolloutStatus(StatusModel):
    """What happened so far."""

    phase: Phase = "Pending"
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default_factory=list)
    observed_generation: Annotated[int, Field(ge=0)] = 0
    start_time: Timestamp | None = None
    completion_time: Timestamp | None = None
    promotion_time: Timestamp | None = None
    active_seconds: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Of the Jobs that suspend deleted; activeDeadlineSeconds counts them."
    )
    message: Message | None = None
    image: Annotated[str, Field(max_length=512)] | None = None
    round: Annotated[int, Field(ge=1, le=99)] | None = Field(
        default=None, description="Which round of episodes it is; another follows where gates stay undecided."
    )
    episodes: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="Of every task in all rounds so far, the present one included."
    )
    rounds: Annotated[list[Annotated[int, Field(ge=1, le=100_000)]], Field(max_length=99)] = Field(
        default_factory=list, description="Episodes of every task in each round."
    )
    success: Annotated[str, Field(max_length=32)] | None = None
    baseline_success: Annotated[str, Field(max_length=32)] | None = None
    gates_summary: Annotated[str, Field(max_length=64)] | None = None
    gates: Annotated[list[GateResult], Field(max_length=9)] = Field(default_factory=list)
    arms: Annotated[list[ArmResult], Field(max_length=12)] = Field(default_factory=list)
    parity_difference: Annotated[float, Field(ge=0.0)] | None = None
    student: StatusRef | None = None
    teacher: StatusRef | None = None
    baseline: StatusRef | None = None
    previous: Annotated[str, Field(max_length=1200)] | None = Field(
        default=None, description="FLOWSTILL_POLICY of the target before promotion; empty when it had none."
    )
    roll_back_to: Annotated[str, Field(max_length=1200)] | None = Field(
        default=None,
        description="What a roll-back puts: the last policy that completed; empty: no entry of ours.",
    )
    monitoring: MonitoringStatus | None = None
    rollouts: StatusRef | None = None
    evidence: StatusRef | None = None
    actions: Annotated[list[Action], Field(max_length=MAX_ACTIONS)] = Field(
        default_factory=list, description="What people asked for by annotations, and what became of it."
    )
