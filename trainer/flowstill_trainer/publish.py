"""From trained weights to a published student."""

import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flowstill.api.distilljob import DistillJobSpec, Fidelity
from flowstill.api.fields import StatusRef
from flowstill.artifacts.atomic import storage_full
from flowstill.artifacts.curve import CURVE, Curve
from flowstill.artifacts.manifest import StudentProperties
from flowstill.artifacts.stores import publish
from flowstill.policies.flow import FlowPolicy
from flowstill_trainer.curve import write_curve
from flowstill_trainer.data import Frames
from flowstill_trainer.export import CHECKED, FP32, ExportPlan, Graph, describe, export
from flowstill_trainer.files import fresh_folder
from flowstill_trainer.inputs import TRAINER_VERSION

LIBRARIES = (
    "flowstill",
    "lerobot",
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "numpy",
    "safetensors",
)
GRAPH = "onnx/student.onnx"
PROBED = 32


@dataclass(frozen=True)
class Origin:
    """Where a student comes from."""

    teacher: StatusRef
    dataset: StatusRef
    inputs: str


def versions() -> dict[str, str]:
    """What made it."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return found | {"python": platform.python_version()}


def export_batch(student: FlowPolicy, frames: Frames) -> dict[str, Any]:
    """The preprocessed held-out observations on which a graph is held against PyTorch."""
    index_B = frames.held_out_V[torch.arange(CHECKED) % len(frames.held_out_V)]
    return student.preprocess(frames.observations(index_B))


def probe_batch(student: FlowPolicy, frames: Frames) -> dict[str, Any]:
    """Preprocessed observations from all over the training frames, on which too large numbers are looked for."""
    place_B = torch.linspace(0, len(frames.training_T) - 1, PROBED).long()
    return student.preprocess(frames.observations(frames.training_T[place_B]))


def probe_for(plan: ExportPlan, student: FlowPolicy, frames: Frames) -> dict[str, Any] | None:
    """:func:`probe_batch` where numbers may be too large, which is in fp16."""
    return probe_batch(student, frames) if plan.precision == "fp16" else None


def build_folder(
    folder: Path, student: FlowPolicy, frames: Frames, curve: Curve | None = None, plan: ExportPlan = FP32
) -> Graph:
    """``policy/``, ``fidelity/`` (of a student that was watched) and ``onnx/`` of the artifact; the graph is checked.

    Raises:
        StorageFull: it did not fit.
    """
    batch = export_batch(student, frames)
    with storage_full("the student", folder):
        fresh_folder(folder)
        student.save(folder / "policy")
        if curve is not None:
            write_curve(folder, curve)
        return export(student, batch, folder / GRAPH, plan, probe_for(plan, student, frames))


def publish_student(
    folder: Path, graph: Graph, student: FlowPolicy, spec: DistillJobSpec, origin: Origin,
    fidelity: list[Fidelity], published_step: int, seconds: float,
) -> StatusRef:  # fmt: skip
    """Describe the folder in its manifest and put it into the default store."""
    properties = StudentProperties(
        policy_type=student.policy_type,
        method=spec.options(),
        steps=1,
        multi_step=student.multi_step,
        draws=student.draws,
        draw_neighbours=student.neighbours,
        action_steps=student.action_steps,
        chunk_size=student.chunk_size,
        action_dim=student.action_dim,
        padded_action_dim=student.padded_action_dim,
        teacher=origin.teacher,
        teacher_steps=spec.teacher.steps,
        dataset=origin.dataset,
        seed=spec.training.seed,
        inputs_digest=origin.inputs,
        trainer_version=TRAINER_VERSION,
        versions=versions(),
        precision=graph.plan.precision,
        onnx=describe(graph, folder),
        fidelity=fidelity,
        published_step=published_step,
        refined_steps=max(0, published_step - spec.training.steps) if spec.method.refinement is not None else None,
        curve=CURVE,
        parameters=sum(p.numel() for p in student.policy.parameters()),
        training_seconds=round(seconds, 3),
    )
    return publish(folder, "Student", properties)
