"""A LeRobotDataset as batches of raw observations and action chunks.

State and actions are always in memory. Images are too when the different ones fit: constant or repeated images are
decoded once. Larger image sets, and videos, are read frame by frame through LeRobot.
"""

import hashlib
import io
import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from flowstill.api.distilljob import Dataset
from flowstill.datasets import open_dataset
from flowstill.errors import DatasetRejected
from flowstill.policies.cameras import data_names
from flowstill.policies.flow import FlowPolicy
from flowstill.policies.interface import STATE

MEMORY_LIMIT = 2 * 2**30
"""Bytes of decoded images that are kept in memory."""
READ_AHEAD = 64
"""Frames that are read before they are asked for; decoded, those of three cameras of 512 x 512 are 0.6 GB."""
HELD_OUT_EVERY = 20


class Images(Protocol):
    """Where images come from."""

    def expect(self, index_B: Tensor) -> None:
        """These frames will be read next: begin with it where that takes time."""
        ...

    def ahead(self, count: int) -> int:
        """Bytes of what is read before it is asked for, by a process that reads ``count`` frames a step."""
        ...

    def read(self, index_B: Tensor) -> dict[str, Tensor]:
        """Float images (B, 3, h, w) in [0, 1] by the policy's camera names."""
        ...


@dataclass(frozen=True)
class ImagesInMemory:
    """Every different image once. U different images, N frames."""

    pixels: dict[str, Tensor]  # uint8 (U, 3, h, w)
    index_N: dict[str, Tensor]

    def expect(self, index_B: Tensor) -> None:
        """They are there."""

    def ahead(self, count: int) -> int:
        """Nothing is."""
        del count
        return 0

    def read(self, index_B: Tensor) -> dict[str, Tensor]:
        """See :class:`Images`."""
        return {key: self.pixels[key][self.index_N[key][index_B]].float() / 255.0 for key in self.pixels}


@dataclass(frozen=True)
class ImagesOnDisk:
    """Read through LeRobot, in threads: decoders are not safe in forked processes."""

    dataset: Any
    names: dict[str, str]  # the dataset's name → the policy's
    pool: ThreadPoolExecutor
    expected: dict[int, Future[Any]] = field(default_factory=dict)

    def expect(self, index_B: Tensor) -> None:
        """Read the first of them while others are computed with; :data:`READ_AHEAD` bounds the memory."""
        wanted = list(dict.fromkeys(index_B.tolist()))[:READ_AHEAD]
        for number in self.expected.keys() - set(wanted):
            del self.expected[number]
        for number in wanted:
            if number not in self.expected:
                self.expected[number] = self.pool.submit(self._item, number)

    def ahead(self, count: int) -> int:
        """LeRobot decodes all cameras of a frame, also those that the policy does not use, to float32."""
        features = self.dataset.meta.features.values()
        pixels = sum(math.prod(each["shape"]) for each in features if each["dtype"] in ("image", "video"))
        return int(min(count, READ_AHEAD) * pixels * torch.float32.itemsize)

    def read(self, index_B: Tensor) -> dict[str, Tensor]:
        """See :class:`Images`."""
        reading: dict[int, Future[Any]] = {}
        for number in dict.fromkeys(index_B.tolist()):
            begun = self.expected.pop(number, None)
            reading[number] = begun or self.pool.submit(self._item, number)
        items = [reading[number].result() for number in index_B.tolist()]
        return {new: torch.stack([item[old] for item in items]) for old, new in self.names.items()}

    def _item(self, number: int) -> Any:
        """LeRobot's, which finds out only now that a video is damaged or missing.

        Raises:
            DatasetRejected: it is.
        """
        try:
            return self.dataset[number]
        except (ValueError, IndexError, FileNotFoundError) as error:
            raise DatasetRejected(
                f"the images of frame {number} cannot be read ({type(error).__name__}: {error}); copy the dataset "
                "again with all of its files",
                field="spec.dataset",
            ) from error


@dataclass(frozen=True)
class Frames:
    """The dataset's frames. N frames, H steps a chunk.

    Attributes:
        index_N: the dataset's own number of each frame; the rows here are those of the chosen episodes.
        state_NS: raw states.
        action_NA: raw actions.
        last_N: index of the last frame of each frame's episode.
        task_N: index into ``tasks``.
        images: where images come from.
        training_T: frames that may be trained on.
        held_out_V: frames of held-out episodes; the training ones when there is a single episode.
    """

    index_N: Tensor
    state_NS: Tensor
    action_NA: Tensor
    last_N: Tensor
    task_N: Tensor
    tasks: tuple[str, ...]
    images: Images
    training_T: Tensor
    held_out_V: Tensor
    chunk_size: int

    def observations(self, index_B: Tensor) -> dict[str, Any]:
        """Raw observations."""
        tasks = [self.tasks[i] for i in self.task_N[index_B].tolist()]
        return {STATE: self.state_NS[index_B], **self.images.read(index_B), "task": tasks}

    def chunks(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        """Raw action chunks (B, H, A), and which of their steps lie within the episode (B, H)."""
        wanted_BH = index_B[:, None] + torch.arange(self.chunk_size)
        last_B1 = self.last_N[index_B][:, None]
        return self.action_NA[torch.minimum(wanted_BH, last_B1)], wanted_BH <= last_B1


def load_frames(folder: Path, spec: Dataset, policy: FlowPolicy) -> Frames:
    """Open the dataset and check that it fits the policy.

    Raises:
        DatasetRejected: it is unreadable or does not fit, naming the field and the fix.
    """
    dataset = open_dataset(folder, spec)
    features = dataset.meta.features
    names = check_features(features, spec.rename_map, policy)
    table = dataset.hf_dataset.with_format("arrow")
    episode_N = _column(table, "episode_index")[:, 0].astype(np.int64)
    last_N = np.searchsorted(episode_N, episode_N, side="right") - 1
    tasks = dataset.meta.tasks.sort_values("task_index").index.astype(str)
    training, held_out = hold_out(episode_N)
    index_N = _column(table, "index")[:, 0]
    return Frames(
        index_N=torch.from_numpy(index_N),
        state_NS=_finite(_column(table, _original(names, STATE)), STATE, index_N),
        action_NA=_finite(_column(table, "action"), "action", index_N),
        last_N=torch.from_numpy(last_N),
        task_N=torch.from_numpy(_column(table, "task_index")[:, 0].astype(np.int64)),
        tasks=tuple(tasks),
        images=open_images(dataset, table, {o: n for o, n in names.items() if n in policy.cameras}),
        training_T=torch.from_numpy(training),
        held_out_V=torch.from_numpy(held_out),
        chunk_size=policy.chunk_size,
    )


def check_features(features: dict[str, Any], rename_map: dict[str, str], policy: FlowPolicy) -> dict[str, str]:
    """The dataset's feature names → the policy's, for those that the policy uses.

    Raises:
        DatasetRejected: a feature is missing or has another size.
    """
    unknown = sorted(rename_map.keys() - features.keys())
    if unknown:
        raise DatasetRejected(
            f"the dataset has no feature {unknown[0]!r}; it has {', '.join(sorted(features))}. The map goes from the "
            "dataset's names to the policy's",
            field="spec.dataset.renameMap",
        )
    offered = data_names(features, rename_map, policy.renamed)
    wanted = [STATE, *policy.cameras]
    missing = [name for name in wanted if name not in offered]
    if missing:
        used = {offered[name] for name in wanted if name in offered}
        spare = [old for old in features if old.startswith("observation.") and old not in used]
        said = _how_to_offer(missing, spare, rename_map, trained=not policy.shown.isdisjoint(missing))
        raise DatasetRejected(said, field="spec.dataset.renameMap")
    if "action" not in features:
        raise DatasetRejected("the dataset has no feature 'action'", field="spec.dataset")
    for name, old, size in (
        (STATE, offered[STATE], policy.state_dim),
        ("action", "action", policy.action_dim),
    ):
        if tuple(features[old]["shape"]) != (size,):
            raise DatasetRejected(
                f"{name} has shape {tuple(features[old]['shape'])}, the policy's has ({size},); use the robot's data "
                "that the teacher was trained on",
                field="spec.dataset",
            )
    return {offered[name]: name for name in wanted}


def _how_to_offer(missing: list[str], spare: list[str], rename_map: dict[str, str], *, trained: bool) -> str:
    """What the policy misses, and what to do: map a name, take other data, or say that it never saw that camera."""
    moved = [name for name in missing if name in rename_map]
    if moved:
        return f"it calls {moved[0]} {rename_map[moved[0]]!r}, and the policy needs {moved[0]}; leave that pair out"
    needs = f"the policy needs {', '.join(missing)}; the dataset offers"
    if spare:
        pairs = ", ".join(f"{old}: {new}" for old, new in zip(spare, missing, strict=False))
        return f"{needs} {', '.join(spare)}. Map its names to the policy's, e.g. renameMap: {{{pairs}}}"
    if STATE in missing or trained:
        return f"{needs} nothing else; use the robot's data that the teacher was trained on"
    return (
        f"{needs} no other camera. If the teacher was trained without, take {', '.join(missing)} out of input_features "
        "in a copy of its config.json, where LeRobot leaves all cameras of the base policy"
    )


def hold_out(episode_N: Any) -> tuple[Any, Any]:
    """Frames to train on, and frames of every twentieth episode (the last of few) to judge on."""
    episodes = np.unique(episode_N)
    if len(episodes) == 1:
        everything = np.arange(len(episode_N))
        return everything, everything
    chosen = episodes[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY] if len(episodes) >= HELD_OUT_EVERY else episodes[-1:]
    held = np.isin(episode_N, chosen)
    return np.flatnonzero(~held), np.flatnonzero(held)


def open_images(dataset: Any, table: Any, names: dict[str, str]) -> Images:
    """In memory when every camera is stored as images and the different ones fit, else on disk."""
    pixels: dict[str, Tensor] = {}
    index: dict[str, Tensor] = {}
    budget = MEMORY_LIMIT
    for old, new in names.items():
        loaded = _distinct(dataset, table, old, budget) if dataset.meta.features[old]["dtype"] == "image" else None
        if loaded is None:
            return ImagesOnDisk(dataset, names, ThreadPoolExecutor(8))
        pixels[new], index[new] = loaded
        budget -= pixels[new].numel()
    return ImagesInMemory(pixels, index)


def _distinct(dataset: Any, table: Any, key: str, budget: int) -> tuple[Tensor, Tensor] | None:
    """The different images of a column (U, 3, h, w) and which one each frame has; None when over budget."""
    seen: dict[bytes, int] = {}
    index, images, used = [], [], 0
    for start in range(0, len(table), 4096):
        column = table[start : start + 4096].column(key)
        for value in column.to_pylist():
            data = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
            digest = hashlib.sha256(data).digest()
            if digest not in seen:
                seen[digest] = len(seen)
                images.append(_decode(data))
                used += images[-1].numel()
                if used > budget:
                    return None
            index.append(seen[digest])
    return torch.stack(images), torch.tensor(index)


def _decode(data: bytes) -> Tensor:
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _column(table: Any, key: str) -> Any:
    """A numeric column as (N, size) float32 (indices stay exact up to 2^24 frames of one kind)."""
    column = table[:].column(key).combine_chunks()
    count = len(column)
    while hasattr(column, "flatten") and str(column.type).startswith(
        ("list", "fixed_size_list", "large_list", "extension")
    ):
        column = column.storage if str(column.type).startswith("extension") else column.flatten()
    values = column.to_numpy(zero_copy_only=False)
    kind = np.float32 if np.issubdtype(values.dtype, np.floating) else np.int64
    return values.astype(kind).reshape(count, -1)


def _finite(values: Any, feature: str, index_N: Any) -> Tensor:
    """The column, when every number of it is one.

    Raises:
        DatasetRejected: naming the first frame that is not.
    """
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad):
        raise DatasetRejected(
            f"{feature} of frame {index_N[bad[0]]} is not finite ({len(bad)} frames in all); repair the dataset, or "
            "leave its episode out by spec.dataset.episodes",
            field="spec.dataset",
        )
    return torch.from_numpy(values)


def _original(names: dict[str, str], wanted: str) -> str:
    return next(old for old, new in names.items() if new == wanted)
