"""What was distilled, and what it was compared with, in the words the report uses."""

from dataclasses import dataclass
from typing import Any

from flowstill.artifacts.curve import Curve


@dataclass(frozen=True)
class Artifact:
    """An artifact by name: where it lies and what its bytes are."""

    uri: str
    digest: str | None


@dataclass(frozen=True)
class Training:
    """How the student was watched while it trained; ``picture`` is a data URI."""

    curve: Curve
    picture: str


@dataclass(frozen=True)
class Subject:
    """The student under judgement, from its manifest and the judge's task."""

    resource: str
    policy_type: str
    method: str
    options: dict[str, Any]
    draws: int
    teacher_steps: int
    student: Artifact
    teacher: Artifact
    baseline: Artifact
    dataset: Artifact
    rollouts: Artifact
    parity_difference: float
    parameters: int | None = None
    training_seconds: float | None = None
    trainer_version: str | None = None
    evaluator_version: str | None = None
    published_step: int | None = None

    @property
    def baseline_is_teacher(self) -> bool:
        """Whether the student is compared with its own teacher."""
        return self.baseline == self.teacher
