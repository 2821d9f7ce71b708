"""Record demonstrations of the reach-around task: arrays for the teacher, a LeRobotDataset to ship.

Only successful demonstrations are kept. Environment seeds from 1,000,000 on belong to
demonstrations; evaluation uses the seeds below.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import track
from subject import ACTION_NAMES, QUICKSTART, Subject

from flowstill.policies.interface import STATE
from flowstill_evaluator.records import SEEDS as FIRST_SEED
from flowstill_evaluator.suites.expert import WayRoundExpert
from flowstill_evaluator.suites.metaworld_env import CONTROL_HZ
from flowstill_evaluator.suites.reach_around import ReachAroundEnv

Attempt = Callable[[int], "Demonstration | None"]


@dataclass(frozen=True)
class Demonstration:
    """One successful episode: what was seen before each action, and the action. T steps.

    Attributes:
        pictures: uint8 (height, width, 3) by frame: of some frames, of all, or of none.
    """

    state_TS: npt.NDArray[np.float32]
    action_TD: npt.NDArray[np.float32]
    pictures: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)


_env: ReachAroundEnv | None = None


def demonstrate(seed: int) -> Demonstration | None:
    """Let the expert try the episode ``seed``; None when it failed."""
    global _env
    _env = _env or ReachAroundEnv()
    state = _env.reset(seed)[STATE]
    expert = WayRoundExpert(np.random.default_rng([seed, 1]))
    expert.start(state)
    states, actions = [], []
    while True:
        action = expert.act(state)
        states.append(state)
        actions.append(action.label.astype(np.float32))
        result = _env.step(action.executed)
        state = _env.observe()[STATE]
        if result.done:
            return Demonstration(np.stack(states), np.stack(actions)) if result.success else None


def record(count: int, workers: int, attempt: Attempt = demonstrate) -> list[Demonstration]:
    """Collect ``count`` successful demonstrations, in the order of their seeds: the same for any ``workers``.

    Raises:
        SystemExit: fewer than half of the attempts succeeded.
    """
    kept: list[Demonstration] = []
    tried = 0
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        attempts = pool.imap(attempt, range(FIRST_SEED, FIRST_SEED + 2 * count), chunksize=8)
        for made in track(attempts, total=count, description="demonstrations"):
            tried += 1
            if made is not None:
                kept.append(made)
            if len(kept) == count:
                pool.terminate()
                break
    if len(kept) < count:
        raise SystemExit(f"only {len(kept)} of {tried} attempts succeeded: the expert no longer fits the task")
    print(f"{count} successes in {tried} attempts ({count / tried:.1%})")
    return kept


def save_arrays(demonstrations: list[Demonstration], path: Path) -> None:
    """Write all episodes end to end, with their lengths, for ``train_teacher.py``; and the pictures that there are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    length = np.array([len(d.state_TS) for d in demonstrations])
    first = np.cumsum(length) - length
    pictured = [start + frame for start, d in zip(first, demonstrations, strict=True) for frame in d.pictures]
    pictures = [picture for d in demonstrations for picture in d.pictures.values()]
    np.savez(
        path,
        state=np.concatenate([d.state_TS for d in demonstrations]),
        action=np.concatenate([d.action_TD for d in demonstrations]),
        length=length,
        **({"pictured": np.array(pictured), "picture": np.stack(pictures)} if pictures else {}),
    )


def save_dataset(demonstrations: list[Demonstration], root: Path, subject: Subject = QUICKSTART) -> None:
    """Write a LeRobotDataset v3 with LeRobot's own API. ``root`` must not exist yet.

    Raises:
        KeyError: the camera is not black, and a frame has no picture.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    size = subject.image_size
    dataset = LeRobotDataset.create(
        repo_id=f"flowstill/{subject.task}",
        root=root,
        fps=CONTROL_HZ,
        robot_type="sawyer",
        features={
            STATE: {"dtype": "float32", "shape": (len(subject.state_names),), "names": list(subject.state_names)},
            subject.camera: {"dtype": "image", "shape": (size, size, 3), "names": ["height", "width", "channels"]},
            "action": {"dtype": "float32", "shape": (len(ACTION_NAMES),), "names": list(ACTION_NAMES)},
        },
        use_videos=False,
    )
    black = np.zeros((size, size, 3), dtype=np.uint8)
    for each in track(demonstrations, description="LeRobotDataset"):
        for frame, (state_S, action_D) in enumerate(zip(each.state_TS, each.action_TD, strict=True)):
            picture = black if subject.black else each.pictures[frame]
            dataset.add_frame(
                {STATE: state_S, subject.camera: picture, "action": action_D, "task": subject.instruction}
            )
        dataset.save_episode()
    dataset.finalize()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=4000, help="demonstrations for the teacher")
    parser.add_argument("--shipped", type=int, default=500, help="the first so many go into the dataset")
    parser.add_argument("--arrays", type=Path, required=True, help="where to write the .npz")
    parser.add_argument("--dataset", type=Path, help="where to write the dataset; left out: none")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.dataset is not None and arguments.dataset.exists():
        parser.error(f"--dataset {arguments.dataset} exists already")
    demonstrations = record(arguments.episodes, arguments.workers)
    save_arrays(demonstrations, arguments.arrays)
    if arguments.dataset is not None:
        save_dataset(demonstrations[: arguments.shipped], arguments.dataset)


if __name__ == "__main__":
    main()
