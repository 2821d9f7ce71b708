"""Rollouts: run every arm on the same episodes, measure what serving costs, and publish the records.

Everything that is finished lies in the work folder, so that an attempt goes on where the last one ended.
"""

from __future__ import annotations

import os
from pathlib import Path

from flowstill.api.children import Result, RolloutsTask
from flowstill.api.fields import StatusRef
from flowstill.artifacts.stores import fetch
from flowstill.child.context import ChildContext
from flowstill.errors import ArtifactError
from flowstill_evaluator.arms import References, compare, pick_provider, resolve
from flowstill_evaluator.measures import measure
from flowstill_evaluator.publication import publish_rollouts
from flowstill_evaluator.records import EpisodeLog, write_json
from flowstill_evaluator.session import Session, work_folder
from flowstill_evaluator.shards import Shard, episodes_in_round, shard_of
from flowstill_evaluator.simulating import simulate
from flowstill_evaluator.suites.registry import suite_of


def run(task: RolloutsTask, context: ChildContext) -> Result:
    """Evaluate a student, or this shard's share of it, and publish the records.

    Raises:
        UserError: an artifact, a task or an arm cannot work.
        Interrupted: asked to stop; what was done is kept.
    """
    shard = shard_of(task, os.environ)
    references = resolve(task)
    comparison = compare(task, references)
    suite = suite_of(task.evaluation.suite, task.evaluation.custom)
    sentences = suite.preflight(task.evaluation.tasks)
    folder = work_folder(context.work, task)
    if done := published(folder):
        return _result(references, done, shard, "the records of this evaluation were already published")
    session = Session(
        task=task,
        context=context,
        references=references,
        comparison=comparison,
        provider=pick_provider(),
        suite=suite,
        instructions=sentences,
        folder=folder,
        shard=shard,
        episodes=shard.slice(episodes_in_round(task)),
        log=EpisodeLog(folder / "episodes.jsonl"),
    )
    simulate(session)
    if session.measures:
        measure(session)
    ref = publish_rollouts(session)
    write_json(folder / "published.json", ref.model_dump())
    failed = f", {len(session.errors)} given up for errors of the simulator" if session.errors else ""
    message = f"{len(session.log.episodes)} episodes of {len(comparison.arms)} arms{failed}"
    return _result(references, ref, shard, message)


def published(folder: Path) -> StatusRef | None:
    """What an earlier attempt published, when it is still whole."""
    path = folder / "published.json"
    if not path.exists():
        return None
    ref = StatusRef.model_validate_json(path.read_text())
    try:
        fetch(ref, "rollouts")
    except ArtifactError:
        path.unlink()
        return None
    return ref


def _result(references: References, ref: StatusRef, shard: Shard, message: str) -> Result:
    which = f"shard {shard.index + 1} of {shard.of}: " if shard.of > 1 else ""
    return Result(
        kind="Rollouts",
        outcome="Succeeded",
        reason="RolloutsPublished",
        message=f"{which}{message}",
        student=references.student,
        teacher=references.teacher,
        baseline=references.baseline,
        rollouts=ref,
    )
