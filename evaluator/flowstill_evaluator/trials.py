"""Trials that were run elsewhere, in the place of a simulator: held against the spec, and published for the judge."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

import flowstill
from flowstill.api.children import Result, RolloutsTask, RolloutTask
from flowstill.api.distilljob import Dataset
from flowstill.api.fields import StatusRef
from flowstill.artifacts.manifest import RolloutsProperties
from flowstill.artifacts.records import fetch_records
from flowstill.artifacts.stores import fetch, publish
from flowstill.artifacts.trials import NO_CLAMPS, NO_VELOCITIES, Trial, Trials
from flowstill.artifacts.velocity_logs import read_velocity_log
from flowstill.child.context import ChildContext
from flowstill.errors import DatasetRejected, RecordsRejected, UserError
from flowstill.policies.interface import RunnerInfo
from flowstill_evaluator import fidelity, latency
from flowstill_evaluator.arms import Comparison, References, compare, pick_provider, resolve
from flowstill_evaluator.lockstep import policy_threads
from flowstill_evaluator.measures import MEASURED, measure
from flowstill_evaluator.observations import Batch
from flowstill_evaluator.publication import host, versions
from flowstill_evaluator.recorded import recorded_observations
from flowstill_evaluator.records import sampled, velocity_rows, write_json
from flowstill_evaluator.session import Attempt, work_folder

FIELD = "spec.evaluation.evidence"


def run(task: RolloutsTask, context: ChildContext) -> Result:
    """Publish the trials as records, with the latency, memory and fidelity of the two policies measured here.

    Raises:
        ArtifactError: the trials, a policy or the student's dataset cannot be read.
        RecordsRejected: the trials are of other policies or other tasks.
        Interrupted: asked to stop; what was measured is kept.
    """
    references = resolve(task)
    trials = trials_of(task, references)
    comparison = the_two(compare(task, references))
    folder = work_folder(context.work, task)
    attempt = Attempt(
        task=task,
        context=context,
        references=references,
        comparison=comparison,
        provider=pick_provider(),
        folder=folder,
    )
    observe(attempt)
    measure(attempt)
    ref = publish_trials(attempt, trials)
    pairs = sum(map(len, trials.tasks.values()))
    return Result(
        kind="Rollouts",
        outcome="Succeeded",
        reason="RolloutsPublished",
        message=f"{pairs} recorded pairs of trials of {len(trials.tasks)} tasks"[:1024],
        student=references.student,
        teacher=references.teacher,
        baseline=references.baseline,
        rollouts=ref,
    )


def trials_of(task: RolloutTask, references: References) -> Trials:
    """The trials that the spec names, when they are of its student, its baseline and its tasks.

    Raises:
        ArtifactError: they cannot be read, or differ from their digest.
        RecordsRejected: they are about something else; the message says what.
    """
    if task.evaluation.evidence is None:
        raise ValueError("a rollout without evidence of its own has no trials")
    about, trials = fetch_records(task.evaluation.evidence, FIELD)
    for name, ran, asked in (
        ("student", about.student.digest, references.student.digest),
        ("baseline", about.baseline.digest, references.baseline.digest),
    ):
        if ran != asked:
            raise RecordsRejected(
                f"in these trials the {name} was {ran}, and the {name} of this rollout is {asked}: give the one that "
                f"ran as spec.{name}, or run the trials with this one",
                field=FIELD,
            )
    recorded, wanted = set(trials.tasks), set(task.evaluation.tasks)
    if recorded != wanted:
        without = [f"has no trials of {', '.join(sorted(wanted - recorded))}"] if wanted - recorded else []
        beside = [f"has trials of {', '.join(sorted(recorded - wanted))} too"] if recorded - wanted else []
        raise RecordsRejected(
            f"the evidence {' and '.join(without + beside)}: spec.evaluation.tasks must be all the tasks that were "
            "tried, and no others, as a choice among them would be no evidence",
            field=FIELD,
        )
    return trials


def the_two(comparison: Comparison) -> Comparison:
    """Only the two arms that were tried."""
    arms = tuple(arm for arm in comparison.arms if arm.name in (comparison.baseline, comparison.served))
    return Comparison(arms, comparison.served, comparison.baseline, comparison.action_steps)


def frames_of(task: RolloutTask, references: References, info: RunnerInfo, count: int) -> Batch:
    """Frames of the dataset that the student was distilled on: what its robot sees, without a simulator.

    Raises:
        ArtifactError: the dataset is not where it was; the message says that these trials need it.
        DatasetRejected: it lacks what the policy looks at.
    """
    source = references.properties.dataset
    need = "with evidence of one's own, observations come from the dataset that the student was distilled on"
    try:
        folder = fetch(source, "the student's dataset")
        spec = Dataset(uri=source.uri, digest=source.digest, rename_map=dict(task.evaluation.rename_map))
        return recorded_observations(folder, spec, info, count)
    except DatasetRejected as error:
        raise DatasetRejected(f"{need}: {error} (spec.evaluation.renameMap)", field=FIELD) from error
    except UserError as error:
        raise type(error)(f"{need}: {error}", field=FIELD) from error


def observe(attempt: Attempt) -> None:
    """Keep the observations on which latency, memory and fidelity are measured."""
    path = attempt.folder / "observations.npz"
    for arm in attempt.comparison.arms:
        attempt.tell(f"loading {arm.name}")
        runner = arm.open(attempt.provider, policy_threads())
        attempt.note_arm(arm, runner)
        if arm.name == attempt.comparison.served and not path.exists():
            count = attempt.task.gates.p4.observations
            frames_of(attempt.task, attempt.references, runner.info, count).save(path)


def publish_trials(attempt: Attempt, trials: Trials) -> StatusRef:
    """Publish them below ``store://evidence``, in the form of a simulator's records."""
    attempt.tell("publishing the records")
    folder = attempt.folder / "publish"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    evaluation, comparison, references = attempt.task.evaluation, attempt.comparison, attempt.references
    try:
        write_episodes(trials, comparison, evaluation.suite, folder / "episodes.jsonl")
        if trials.joints:
            np.savez_compressed(folder / "joint_velocity.npz", **velocities(trials, comparison))
        for name in MEASURED:
            shutil.copyfile(attempt.folder / name, folder / name)
        write_json(folder / "run.json", run_description(attempt, trials))
        properties = RolloutsProperties(
            suite=evaluation.suite,
            tasks=list(evaluation.tasks),
            arms=[arm.name for arm in comparison.arms],
            seeds=[],
            versions=versions(),
            student=references.student,
            teacher=references.teacher,
            baseline=references.baseline,
        )
        return publish(folder, "Rollouts", properties, parent="store://evidence")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_episodes(trials: Trials, comparison: Comparison, suite: str, path: Path) -> None:
    """``episodes.jsonl``: the pair's place among those of its task is its episode, and stands for its seed."""
    numbers = {(task, pair): n for task, pairs in trials.tasks.items() for n, pair in enumerate(pairs)}
    with path.open("w", encoding="utf-8") as file:
        for trial in sorted(trials.trials, key=lambda t: (arm_of(t, comparison), t.task, numbers[t.task, t.pair])):
            number = numbers[trial.task, trial.pair]
            record = {
                "suite": suite,
                "task": trial.task,
                "arm": arm_of(trial, comparison),
                "episode": number,
                "seed": number,
                "pair": trial.pair,
                "success": trial.success,
                "failure": trial.failure,
                "steps": trial.steps,
                "reward": 0.0,
                "clamped_steps": trial.clamped_steps,
                "idle_chunks": 0,
                "chunks": 0,
                "video": None,
            }
            file.write(json.dumps(record, sort_keys=True) + "\n")


def arm_of(trial: Trial, comparison: Comparison) -> str:
    """The evaluator's name of the arm that ran."""
    return comparison.served if trial.arm == "student" else comparison.baseline


def velocities(trials: Trials, comparison: Comparison) -> dict[str, Any]:
    """By arm the joint velocities (N, J), as many of every trial, evenly spaced in time; and the joints' names."""
    rows: dict[str, list[Any]] = {arm.name: [] for arm in comparison.arms}
    each = velocity_rows(len(trials.trials) // 2)
    for trial in trials.trials:
        if trial.velocities is not None:
            log = read_velocity_log(trials.folder / trial.velocities)
            chosen = sampled(len(log.rows), each)
            rows[arm_of(trial, comparison)].append(np.array(log.rows, dtype=np.float32)[chosen])
    return {name: np.concatenate(some) for name, some in rows.items()} | {"joints": np.array(trials.joints)}


def run_description(attempt: Attempt, trials: Trials) -> dict[str, Any]:
    """``run.json``: where the numbers came from, and what the trials lack."""
    evidence, comparison, references = attempt.task.evaluation.evidence, attempt.comparison, attempt.references
    notes = json.loads((attempt.folder / "arms.json").read_text())
    moments = sorted((trial.when for trial in trials.trials if trial.when), key=datetime.fromisoformat)
    missing = {}
    if any(trial.clamped_steps is None for trial in trials.trials):
        missing["clamped_steps"] = NO_CLAMPS
    if not trials.joints:
        missing["joint_velocity.npz"] = NO_VELOCITIES
    return {
        "suite": attempt.task.evaluation.suite,
        "arms": [notes[arm.name] for arm in comparison.arms],
        "served": comparison.served,
        "baseline": comparison.baseline,
        "student": references.student.model_dump(),
        "teacher": references.teacher.model_dump(),
        "action_steps": comparison.action_steps,
        "evidence": None if evidence is None else evidence.model_dump(),
        "who": sorted({trial.who for trial in trials.trials if trial.who}),
        "when": moments[:1] + moments[1:][-1:],
        "missing": missing,
        "errors": [],
        "latency": {"threads": latency.THREADS, "warm_up": latency.WARM_UP, "batch": 1},
        "fidelity": {"chunks": fidelity.CHUNKS, "observations": "frames of the dataset of the distillation"},
        "versions": {"flowstill": flowstill.__version__, **versions()},
        "host": host(),
    }
