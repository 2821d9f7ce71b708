"""A published student of the tiny SmolVLA that has learnt nothing: exported, described, with its teacher beside it."""

from pathlib import Path
from typing import Literal

from flowstill.api.fields import StatusRef
from flowstill.artifacts.manifest import OnnxDescription, StudentProperties
from flowstill.artifacts.stores import publish, push
from tests.support import tiny_smolvla

Precision = Literal["fp32", "fp16"]


def publish_student(
    root: Path,
    *,
    draws: int = 8,
    precision: Precision = "fp32",
    dataset: StatusRef | None = None,
    state_dim: int = tiny_smolvla.STATE_DIM,
    action_dim: int = tiny_smolvla.ACTION_DIM,
) -> StatusRef:
    """Make it below ``root`` and publish it in the default store; the teacher is ``store://teachers/tiny``.

    Without ``dataset`` its manifest names one that cannot be read.
    """
    from flowstill.policies.registry import load_flow_policy
    from flowstill.policies.torch_runner import tensors
    from flowstill_trainer.export import ExportPlan, export

    teacher = tiny_smolvla.write_teacher(root / "teacher", state_dim=state_dim, action_dim=action_dim)
    ref = push(teacher, "store://teachers/tiny")
    flow = load_flow_policy(teacher).make_student(draws=draws, neighbours=3, action_steps=None, multi_step=True)
    flow.save(root / "student" / "policy")
    batch = flow.preprocess(tensors(tiny_smolvla.observations(8, state_dim=state_dim)))
    export(flow, batch, root / "student" / "onnx" / "student.onnx", ExportPlan(precision))
    properties = StudentProperties(
        policy_type="flowstill_smolvla",
        method={"name": "snapflow"},
        multi_step=True,
        draws=draws,
        draw_neighbours=3,
        action_steps=flow.action_steps,
        chunk_size=flow.chunk_size,
        action_dim=flow.action_dim,
        padded_action_dim=flow.padded_action_dim,
        teacher=ref,
        teacher_steps=10,
        dataset=dataset or ref,
        seed=0,
        inputs_digest=ref.digest,
        trainer_version="0",
        versions={},
        precision=precision,
        onnx=OnnxDescription(file="onnx/student.onnx", inputs=[], outputs=[]),
        parameters=1,
        training_seconds=0.0,
    )
    return publish(root / "student", "Student", properties)
