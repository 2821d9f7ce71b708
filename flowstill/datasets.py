"""Opening a LeRobotDataset v3 so that what is wrong with it has a name: LeRobot goes on, or asks the Hub."""

import json
import shlex
from pathlib import Path
from typing import Any

from flowstill.api.distilljob import Dataset
from flowstill.artifacts.atomic import is_full
from flowstill.errors import DatasetRejected


def open_dataset(folder: Path, spec: Dataset) -> Any:
    """LeRobot's dataset with the episodes that are asked for; it has at least one frame.

    Raises:
        DatasetRejected: it is unreadable, of another version, or has no such episodes; with the field and the fix.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    check_info(folder, spec)
    try:
        # Of LeRobot's two decoders PyAV's may be used by several threads: torchcodec's is one for all that read a
        # video, and two threads in it end the process with a segmentation fault. Their frames are the same.
        dataset = LeRobotDataset(repo_id="local/dataset", root=folder, episodes=spec.episodes, video_backend="pyav")
        frames = len(dataset)
    except Exception as error:  # LeRobot raises many kinds, and asks the Hub for what is missing
        if is_full(error):
            raise  # the cache that LeRobot makes of the table did not fit; the dataset may be good
        why = damage(folder) or f"{type(error).__name__}: {error}"
        raise DatasetRejected(
            f"{folder} does not open as a LeRobotDataset v3; copy it again with all of its files ({why})",
            field="spec.dataset",
        ) from error
    if frames == 0:
        raise DatasetRejected("no frames are left; name episodes that exist", field="spec.dataset.episodes")
    return dataset


def check_info(folder: Path, spec: Dataset) -> None:
    """That it is a LeRobotDataset v3 with the episodes that are asked for: LeRobot itself goes on without them.

    Raises:
        DatasetRejected: it is not.
    """
    path = folder / "meta" / "info.json"
    try:
        info = json.loads(path.read_text())
        version, total = str(info["codebase_version"]), int(info["total_episodes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetRejected(
            f"{folder} is no LeRobotDataset v3: {path} cannot be read ({type(error).__name__}: {error}); give the "
            "folder that holds meta and data",
            field="spec.dataset",
        ) from error
    if not version.startswith("v3."):
        raise DatasetRejected(
            f"the dataset is of LeRobot's format {version}, and v3 is read here; convert one of v2.1 in its place with "
            "python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=local/dataset --push-to-hub=false "
            f"--root={shlex.quote(str(folder))}",
            field="spec.dataset",
        )
    if total < 1:
        raise DatasetRejected("the dataset has no episodes; record some", field="spec.dataset")
    strangers = [episode for episode in spec.episodes or [] if episode >= total]
    if strangers:
        raise DatasetRejected(
            f"there is no episode {', '.join(map(str, strangers[:8]))}; the dataset has episodes 0 to {total - 1}",
            field="spec.dataset.episodes",
        )


def damage(folder: Path) -> str:
    """Which files of a dataset are missing or damaged, in words; empty where none is seen to be.

    LeRobot's own errors do not say: it asks the Hub for what is missing.
    """
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import read_metadata

    parts = {"meta/tasks.parquet": "meta/tasks.parquet", "meta/episodes": "meta/episodes/**/*.parquet"}
    parts |= {"data": "data/**/*.parquet"}
    features = json.loads((folder / "meta" / "info.json").read_text()).get("features", {})
    videos = [name for name, feature in features.items() if feature.get("dtype") == "video"]
    parts |= {f"videos/{name}": f"videos/{name}/**/*.mp4" for name in videos}
    found = [f"no {name}" for name, pattern in parts.items() if next(folder.glob(pattern), None) is None]
    for path in sorted(folder.glob("**/*.parquet")):
        try:
            read_metadata(path)
        except (ArrowInvalid, OSError):
            found.append(f"{path.relative_to(folder)} is damaged")
    return ", ".join(found)
