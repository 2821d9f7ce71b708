"""The input key: what decides a student, so that the same inputs never train twice."""

from typing import Any

from flowstill.api.distilljob import DistillJobSpec
from flowstill.artifacts.digests import json_digest

TRAINER_VERSION = "4"
"""Raise it when the same inputs would give another student."""
KEEPING = {"checkpoint_every", "keep_checkpoints", "gradient_accumulation", "parallel"}
"""Options of training that do not change the student: what is kept, and who computes which samples of an update. The
latter, like the number of processes, changes the order of sums: a student's last digits, not what it learns."""


def describe_inputs(spec: DistillJobSpec, teacher: str, dataset: str) -> dict[str, Any]:
    """Everything that decides the student: digests of what it is made from, and every option that matters."""
    return {
        "teacher": {"digest": teacher, "steps": spec.teacher.steps},
        "dataset": {
            "digest": dataset,
            "episodes": sorted(set(spec.dataset.episodes)) if spec.dataset.episodes is not None else None,
            "renameMap": dict(spec.dataset.rename_map),
        },
        "student": spec.student.model_dump(mode="json", by_alias=True),
        "method": spec.method.options(),
        "training": spec.training.model_dump(mode="json", by_alias=True, exclude=KEEPING),
        "export": spec.export.model_dump(mode="json", by_alias=True),
        "trainer": TRAINER_VERSION,
    }


def inputs_digest(spec: DistillJobSpec, teacher: str, dataset: str) -> str:
    """The input key."""
    return json_digest(describe_inputs(spec, teacher, dataset))
