"""Which policies are compared: every arm of an evaluation, pinned to its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowstill.api.children import RolloutTask, StudentTask
from flowstill.api.fields import ArtifactRef, Source, StatusRef
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.manifest import StudentProperties, read_manifest
from flowstill.artifacts.stores import fetch
from flowstill.errors import ArtifactError, UserError
from flowstill.policies.interface import Runner

REFERENCE_ARM = "teacher@10"
"""The teacher at its own number of steps, whatever that is."""

REFERENCE_DRAWS = "teacher@10-draws"
"""The same with as many draws as the student has: how much of the student's success is the choice among draws?"""

ONE_DRAW, ALL_DRAWS, OTHER_BASELINE = "student", "student-draws", "baseline"
_ALL_ARMS = (REFERENCE_ARM, "teacher@4", "teacher@2", "teacher@1", REFERENCE_DRAWS, ONE_DRAW, ALL_DRAWS)
_NEED_DRAWS = (REFERENCE_DRAWS, ALL_DRAWS)

Runtime = Literal["torch", "onnx"]
Provider = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Arm:
    """One policy in one setting.

    Attributes:
        name: of the arm.
        uri: the artifact.
        digest: of its bytes.
        steps: denoising steps; None for a one-step student.
        draws: noises per chunk; None: what the artifact says.
        runtime: what computes.
        neighbours: that count for the density of a draw; None: what the artifact says.
    """

    name: str
    uri: str
    digest: str
    steps: int | None
    draws: int | None
    runtime: Runtime
    neighbours: int | None = None

    @property
    def reference(self) -> str:
        """The policy as ``flowstill.load`` takes it."""
        return f"{self.uri}@{self.digest}"

    def open(self, provider: Provider, threads: int | None = None, draws: int | None = None) -> Runner:
        """Load the policy; ``draws`` replaces the arm's own.

        Raises:
            UserError: it cannot be loaded; the message names the field and the arm.
        """
        from flowstill.policies.loading import load_policy

        try:
            return load_policy(
                self.reference,
                runtime=self.runtime,
                steps=self.steps,
                draws=draws or self.draws,
                neighbours=self.neighbours,
                threads=threads,
                provider=provider,
            )
        except UserError as error:
            raise UserError(f"{self.uri} (arm {self.name}): {error}", field=self.field, reason=error.reason) from error

    @property
    def field(self) -> str:
        """The field of the spec that names the policy."""
        if self.name == OTHER_BASELINE:
            return "spec.baseline"
        return "spec.student" if self.name in (ONE_DRAW, ALL_DRAWS) else "spec.teacher"


@dataclass(frozen=True)
class References:
    """The student, and what it is compared with."""

    student: StatusRef
    properties: StudentProperties
    teacher: StatusRef
    baseline: StatusRef
    baseline_is_student: bool

    @property
    def baseline_is_teacher(self) -> bool:
        """Whether the teacher at its own steps is what is served today."""
        return self.baseline.digest == self.teacher.digest


@dataclass(frozen=True)
class Comparison:
    """All arms of an evaluation.

    Attributes:
        arms: in the order they run.
        served: name of the arm that would be served.
        baseline: name of the arm that is served today.
        action_steps: steps of each chunk that every arm executes.
    """

    arms: tuple[Arm, ...]
    served: str
    baseline: str
    action_steps: int

    def __getitem__(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)


def read_student(task: StudentTask) -> StudentProperties:
    """What the student's manifest says, after every byte of the student was held against it.

    Raises:
        ArtifactError: it cannot be read, differs from its digest, or is no student.
    """
    folder = fetch(task.student, "spec.student")
    try:
        manifest = read_manifest(folder)
    except ArtifactError as error:
        raise ArtifactError(f"{task.student.uri}: {error}", field="spec.student.uri") from error
    properties = manifest.properties
    if not isinstance(properties, StudentProperties):
        raise ArtifactError(
            f"{task.student.uri} is an artifact of kind {manifest.kind}, not a Student",
            field="spec.student.uri",
        )
    return properties


def resolve(task: RolloutTask) -> References:
    """Read the student's manifest and pin teacher and baseline.

    Raises:
        ArtifactError: something cannot be read, or differs from its digest.
    """
    properties = read_student(task)
    student = StatusRef(uri=task.student.uri, digest=task.student.digest)
    teacher = pinned(task.teacher or properties.teacher, "spec.teacher")
    baseline = pinned(task.baseline, "spec.baseline") if task.baseline else teacher
    is_student = bool(task.baseline) and (fetch(baseline, "spec.baseline") / "manifest.json").is_file()
    return References(student, properties, teacher, baseline, is_student)


def pinned(source: Source | ArtifactRef | StatusRef, what: str) -> StatusRef:
    """The source with the digest of the bytes that are there."""
    folder = fetch(source, what)
    return StatusRef(uri=source.uri, digest=source.digest or tree_digest(folder))


def compare(task: RolloutTask, references: References) -> Comparison:
    """Decide which arms run.

    Raises:
        UserError: ``spec.evaluation`` leaves out an arm that the gates need, or the student cannot do it.
    """
    properties = references.properties
    draws = properties.draws
    served = ALL_DRAWS if draws > 1 else ONE_DRAW
    baseline = REFERENCE_ARM if references.baseline_is_teacher else OTHER_BASELINE
    wanted: tuple[str, ...] = tuple(task.evaluation.arms) if task.evaluation.arms else _ALL_ARMS
    if draws == 1 and task.evaluation.arms is None:
        wanted = tuple(name for name in wanted if name not in _NEED_DRAWS)
    if draws == 1 and (many := [name for name in wanted if name in _NEED_DRAWS]):
        raise UserError(f"the student has one draw; leave out {' and '.join(many)}", field="spec.evaluation.arms")
    for needed in (served, baseline):
        if needed not in (*wanted, OTHER_BASELINE):
            raise UserError(f"the gates compare {needed}; add it", field="spec.evaluation.arms")
    action_steps = task.evaluation.action_steps or properties.action_steps
    if action_steps > properties.chunk_size:
        raise UserError(
            f"{action_steps} is more than the student's chunk of {properties.chunk_size} steps",
            field="spec.evaluation.actionSteps",
        )
    arms = [_arm(name, task, references) for name in dict.fromkeys(wanted)]
    if baseline == OTHER_BASELINE:
        arms.insert(0, _other_baseline(task, references))
    return Comparison(tuple(arms), served, baseline, action_steps)


def student_runtime(task: RolloutTask) -> Runtime:
    """What students are served with: ONNX Runtime unless the spec says otherwise."""
    return "torch" if task.evaluation.runner == "torch" else "onnx"


def reference_arm(references: References) -> Arm:
    """The teacher at its own number of steps, whether or not it is among the arms."""
    return _teacher(REFERENCE_ARM, references)


def one_draw_arm(task: RolloutTask, references: References) -> Arm:
    """The student before any choice among draws."""
    return _arm(ONE_DRAW, task, references)


def pick_provider() -> Provider:
    """CUDA when both runtimes can use it, else the CPU: both sides of a comparison run on the same device."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _arm(name: str, task: RolloutTask, references: References) -> Arm:
    if name not in (ONE_DRAW, ALL_DRAWS):
        return _teacher(name, references)
    draws = 1 if name == ONE_DRAW else references.properties.draws
    ref = references.student
    return Arm(name, ref.uri, ref.digest, steps=None, draws=draws, runtime=student_runtime(task))


def _teacher(name: str, references: References) -> Arm:
    student, ref = references.properties, references.teacher
    if name == REFERENCE_DRAWS:
        return Arm(
            name, ref.uri, ref.digest, student.teacher_steps, student.draws, "torch", neighbours=student.draw_neighbours
        )
    steps = student.teacher_steps if name == REFERENCE_ARM else int(name.removeprefix("teacher@"))
    return Arm(name, ref.uri, ref.digest, steps=steps, draws=1, runtime="torch")


def _other_baseline(task: RolloutTask, references: References) -> Arm:
    ref = references.baseline
    if references.baseline_is_student:
        runtime = student_runtime(task)
        return Arm(OTHER_BASELINE, ref.uri, ref.digest, steps=None, draws=None, runtime=runtime)
    steps = references.properties.teacher_steps
    return Arm(OTHER_BASELINE, ref.uri, ref.digest, steps=steps, draws=1, runtime="torch")
