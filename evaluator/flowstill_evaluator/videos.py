"""Films of episodes: exact replays of recorded actions, rendered in a process of its own.

``python -m flowstill_evaluator.videos PLAN`` is that process: MuJoCo picks its graphics library when it is
imported, and the evaluation itself needs none.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowstill.errors import UserError
from flowstill_evaluator.records import EpisodeLog, EpisodeTable, StoredEpisode, decode, encode
from flowstill_evaluator.suites.graphics import choose_library
from flowstill_evaluator.suites.interface import Suite
from flowstill_evaluator.suites.registry import plain, suite_from

MAX_FAILURES = 4
FRAMES_PER_SECOND = 20
_HOLD_FRAMES = 10  # of the last frame
_SUCCEEDED, _FAILED = (32, 158, 98), (205, 52, 41)

Frames = list[npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Side:
    """One arm's episode as pictures (height, width, 3), all of one size."""

    frames: Frames
    success: bool


@dataclass(frozen=True)
class Film:
    """One file: the student on the left, the baseline on the same initial state on the right."""

    path: str
    task: str
    episode: int
    seed: int
    arms: tuple[str, str]


def choose(log: EpisodeTable, student: str, baseline: str, mode: str) -> list[Film]:
    """Which episodes to film.

    Args:
        log: all episodes.
        student: arm of the student that would be served.
        baseline: arm of what is served today.
        mode: ``spec.evaluation.videos``: failures (at most four, the tasks taking turns), none or all.
    """
    if mode == "none":
        return []
    episodes = [e.record for e in log.of_arm(student)]
    episodes = [e for e in episodes if (baseline, e.task, e.episode) in log.episodes]
    if mode == "failures":
        failed = [e for e in episodes if not e.success]
        turns: dict[str, int] = {}
        ranked = []
        for record in failed:
            turns[record.task] = turns.get(record.task, 0) + 1
            ranked.append((turns[record.task], record))
        episodes = [record for _, record in sorted(ranked, key=lambda pair: pair[0])[:MAX_FAILURES]]
    return [
        Film(f"videos/{_file_name(e.task)}-{e.episode}.mp4", e.task, e.episode, e.seed, (student, baseline))
        for e in episodes
    ]


def _file_name(task: str) -> str:
    """The task's name where it can be a file's; otherwise as much of it as can, and a digest that keeps it apart."""
    plain_name = re.sub(r"[^A-Za-z0-9_-]", "_", task)[:80]
    return task if plain_name == task else f"{plain_name}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"


def make(films: Sequence[Film], log: EpisodeLog, suite: Suite, folder: Path, heard: Callable[[], None]) -> str | None:
    """Write the films under ``folder``.

    Returns:
        None, or a note why there are none.
    """
    if not films:
        return None
    (folder / "videos").mkdir(exist_ok=True)
    plan = folder / "videos" / "plan.json"
    both = [{**asdict(film), "actions": [_actions(log, film, arm) for arm in film.arms]} for film in films]
    plan.write_text(json.dumps({"suite": plain(suite), "folder": str(folder), "films": both}))
    heard()
    try:
        environment = {**os.environ, "MUJOCO_GL": choose_library()}
    except UserError as error:
        why = str(error)
    else:
        command = [sys.executable, "-m", "flowstill_evaluator.videos", str(plan)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode == 0:
            plan.unlink()
            return None
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
    plan.unlink()
    for film in films:
        (folder / film.path).unlink(missing_ok=True)
    (folder / "videos").rmdir()
    return f"no videos, rendering failed ({why})"


def _actions(log: EpisodeLog, film: Film, arm: str) -> dict[str, Any]:
    stored: StoredEpisode = log.episodes[arm, film.task, film.episode]
    return {"success": stored.record.success, "array": encode(stored.actions_TD)}


def main(argv: Sequence[str] | None = None) -> None:
    """Render every film of a plan."""
    plan = json.loads(Path((argv or sys.argv[1:])[0]).read_text())
    suite = suite_from(plan["suite"])
    for film in plan["films"]:
        sides = [Side(_replay(suite, film, side), side["success"]) for side in film["actions"]]
        write_film(Path(plan["folder"]) / film["path"], *sides)


def write_film(path: Path, left: Side, right: Side) -> None:
    """Write two episodes beside each other, as H.264 that browsers play."""
    from imageio_ffmpeg import write_frames

    frames = side_by_side(left, right)
    height, width, _ = frames[0].shape
    writer = write_frames(str(path), (width, height), fps=FRAMES_PER_SECOND, codec="libx264")
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def side_by_side(left: Side, right: Side) -> Frames:
    """Frames of both; one that has ended stands still, over a bar that says how: green for success, red for failure."""
    length = max(len(left.frames), len(right.frames)) + _HOLD_FRAMES
    joined = []
    for number in range(length):
        frame = np.concatenate([_frame(side, number) for side in (left, right)], axis=1)
        frame[:, frame.shape[1] // 2 - 1 : frame.shape[1] // 2 + 1] = 0
        joined.append(frame)
    return joined


def _frame(side: Side, number: int) -> npt.NDArray[np.uint8]:
    last = len(side.frames) - 1
    if number < last:
        return side.frames[number]
    ended = side.frames[last].copy()
    ended[-max(2, len(ended) // 40) :] = _SUCCEEDED if side.success else _FAILED
    return ended


def _replay(suite: Suite, film: dict[str, Any], side: dict[str, Any]) -> Frames:
    environment = suite.environment(film["task"])
    every = max(1, int(environment.control_hz // FRAMES_PER_SECOND))
    environment.reset(film["seed"])
    frames = [environment.render()]
    for number, action in enumerate(decode(side["array"]), start=1):
        step = environment.step(action)
        if number % every == 0 or step.done:
            frames.append(environment.render())
    environment.close()
    if step.success != side["success"]:
        raise RuntimeError(f"the replay of {film['task']} {film['episode']} ended otherwise than the episode did")
    return frames


if __name__ == "__main__":
    main()
