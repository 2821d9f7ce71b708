"""Teacher, frames and trainers of the tiny policies, for tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tests.support import tiny_openpi, tiny_smolvla

KINDS = ("smolvla", "pi0", "pi05")
ROOT = Path(__file__).parents[2]


class Tiny:
    """One teacher and one dataset, made once a session."""

    def __init__(self, root: Path, kind: str = "smolvla") -> None:
        self.root, self.kind = root, kind
        if kind == "smolvla":
            self.teacher_folder = tiny_smolvla.write_teacher(root / "teacher")
        else:
            self.teacher_folder = tiny_openpi.write_teacher(root / "teacher", kind)
        self.dataset_folder = tiny_smolvla.write_dataset(root / "dataset")

    def teacher(self) -> Any:
        from flowstill.policies.registry import load_flow_policy

        return load_flow_policy(self.teacher_folder)

    def student(self, teacher: Any, **options: Any) -> Any:
        return teacher.make_student(
            **({"draws": 8, "neighbours": 3, "action_steps": None, "multi_step": True} | options)
        )

    def frames(self, teacher: Any) -> Any:
        from flowstill.api.distilljob import Dataset
        from flowstill_trainer.data import load_frames

        return load_frames(self.dataset_folder, Dataset(uri="file:///dataset"), teacher)

    def batch(self, teacher: Any, size: int = 4) -> dict[str, Any]:
        """Preprocessed observations with random normalised actions."""
        import torch

        from flowstill.policies.torch_runner import tensors

        batch = teacher.preprocess(tensors(tiny_smolvla.observations(size)))
        shape = (size, teacher.chunk_size, teacher.action_dim)
        batch["action"] = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        return batch


@contextmanager
def small(kind: str) -> Iterator[None]:
    """LeRobot builds small networks of this policy."""
    with nullcontext() if kind == "smolvla" else tiny_openpi.shrunk(kind):
        yield


def small_path() -> str:
    """PYTHONPATH of processes in which LeRobot builds every policy small."""
    paths = [str(Path(__file__).with_name("small_networks")), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(path for path in paths if path)
