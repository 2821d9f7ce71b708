"""DistillJob: from a teacher and a dataset to a published one-step student."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from flowstill.api.actions import MAX_ACTIONS, Action
from flowstill.api.conditions import Condition
from flowstill.api.fields import (
    Digest,
    FeatureName,
    Message,
    Model,
    ParityThreshold,
    Source,
    StatusModel,
    StatusRef,
    Timestamp,
)
from flowstill.api.runtime import Runtime

Phase = Literal["Pending", "Queued", "Running", "Suspended", "Validating", "Succeeded", "Failed"]


class Teacher(Source):
    """A LeRobot checkpoint of a flow policy, one's own fine-tune; its own processors are used for everything."""

    steps: Annotated[int, Field(ge=1, le=100, description="Denoising steps of the teacher as it is used today.")] = 10


class Dataset(Source):
    """A LeRobotDataset v3; ``renameMap`` maps its camera names to the policy's."""

    episodes: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=10_000)] | None = None
    rename_map: Annotated[dict[str, FeatureName], Field(max_length=16)] = Field(default_factory=dict)


class Student(Model):
    """The student: ``draws`` noises in, one chunk out, one function evaluation."""

    draws: Annotated[int, Field(ge=1, le=64, description="1, or 8 to 64; the densest chunk wins.")] = 8
    draw_neighbours: Annotated[int, Field(ge=1, le=32, description="At most draws / 2.")] = 3
    action_steps: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Steps of a chunk that are executed; default: the teacher's n_action_steps."
    )
    state_out: Annotated[
        bool, Field(description="π0.5 only: the state is an input of its own and not part of the prompt.")
    ] = False

    @model_validator(mode="after")
    def _draws_are_usable(self) -> "Student":
        if 1 < self.draws < 8:
            raise ValueError("spec.student.draws must be 1 or 8 to 64: of fewer than 8 the densest is the medoid")
        if self.draws > 1 and self.draw_neighbours * 2 > self.draws:
            raise ValueError("spec.student.drawNeighbours must be at most half of spec.student.draws")
        return self


class Refine(Model):
    """Distribution matching (DMD, arXiv 2311.18828) after the training, for one step only."""

    name: Literal["dmd"] = "dmd"
    steps: Annotated[int, Field(ge=0, le=10_000_000, description="Updates of the student; 0: no refinement.")] = 500
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0, description="Of the student; constant.")] = 1e-4
    fake_learning_rate: Annotated[
        float, Field(gt=0.0, le=1.0, description="Of the net that follows the student's own samples; constant.")
    ] = 3e-4
    fake_steps: Annotated[int, Field(ge=1, le=100, description="Updates of that net for each of the student.")] = 2


BANK = 12_000


def _mix_ratio(given: dict[str, Any]) -> float:
    """The default: with two target steps the student's own velocity makes the target, so it must stay one."""
    return 1.0 if given.get("target_steps", 0) > 2 else 0.5


def _bank_size(given: dict[str, Any]) -> int:
    """The default: a bank needs a teacher that does not move, and samples that use it."""
    return BANK if given.get("target_steps", 0) > 2 and given.get("mix_ratio", 0.0) > 0 else 0


MIX_REFUSED = (
    "spec.method.mixRatio must be 0, 1, or leave both kinds of sample at least one of spec.training.batchSize: a kind "
    "without samples is never trained"
)


class Method(Model):
    """SnapFlow distillation (arXiv 2604.05656); the defaults are the best row of docs/measurements.md."""

    name: Literal["snapflow"] = "snapflow"
    target_steps: Annotated[int, Field(description="Euler steps of the rollout that makes the target.")] = 10
    mix_ratio: Annotated[
        float,
        Field(
            ge=0.0,
            le=1.0,
            description="Fraction of a batch that is teacher-rollout samples, the others are flow matching; default: "
            "1, with 2 target steps 0.5, since that student is its own teacher.",
        ),
    ] = Field(default_factory=_mix_ratio)
    consistency_weight: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    bank_size: Annotated[
        int,
        Field(
            ge=0,
            le=10_000_000,
            description=f"Teacher rollouts computed once and reused; 0: fresh every step; default: {BANK}, with 2 "
            "target steps or without rollouts 0.",
        ),
    ] = Field(default_factory=_bank_size)
    state_jitter: Annotated[
        float, Field(ge=0.0, le=1.0, description="Std of noise on the normalised state, while training.")
    ] = 0.02
    refine: Refine = Field(default_factory=Refine)

    @property
    def refinement(self) -> Refine | None:
        """The refinement, if there is one."""
        return self.refine if self.refine.steps else None

    def options(self) -> dict[str, Any]:
        """What decides the student, as JSON: nothing is said of a refinement that there is not."""
        unused = {"refine"} if self.refinement is None else None
        return self.model_dump(mode="json", by_alias=True, exclude=unused)

    @property
    def multi_step(self) -> bool:
        """Whether more than one step is trained: by the flow-matching half, unless refinement undoes it."""
        return self.mix_ratio < 1 and self.refinement is None

    @model_validator(mode="after")
    def _options_agree(self) -> "Method":
        if not 2 <= self.target_steps <= 100:
            raise ValueError("spec.method.targetSteps must be between 2 and 100")
        if self.bank_size > 0 and self.mix_ratio == 0:
            raise ValueError("spec.method.bankSize needs spec.method.mixRatio > 0: no sample would use the bank")
        return self


class Training(Model):
    """The optimisation: AdamW, linear warm-up, cosine decay."""

    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    batch_size: Annotated[int, Field(ge=2, le=65_536, description="Samples of one update, over all processes.")] = 32
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-4
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 500
    gradient_clip: Annotated[float, Field(gt=0.0, le=1000.0)] = 1.0
    gradient_accumulation: Annotated[
        int, Field(ge=1, le=65_536, description="In how many parts a process computes its share, to save memory.")
    ] = 1
    parallel: Annotated[
        Literal["ddp", "fsdp"],
        Field(description="Of several processes: ddp, each holds all; fsdp, what is trained is shared out."),
    ] = "ddp"
    ema: Annotated[float, Field(ge=0.0, lt=1.0, description="Decay of the published average; 0: none.")] = 0.0
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    checkpoint_every: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    keep_checkpoints: Annotated[int, Field(ge=1, le=100)] = 2
    fidelity_every: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="Steps between looks at held-out fidelity, which choose what is published; 0: only at the end.",
        ),
    ] = 500

    @model_validator(mode="after")
    def _parts_have_samples(self) -> "Training":
        if self.gradient_accumulation > self.batch_size:
            raise ValueError(
                "spec.training.gradientAccumulation must be at most spec.training.batchSize: it says in how many parts "
                "the samples of one update are computed"
            )
        return self


class Export(Model):
    """The ONNX graph."""

    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Field(
            description="Type of the graph's weights and matrix products; inputs, outputs and the rest are float32. "
            "fp16: layers whose numbers are too large for it stay float32 too. "
            "auto: the type that the teacher is stored in where ONNX Runtime has kernels for it, else fp32."
        ),
    ] = "auto"
    split: Annotated[
        bool, Field(description="Write prefix.onnx and expert.onnx too, for servers that keep a prefix for more draws.")
    ] = False


class Validation(Model):
    """After publication: is the exported graph the trained student? A child of the evaluator image compares them."""

    after: bool = Field(
        default=False,
        description="Compare ONNX Runtime with PyTorch on frames of the dataset; fail when they differ.",
    )
    threshold: ParityThreshold | None = Field(
        default=None,
        description="Largest difference of normalised actions; default: 1e-3 for fp32, 2e-2 for fp16 and bf16.",
    )


class DistillJobSpec(Model):
    """What to distill, how, and where it runs."""

    teacher: Teacher
    dataset: Dataset
    student: Student = Field(default_factory=Student)
    method: Method = Field(default_factory=Method)
    training: Training = Field(default_factory=Training)
    export: Export = Field(default_factory=Export)
    validation: Validation = Field(default_factory=Validation)
    runtime: Runtime = Field(default_factory=Runtime)
    suspend: bool = Field(
        default=False,
        description="Delete the Job once it has saved a checkpoint; false again: go on from there. May be changed.",
    )

    def options(self) -> dict[str, Any]:
        """The method's options with the training's, as a student's manifest records them."""
        return self.method.options() | {"training": self.training.model_dump(mode="json", by_alias=True)}

    @model_validator(mode="after")
    def _sections_agree(self) -> "DistillJobSpec":
        smaller = min(self.method.mix_ratio, 1.0 - self.method.mix_ratio)
        if smaller > 0 and smaller * self.training.batch_size <= 0.5:
            raise ValueError(MIX_REFUSED)
        if self.method.bank_size > 0 and self.method.target_steps == 2 and not self.student.state_out:
            raise ValueError(
                "spec.method.bankSize needs spec.method.targetSteps > 2 or spec.student.stateOut: with 2 the target is "
                "the student's own, unless the student is state-out"
            )
        return self


class Progress(StatusModel):
    """A soft look at a running child; nothing depends on it."""

    step: Annotated[int, Field(ge=0)] = 0
    total_steps: Annotated[int, Field(ge=0)] = 0
    progress_percentage: Annotated[int, Field(ge=0, le=100)] = 0
    estimated_remaining_seconds: Annotated[int, Field(ge=0)] | None = None
    loss: float | None = None
    samples_per_second: float | None = None
    last_updated_time: Timestamp | None = None


class Fidelity(StatusModel):
    """How far an arm is from the teacher at its own steps, on held-out observations."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    distance: Annotated[float, Field(ge=0.0, description="Energy distance, normalised real dimensions.")]
    spread: Annotated[float, Field(ge=0.0, description="Std over noise draws, relative to the teacher's.")]


class DistillJobStatus(StatusModel):
    """What happened so far."""

    phase: Phase = "Pending"
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default_factory=list)
    observed_generation: Annotated[int, Field(ge=0)] = 0
    start_time: Timestamp | None = None
    completion_time: Timestamp | None = None
    attempts: Annotated[int, Field(ge=0)] = 0
    disruptions: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Attempts that the cluster or suspend ended; backoffLimit counts none of them."
    )
    earlier_attempts: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="On one node: attempts of the Jobs that suspend deleted."
    )
    active_seconds: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Of attempts on several nodes that ended, and of Jobs that suspend deleted; activeDeadlineSeconds "
        "counts them.",
    )
    image: Annotated[str, Field(max_length=512)] | None = None
    inputs_digest: Digest | None = None
    message: Message | None = None
    progress: Progress | None = None
    student: StatusRef | None = None
    fidelity: Annotated[list[Fidelity], Field(max_length=16)] = Field(default_factory=list)
    validation_image: Annotated[str, Field(max_length=512)] | None = None
    parity_difference: Annotated[float, Field(ge=0.0)] | None = None
    actions: Annotated[list[Action], Field(max_length=MAX_ACTIONS)] = Field(
        default_factory=list, description="What people asked for by annotations, and what became of it."
    )
