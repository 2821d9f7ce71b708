"""A student of the tiny SmolVLA that has learnt nothing: exported once, described and published where it is needed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flowstill.api.fields import StatusRef
from flowstill.artifacts.manifest import OnnxDescription, StudentProperties
from flowstill.artifacts.stores import publish, push
from tests.support import tiny_smolvla

Precision = Literal["fp32", "fp16"]
DRAWS = 8


@dataclass(frozen=True)
class Exported:
    """The folders of a teacher and of its student, which is in no store yet."""

    teacher: Path
    student: Path
    precision: Precision
    action_dim: int


def export_student(
    root: Path,
    *,
    precision: Precision = "fp32",
    state_dim: int = tiny_smolvla.STATE_DIM,
    action_dim: int = tiny_smolvla.ACTION_DIM,
) -> Exported:
    """Make both below ``root``."""
    from flowstill.policies.registry import load_flow_policy
    from flowstill.policies.torch_runner import tensors
    from flowstill_trainer.export import ExportPlan, export

    teacher = tiny_smolvla.write_teacher(root / "teacher", state_dim=state_dim, action_dim=action_dim)
    flow = load_flow_policy(teacher).make_student(draws=DRAWS, neighbours=3, action_steps=None, multi_step=True)
    flow.save(root / "student" / "policy")
    batch, probe = (
        flow.preprocess(tensors(tiny_smolvla.observations(8, seed=seed, state_dim=state_dim))) for seed in (0, 1)
    )
    export(flow, batch, root / "student" / "onnx" / "student.onnx", ExportPlan(precision), probe)
    return Exported(teacher, root / "student", precision, action_dim)


def publish_student(made: Exported, *, dataset: StatusRef | None = None) -> StatusRef:
    """Publish it in the default store; the teacher is ``store://teachers/tiny``.

    Without ``dataset`` its manifest names one that cannot be read.
    """
    ref = push(made.teacher, "store://teachers/tiny")
    properties = StudentProperties(
        policy_type="flowstill_smolvla",
        method={"name": "snapflow"},
        multi_step=True,
        draws=DRAWS,
        draw_neighbours=3,
        action_steps=tiny_smolvla.EXECUTED,
        chunk_size=tiny_smolvla.CHUNK,
        action_dim=made.action_dim,
        padded_action_dim=tiny_smolvla.PADDED,
        teacher=ref,
        teacher_steps=10,
        dataset=dataset or ref,
        seed=0,
        inputs_digest=ref.digest,
        trainer_version="0",
        versions={},
        precision=made.precision,
        onnx=OnnxDescription(file="onnx/student.onnx", inputs=[], outputs=[]),
        parameters=1,
        training_seconds=0.0,
    )
    return publish(made.student, "Student", properties)
