"""Episodes, what is recorded of each, and the files in the work folder that survive an interruption.

One JSON line an episode, appended as soon as it ends. A line that was cut off by a crash is dropped and its
episode runs again. Lines of the work folder also hold the executed actions (a video is an exact replay) and
samples of the joint velocity; publication leaves them out.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Failure = Literal["contact", "ended", "timeout"]

MAX_VELOCITY_ROWS = 20_000  # an arm, of the most episodes that may be run; one an episode when those are more
SEEDS = 1_000_000  # environment seeds from here on belong to demonstrations
_SEED_STRIDE = 100_003  # prime, above the largest number of episodes: neighbouring evaluation seeds share no episode


@dataclass(frozen=True)
class Episode:
    """An initial state to try: the same for every arm.

    Attributes:
        task: its task.
        index: its number within the task, 0-based.
        seed: the environment's seed.
    """

    task: str
    index: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """How an episode went. T executed steps, D action dimensions, J joints.

    Attributes:
        failure: why it failed; None on success.
        reward: sum of the environment's rewards.
        clamped_steps: steps whose action had to be clipped to the environment's range.
        idle_chunks: chunks during which no joint moved faster than ``lockstep.IDLE_SPEED``.
        actions_TD: what the policy asked for, before clipping.
        velocity_TJ: rad/s after each step.
    """

    episode: Episode
    success: bool
    failure: Failure | None
    steps: int
    reward: float
    clamped_steps: int
    idle_chunks: int
    chunks: int
    actions_TD: Floats
    velocity_TJ: Floats


@dataclass(frozen=True)
class EpisodeError:
    """An episode whose environment broke every time it was tried: no failure of the policy."""

    episode: Episode
    message: str


@dataclass(frozen=True)
class EpisodeRecord:
    """One published line; ``video`` is a path within the artifact."""

    suite: str
    task: str
    arm: str
    episode: int
    seed: int
    success: bool
    failure: Failure | None
    steps: int
    reward: float
    clamped_steps: int
    idle_chunks: int
    chunks: int
    video: str | None = None


@dataclass(frozen=True)
class StoredEpisode:
    """A line of the work folder: the record, the executed actions and some of the joint velocities."""

    record: EpisodeRecord
    actions_TD: Floats
    velocity_NJ: Floats


def episode_seed(seed: int, index: int) -> int:
    """The environment's seed of episode ``index`` of an evaluation with ``seed``; never a demonstration's."""
    return (seed * _SEED_STRIDE + index) % SEEDS


def episodes_of(tasks: Sequence[str], count: int, seed: int, first: int = 0) -> list[Episode]:
    """Episodes ``first`` to ``first + count - 1`` of every task, task by task."""
    return [Episode(task, index, episode_seed(seed, index)) for task in tasks for index in range(first, first + count)]


def velocity_rows(most_episodes: int) -> int:
    """Joint velocities to keep of each episode of an arm when there may be so many: the same in every part of them."""
    return max(1, MAX_VELOCITY_ROWS // most_episodes)


def sampled(steps: int, rows: int) -> npt.NDArray[np.int64]:
    """At most ``rows`` of an episode's steps, evenly spaced."""
    return np.unique(np.linspace(0, steps - 1, min(rows, steps)).round().astype(np.int64))


def stored(outcome: Outcome, suite: str, arm: str, rows: int) -> StoredEpisode:
    """What to keep of an outcome, with at most ``rows`` joint velocities, evenly spaced in time."""
    episode = outcome.episode
    record = EpisodeRecord(
        suite=suite,
        task=episode.task,
        arm=arm,
        episode=episode.index,
        seed=episode.seed,
        success=outcome.success,
        failure=outcome.failure,
        steps=outcome.steps,
        reward=outcome.reward,
        clamped_steps=outcome.clamped_steps,
        idle_chunks=outcome.idle_chunks,
        chunks=outcome.chunks,
    )
    return StoredEpisode(record, outcome.actions_TD, outcome.velocity_TJ[sampled(outcome.steps, rows)])


class EpisodeTable:
    """Finished episodes by arm, task and number."""

    def __init__(self) -> None:
        self.episodes: dict[tuple[str, str, int], StoredEpisode] = {}

    def keep(self, episode: StoredEpisode) -> None:
        """Add one; it takes the place of an earlier run of the same."""
        record = episode.record
        self.episodes[record.arm, record.task, record.episode] = episode

    def of_arm(self, arm: str) -> list[StoredEpisode]:
        """An arm's episodes, sorted by task and index."""
        return [self.episodes[key] for key in sorted(self.episodes) if key[0] == arm]


class EpisodeLog(EpisodeTable):
    """The append-only file of finished episodes in a work folder."""

    def __init__(self, path: Path) -> None:
        """Read what an earlier attempt finished, and drop a line that it left unfinished."""
        super().__init__()
        self._path = path
        if path.exists():
            whole = _whole_lines(path)
            for line in whole.splitlines():
                self.keep(_parse(line))

    def append(self, episodes: Iterable[StoredEpisode]) -> None:
        """Add lines and make them durable."""
        lines = []
        for episode in episodes:
            self.keep(episode)
            lines.append(_format(episode))
        if not lines:
            return
        with self._path.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())

    def missing(self, arm: str, wanted: Sequence[Episode]) -> list[Episode]:
        """Which of ``wanted`` this arm has not finished yet."""
        return [e for e in wanted if (arm, e.task, e.index) not in self.episodes]


def write_published(
    log: EpisodeTable, arms: Sequence[str], folder: Path, videos: dict[tuple[str, str, int], str]
) -> None:
    """Write ``episodes.jsonl`` and ``joint_velocity.npz`` of an artifact.

    Args:
        log: all episodes.
        arms: in the order to write.
        folder: the artifact's.
        videos: path of the video by (arm, task, episode).
    """
    velocities: dict[str, Floats] = {}
    with (folder / "episodes.jsonl").open("w") as file:
        for arm in arms:
            episodes = log.of_arm(arm)
            for episode in episodes:
                record = episode.record
                video = videos.get((arm, record.task, record.episode))
                file.write(json.dumps(asdict(replace(record, video=video)), sort_keys=True) + "\n")
            if episodes:
                velocities[arm] = np.concatenate([e.velocity_NJ for e in episodes])
    # The keywords are arm names such as teacher@10, which savez takes as they are.
    np.savez_compressed(folder / "joint_velocity.npz", **velocities)  # type: ignore[arg-type]


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that a reader sees all of it or none."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w") as file:
        json.dump(value, file, sort_keys=True, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def encode(array: Floats) -> dict[str, Any]:
    """An array of float32 as JSON, exactly."""
    exact = np.ascontiguousarray(array, dtype="<f4")
    return {"shape": list(exact.shape), "float32": base64.b64encode(exact.tobytes()).decode()}


def decode(value: dict[str, Any]) -> Floats:
    """The array that :func:`encode` was given."""
    return np.frombuffer(base64.b64decode(value["float32"]), dtype="<f4").reshape(value["shape"])


def _format(episode: StoredEpisode) -> str:
    line = {"record": asdict(episode.record), "actions": encode(episode.actions_TD)}
    return json.dumps({**line, "velocity": encode(episode.velocity_NJ)}, sort_keys=True)


def _parse(line: str) -> StoredEpisode:
    value = json.loads(line)
    return StoredEpisode(EpisodeRecord(**value["record"]), decode(value["actions"]), decode(value["velocity"]))


def _whole_lines(path: Path) -> str:
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return whole.decode()
