"""Teacher, frames and trainers of the tiny SmolVLA, for tests."""

from pathlib import Path
from typing import Any

from tests.support import tiny_smolvla


class Tiny:
    """One teacher and one dataset, made once a session."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.teacher_folder = tiny_smolvla.write_teacher(root / "teacher")
        self.dataset_folder = tiny_smolvla.write_dataset(root / "dataset")

    def teacher(self) -> Any:
        from flowstill.policies.smolvla import load_smolvla

        return load_smolvla(self.teacher_folder)

    def student(self, teacher: Any, **options: Any) -> Any:
        import torch

        from flowstill.policies.smolvla import make_student

        torch.manual_seed(0)
        return make_student(
            teacher, **({"draws": 8, "neighbours": 3, "action_steps": None, "multi_step": True} | options)
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
