"""Published parts of an evaluation → one artifact to judge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from pydantic import ValidationError

from flowstill.api.children import JudgeRoundsTask, JudgeTask, Result, shard_work
from flowstill.api.fields import ArtifactRef, StatusRef
from flowstill.artifacts.manifest import RolloutsProperties
from flowstill.artifacts.stores import fetch, publish
from flowstill.artifacts.uris import local_path
from flowstill.child.context import ChildContext
from flowstill.child.result import RESULT_FILE
from flowstill.errors import ArtifactError, FlowstillError
from flowstill_evaluator.arms import References
from flowstill_evaluator.merging import merge


def gather(task: JudgeRoundsTask, context: ChildContext) -> Path:
    """The merged records of every shard of every round, in the work folder.

    Raises:
        ArtifactError: a part cannot be read, or is not what was published.
        FlowstillError: a shard has left no result, or the parts do not belong together.
    """
    refs = [part_of(shard_work(each.work, shard, each.shards)) for each in task.rounds for shard in range(each.shards)]
    parts = [(ref, fetch(ref, "rollouts")) for ref in refs]
    folder = context.work / "merged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    merge(parts, task.evaluation.videos, folder)
    return folder


def publish_merged(task: JudgeRoundsTask, references: References, folder: Path) -> JudgeTask:
    """Publish what was merged, and forget the folder; the task that a judge of the published records would have."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    properties = RolloutsProperties(
        suite=task.evaluation.suite,
        tasks=list(task.evaluation.tasks),
        arms=[arm["name"] for arm in run["arms"]],
        seeds=[task.evaluation.seed],
        versions=run["versions"],
        student=references.student,
        teacher=references.teacher,
        baseline=references.baseline,
    )
    merged = publish(folder, "Rollouts", properties, parent="store://evidence")
    shutil.rmtree(folder, ignore_errors=True)
    shared = {name: getattr(task, name) for name in JudgeTask.model_fields if name in JudgeRoundsTask.model_fields}
    shared.pop("kind")
    return JudgeTask(**shared, rollouts=ArtifactRef(uri=merged.uri, digest=merged.digest))


def part_of(work: str) -> StatusRef:
    """What the child with that work folder published.

    Raises:
        ArtifactError: the folder cannot be in a store of ours.
        FlowstillError: there is no good result in it.
    """
    path = local_path(work) / RESULT_FILE
    try:
        result = Result.model_validate_json(Path(path).read_bytes())
    except (OSError, ValidationError) as error:
        raise FlowstillError(f"{work} holds no result of a shard that can be read ({path}): {error}"[:1000]) from error
    if result.outcome != "Succeeded" or result.rollouts is None:
        raise ArtifactError(f"the shard of {work} ended with {result.reason} and published no records")
    return result.rollouts
