"""Observations from a LeRobotDataset: what the robot saw, without a simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flowstill.api.distilljob import Dataset
from flowstill.datasets import open_dataset
from flowstill.errors import DatasetRejected
from flowstill.policies.cameras import data_names
from flowstill.policies.interface import STATE, RunnerInfo
from flowstill_evaluator.lockstep import stacked
from flowstill_evaluator.observations import Batch
from flowstill_evaluator.suites.interface import Observation


def recorded_observations(folder: Path, spec: Dataset, info: RunnerInfo, count: int) -> Batch:
    """At most ``count`` frames, evenly spread over the chosen episodes, by the policy's names.

    Args:
        folder: of the LeRobotDataset v3.
        spec: its episodes and how its features are renamed.
        info: of the policy that will see them.
        count: frames.

    Raises:
        DatasetRejected: it cannot be read, has no such episodes, or lacks what the policy looks at.
    """
    dataset = open_dataset(folder, spec)
    length = len(dataset)
    rows = np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int))
    seen = [_observation(dataset[int(row)], spec.rename_map, info) for row in rows]
    return Batch(stacked([features for features, _ in seen]), tuple(sentence for _, sentence in seen))


def _observation(frame: dict[str, Any], rename_map: dict[str, str], info: RunnerInfo) -> tuple[Observation, str]:
    """One frame as a runner takes it; LeRobot gives images as floats in [0, 1], channels first."""
    named = {ours: frame[theirs] for ours, theirs in data_names(frame, rename_map, info.renamed).items()}
    missing = [name for name in (STATE, *info.cameras) if name not in named]
    if missing:
        offered = ", ".join(sorted(name for name in frame if name.startswith("observation.")))
        raise DatasetRejected(
            f"the student needs {', '.join(missing)}; the dataset offers {offered}: map its names",
            field="spec.dataset.renameMap",
        )
    state = np.asarray(named[STATE], dtype=np.float32)
    if state.shape != (info.state_dim,):
        raise DatasetRejected(
            f"{STATE} has shape {state.shape}, the student's has ({info.state_dim},); use the data of its distillation",
            field="spec.dataset",
        )
    pixels = {
        camera: np.rint(np.moveaxis(np.asarray(named[camera], dtype=np.float32), 0, 2) * 255.0).astype(np.uint8)
        for camera in info.cameras
    }
    return {STATE: state, **pixels}, str(frame["task"])
