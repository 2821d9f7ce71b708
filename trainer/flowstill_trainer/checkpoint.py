"""Checkpoints: safetensors and JSON, written atomically, the one before kept for when the last is damaged.

One holds what changes: the trained tensors and what the optimizer knows of them, never the frozen gigabytes, of which
``state.json`` names the digest. No generator's state is among it: random numbers are functions of the step, and
``randomness`` in ``state.json`` says of which.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from flowstill.artifacts.atomic import storage_full
from flowstill.artifacts.curve import Look
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
        loss: of the last update; None before the first.
        looks: at held-out fidelity, so far.
        best: weights of the look that is published instead of the last one (see ``Watch.best``), where they are not
            those of this step.
    """

    step: int
    weights: Tensors
    average: Tensors
    optimizer: Tensors
    seconds: float
    loss: float | None = None
    looks: tuple[Look, ...] = ()
    best: Tensors = field(default_factory=dict)

    @property
    def published(self) -> Tensors:
        """The weights that would be published of this step."""
        return self.average or self.weights


class CheckpointFolder:
    """The checkpoints of one run.

    Attributes:
        root: where they lie, one folder a checkpoint.
    """

    def __init__(self, root: Path, inputs: str, keep: int, facts: Mapping[str, Any] | None = None) -> None:
        """Of a run with these inputs; ``facts`` about it are written into every checkpoint for its readers."""
        self.root, self._inputs, self._keep, self._facts = root, inputs, keep, dict(facts or {})

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
            "best": checkpoint.best,
        }
        digests = {}
        for name, tensors in parts.items():
            write_tensors(folder / f"{name}.safetensors", tensors)
            digests[name] = _digest(folder / f"{name}.safetensors")
        state = self._facts | {
            "step": checkpoint.step,
            "seconds": checkpoint.seconds,
            "loss": checkpoint.loss,
            "looks": [look.model_dump(mode="json", by_alias=True) for look in checkpoint.looks],
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
            if state["inputs"] == self._inputs:
                return _restored(state, {name: load_file(folder / f"{name}.safetensors") for name in state["sha256"]})
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("checkpoint %s is damaged (%s); trying the one before", folder.name, error)
            return None
        raise UserError(
            f"{self.root} holds checkpoints of a run with other inputs; give another work folder", field="--output"
        )

    def _folders(self) -> list[Path]:
        return sorted(self.root.glob("step-*")) if self.root.is_dir() else []


def _restored(state: dict[str, Any], parts: dict[str, Tensors]) -> Checkpoint:
    return Checkpoint(
        step=state["step"],
        weights=parts["weights"],
        average=parts["average"],
        optimizer=parts["optimizer"],
        seconds=state["seconds"],
        loss=state["loss"],
        looks=tuple(Look.model_validate(look) for look in state["looks"]),
        best=parts["best"],
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
