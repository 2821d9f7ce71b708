"""The ``Rollouts`` artifact: records, measurements, films and where all of it came from."""

from __future__ import annotations

import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flowstill.api.fields import StatusRef
from flowstill.artifacts.manifest import RolloutsProperties
from flowstill.artifacts.stores import publish
from flowstill.child.threads import usable_cores
from flowstill_evaluator import fidelity, latency, lockstep, videos
from flowstill_evaluator.measures import MEASURED
from flowstill_evaluator.records import write_json, write_published
from flowstill_evaluator.session import Session

_PACKAGES = ("flowstill", "lerobot", "torch", "onnxruntime", "metaworld", "hf-libero", "robosuite", "mujoco", "numpy")


def publish_rollouts(session: Session) -> StatusRef:
    """Gather the records in a folder and publish it under ``store://evidence``."""
    folder = session.folder / "publish"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        return _publish(session, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(session: Session, folder: Path) -> StatusRef:
    films = videos.choose(
        session.log, session.comparison.served, session.comparison.baseline, session.task.evaluation.videos
    )
    session.tell("making videos" if films else "publishing the records")
    note = videos.make(films, session.log, session.suite, folder, session.check_stop)
    paths = {(arm, f.task, f.episode): f.path for f in films for arm in f.arms} if note is None else {}
    write_published(session.log, [arm.name for arm in session.comparison.arms], folder, paths)
    for name in MEASURED if session.measures else ():
        shutil.copyfile(session.folder / name, folder / name)
    description = run_description(session, note)
    write_json(folder / "run.json", description)
    session.tell("publishing the records")
    references, evaluation = session.references, session.task.evaluation
    properties = RolloutsProperties(
        suite=evaluation.suite,
        tasks=list(evaluation.tasks),
        arms=[arm.name for arm in session.comparison.arms],
        seeds=[evaluation.seed],
        versions=description["versions"],
        student=references.student,
        teacher=references.teacher,
        baseline=references.baseline,
    )
    return publish(folder, "Rollouts", properties, parent="store://evidence")


def run_description(session: Session, videos_note: str | None) -> dict[str, Any]:
    """``run.json``: everything that says where the numbers came from."""
    evaluation, comparison = session.task.evaluation, session.comparison
    notes = json.loads((session.folder / "arms.json").read_text())
    workers, width = lockstep.pool_size(len(session.episodes), session.suite)
    return {
        "suite": evaluation.suite,
        "arms": [notes[arm.name] for arm in comparison.arms],
        "served": comparison.served,
        "baseline": comparison.baseline,
        "student": session.references.student.model_dump(),
        "teacher": session.references.teacher.model_dump(),
        "action_steps": comparison.action_steps,
        "seeds": {
            "evaluation": evaluation.seed,
            "first_episode": session.task.first_episode,
            "episodes_per_task": session.task.episodes_per_task,
            "environment": [min(e.seed for e in session.episodes), max(e.seed for e in session.episodes)],
        },
        "errors": [
            {"arm": arm, "task": e.episode.task, "episode": e.episode.index, "message": e.message[:500]}
            for arm, e in session.errors
        ],
        "idle_speed": lockstep.IDLE_SPEED,
        "latency": {"threads": latency.THREADS, "warm_up": latency.WARM_UP, "batch": 1},
        "fidelity": {"chunks": fidelity.CHUNKS, "held_out_from_episode": evaluation.most_episodes_per_task},
        "lockstep": {"workers": workers, "slots": width, "batch": lockstep.BATCH},
        "shard": {"index": session.shard.index, "of": session.shard.of},
        "velocity_rows": session.velocity_rows,
        "videos": videos_note,
        "versions": versions(),
        "host": host(),
    }


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def host() -> dict[str, Any]:
    """What the machine is; not which one."""
    facts = Path("/proc/cpuinfo")
    model = ""
    if facts.exists():
        names = [
            line.split(":", 1)[1].strip() for line in facts.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": model,
        "cores": usable_cores(),
        "memory_bytes": memory,
    }
