"""A small artifact and its properties."""

from pathlib import Path

from flowstill.api.distilljob import Fidelity
from flowstill.api.fields import StatusRef
from flowstill.artifacts.manifest import OnnxDescription, StudentProperties

DIGEST = "sha256:" + "a" * 64


def student_properties(**changes: object) -> StudentProperties:
    ref = StatusRef(uri="store://teachers/t", digest=DIGEST)
    values: dict[str, object] = {
        "policy_type": "flowstill_smolvla",
        "method": {"name": "snapflow", "targetSteps": 10},
        "multi_step": False,
        "draws": 8,
        "draw_neighbours": 3,
        "action_steps": 8,
        "chunk_size": 16,
        "action_dim": 4,
        "padded_action_dim": 32,
        "teacher": ref,
        "teacher_steps": 10,
        "dataset": ref,
        "seed": 0,
        "inputs_digest": DIGEST,
        "trainer_version": "1",
        "versions": {"python": "3.12"},
        "precision": "fp32",
        "onnx": OnnxDescription.model_validate(
            {"file": "onnx/student.onnx", "inputs": [("noise", "float32", ["B", 8, 16, 32])], "outputs": []}
        ),
        "fidelity": [Fidelity(name="student", distance=0.1, spread=0.9)],
        "parameters": 1000,
        "training_seconds": 1.5,
    }
    return StudentProperties.model_validate(values | changes)


def make_folder(folder: Path, **files: str) -> Path:
    for name, text in (files or {"policy/model.safetensors": "weights", "onnx/student.onnx": "graph"}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
