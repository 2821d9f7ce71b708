"""Checkpoints: safetensors and JSON, written atomically, the one before kept for when the last is damaged."""

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from flowstill.artifacts.atomic import storage_full
from flowstill.errors import UserError
from flowstill_trainer.files import commit_folder, fresh_folder, write_json, write_tensors

logger = logging.getLogger(__name__)

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run is at a step; random numbers follow from the step.

    Attributes:
        step: updates done.
        weights: the trained parameters.
        average: their moving average; empty without EMA.
        optimizer: AdamW's moments, ``NAME/exp_avg`` and so on.
        seconds: trained so far, over all attempts.
    """

    step: int
    weights: Tensors
    average: Tensors
    optimizer: Tensors
    seconds: float


class CheckpointFolder:
    """The checkpoints of one run.

    Attributes:
        root: where they lie, one folder a checkpoint.
    """

    def __init__(self, root: Path, inputs: str, keep: int) -> None:
        self.root, self._inputs, self._keep = root, inputs, keep

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write atomically, then remove the oldest beyond ``keep``.

        Raises:
            StorageFull: it did not fit; the checkpoints before it are kept, nothing of this one is.
        """
        temporary = self.root / ".writing"
        try:
            with storage_full("the checkpoint", self.root):
                fresh_folder(temporary)
                self._write(checkpoint, temporary)
                final = self.root / f"step-{checkpoint.step:09d}"
                commit_folder(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for old in self._folders()[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def _write(self, checkpoint: Checkpoint, folder: Path) -> None:
        parts = {
            "weights": checkpoint.weights,
            "average": checkpoint.average,
            "optimizer": checkpoint.optimizer,
        }
        digests = {}
        for name, tensors in parts.items():
            write_tensors(folder / f"{name}.safetensors", tensors)
            digests[name] = _digest(folder / f"{name}.safetensors")
        state = {
            "step": checkpoint.step,
            "seconds": checkpoint.seconds,
            "inputs": self._inputs,
            "sha256": digests,
        }
        write_json(folder / "state.json", state)

    def latest(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, or None.

        Raises:
            UserError: the work folder belongs to a run with other inputs.
        """
        for folder in reversed(self._folders()):
            checkpoint = self._read(folder)
            if checkpoint is not None:
                return checkpoint
        return None

    def _read(self, folder: Path) -> Checkpoint | None:
        try:
            state = json.loads((folder / "state.json").read_text())
            for name, digest in state["sha256"].items():
                if _digest(folder / f"{name}.safetensors") != digest:
                    raise ValueError(f"{name}.safetensors differs from its digest")
            parts = {name: load_file(folder / f"{name}.safetensors") for name in state["sha256"]}
        except (OSError, ValueError, KeyError) as error:
            logger.warning("checkpoint %s is damaged (%s); trying the one before", folder.name, error)
            return None
        if state["inputs"] != self._inputs:
            raise UserError(
                f"{self.root} holds checkpoints of a run with other inputs; give another work folder",
                field="--output",
            )
        return Checkpoint(state["step"], parts["weights"], parts["average"], parts["optimizer"], state["seconds"])

    def _folders(self) -> list[Path]:
        return sorted(self.root.glob("step-*")) if self.root.is_dir() else []


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
