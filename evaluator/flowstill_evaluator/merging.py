"""Records in parts → the records that one process would have written.

A part is the ``Rollouts`` artifact of one shard of one round. No episode is in two parts, and what is merged does not
depend on how the episodes were shared out: lines, joint velocities and the choice of videos are those of one part.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowstill.api.fields import StatusRef
from flowstill.errors import FlowstillError
from flowstill_evaluator import videos
from flowstill_evaluator.measures import MEASURED
from flowstill_evaluator.records import (
    EpisodeRecord,
    EpisodeTable,
    Floats,
    StoredEpisode,
    sampled,
    write_json,
    write_published,
)

_SAME = ("suite", "served", "baseline", "student", "teacher", "action_steps", "velocity_rows", "versions")
_SAME_OF_ARM = ("name", "uri", "digest", "steps", "draws", "runtime")
_NO_ACTIONS: Floats = np.zeros((0, 0), dtype=np.float32)


class PartsDiffer(FlowstillError):
    """The parts are not of one evaluation, or some of it is missing or there twice."""

    reason = "PartsDiffer"


def merge(parts: Sequence[tuple[StatusRef, Path]], mode: str, folder: Path) -> None:
    """Write the records of all parts into an empty folder.

    Args:
        parts: each as it was published, and where it lies here.
        mode: ``spec.evaluation.videos``.
        folder: of the new artifact.

    Raises:
        PartsDiffer: the parts do not belong together.
    """
    runs = [_json(path / "run.json") for _, path in parts]
    _check_same(runs)
    table = EpisodeTable()
    for run, (ref, path) in zip(runs, parts, strict=True):
        for episode in read_part(path, run["velocity_rows"]):
            record = episode.record
            if (record.arm, record.task, record.episode) in table.episodes:
                what = f"episode {record.episode} of task {record.task}, arm {record.arm},"
                raise PartsDiffer(f"{what} is in {ref.uri} and in another part")
            table.keep(episode)
    measured = [path for _, path in parts if all((path / name).exists() for name in MEASURED)]
    if len(measured) != 1:
        raise PartsDiffer(f"{len(measured)} of {len(parts)} parts hold {', '.join(MEASURED)}; exactly one should")
    for name in MEASURED:
        shutil.copyfile(measured[0] / name, folder / name)
    films = _films(table, runs[0], mode, [path for _, path in parts], folder)
    write_published(table, [arm["name"] for arm in runs[0]["arms"]], folder, films)
    first = next(run for run, (_, path) in zip(runs, parts, strict=True) if path == measured[0])
    write_json(folder / "run.json", _merged_run(first, runs, [ref for ref, _ in parts]))


def read_part(folder: Path, rows: int) -> list[StoredEpisode]:
    """The episodes of one part, without their actions; ``rows``: the most joint velocities of an episode.

    Raises:
        PartsDiffer: its joint velocities are not of its episodes.
    """
    lines = (folder / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
    records = [EpisodeRecord(**json.loads(line)) for line in lines]
    with np.load(folder / "joint_velocity.npz", allow_pickle=False) as stored:
        velocities = {arm: stored[arm] for arm in stored.files}
    used = dict.fromkeys(velocities, 0)
    episodes = []
    for record in records:
        first = used.get(record.arm, 0)
        used[record.arm] = last = first + len(sampled(record.steps, rows))
        velocity_NJ = velocities.get(record.arm, _NO_ACTIONS)[first:last]
        episodes.append(StoredEpisode(record, _NO_ACTIONS, velocity_NJ))
    if used != {arm: len(velocity_NJ) for arm, velocity_NJ in velocities.items()}:
        raise PartsDiffer(f"{folder}: joint_velocity.npz does not have the rows of the episodes in episodes.jsonl")
    return episodes


def _check_same(runs: Sequence[dict[str, Any]]) -> None:
    first = runs[0]
    for run in runs[1:]:
        different = [key for key in _SAME if run.get(key) != first.get(key)]
        if run["seeds"]["evaluation"] != first["seeds"]["evaluation"]:
            different.append("seeds.evaluation")
        if _arms(run) != _arms(first):
            different.append("arms")
        if different:
            raise PartsDiffer(f"the parts of this evaluation differ in {', '.join(different)}; run all of it anew")


def _arms(run: dict[str, Any]) -> list[list[Any]]:
    return [[arm.get(key) for key in _SAME_OF_ARM] for arm in run["arms"]]


def _films(
    table: EpisodeTable, run: dict[str, Any], mode: str, parts: Sequence[Path], folder: Path
) -> dict[tuple[str, str, int], str]:
    """Copy the videos that one part would have; each shard has made at least its own of those."""
    paths = {}
    for film in videos.choose(table, run["served"], run["baseline"], mode):
        source = next((part / film.path for part in parts if (part / film.path).exists()), None)
        if source is not None:
            target = folder / film.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            paths.update({(arm, film.task, film.episode): film.path for arm in film.arms})
    return paths


def _merged_run(first: dict[str, Any], runs: Sequence[dict[str, Any]], parts: Sequence[StatusRef]) -> dict[str, Any]:
    seconds = [sum(run["arms"][number]["seconds"] for run in runs) for number in range(len(first["arms"]))]
    seeds = [run["seeds"] for run in runs]
    environment = [bound for one in seeds for bound in one["environment"]]
    rounds = {one["first_episode"]: one["episodes_per_task"] for one in seeds}
    note = next((run["videos"] for run in runs if run["videos"]), None)
    return {
        **{key: value for key, value in first.items() if key != "shard"},
        "arms": [{**arm, "seconds": round(s, 1)} for arm, s in zip(first["arms"], seconds, strict=True)],
        "seeds": {
            "evaluation": first["seeds"]["evaluation"],
            "first_episode": 0,
            "episodes_per_task": sum(rounds.values()),
            "environment": [min(environment), max(environment)],
        },
        "errors": sorted(
            (error for run in runs for error in run["errors"]), key=lambda e: (e["arm"], e["task"], e["episode"])
        ),
        "videos": note,
        "parts": [{**ref.model_dump(), **run["shard"], **_round(run)} for ref, run in zip(parts, runs, strict=True)],
    }


def _round(run: dict[str, Any]) -> dict[str, int]:
    return {key: run["seeds"][key] for key in ("first_episode", "episodes_per_task")}


def _json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value
