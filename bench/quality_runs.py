"""How bench/quality.py and bench/quality_tasks.py distil, and run the arms of what they compare."""

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quality_results import ArmResult, Results, Student
from quality_settings import DRAWS, TEACHER_STEPS, Episodes, Setting

from flowstill.api.children import Result, TrainTask
from flowstill.api.fields import Source
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.manifest import StudentProperties, read_manifest
from flowstill.artifacts.stores import fetch
from flowstill.child.threads import settle_threads
from flowstill.policies.interface import Runner
from flowstill.policies.loading import load_policy
from flowstill_evaluator.lockstep import Round, WorkerPool, policy_threads
from flowstill_evaluator.policy import BatchedPolicy
from flowstill_evaluator.records import Outcome, episodes_of
from flowstill_evaluator.suites.registry import METAWORLD
from flowstill_trainer.inputs import TRAINER_VERSION

ROOT = Path(__file__).parents[1]
WORK = ROOT / ".flowstill" / "quality"
BASELINE = f"teacher@{TEACHER_STEPS}"
PART = 100
"""Episodes between two saves."""
Open = Callable[[], Runner]


@dataclass(frozen=True)
class Compared:
    """What is compared: a teacher on a task, and its students.

    Attributes:
        task: of the suite ``metaworld``.
        teacher: its URI.
        dataset: the URI of what students are distilled on.
        work: where the trainer keeps its files.
    """

    task: str
    teacher: str
    dataset: str
    work: Path


def teacher_arms(compared: Compared) -> dict[str, Open]:
    """The teacher's arms by name."""

    def at(steps: int, draws: int) -> Open:
        return lambda: load_policy(
            compared.teacher, runtime="torch", steps=steps, draws=draws, threads=policy_threads()
        )

    arms = {f"teacher@{steps}": at(steps, 1) for steps in (TEACHER_STEPS, 4, 2, 1)}
    return arms | {f"{BASELINE}, {DRAWS} draws": at(TEACHER_STEPS, DRAWS)}


def student_arms(name: str, reference: str) -> dict[str, Open]:
    """A published student with one draw and with all."""

    def with_draws(draws: int) -> Open:
        return lambda: load_policy(reference, runtime="onnx", draws=draws, threads=policy_threads())

    return {f"{name}/{draws}": with_draws(draws) for draws in (1, DRAWS)}


def distilled(results: Results, compared: Compared, wanted: Setting, seed: int) -> str:
    """``URI@DIGEST`` of the student of that setting, trained now if it is not there.

    Raises:
        RuntimeError: training failed.
    """
    spec = wanted.spec(compared.teacher, compared.dataset, seed)
    name = f"{wanted.name}/{seed}"
    slug = re.sub(r"[^a-z0-9]+", "-", f"{name} trainer {TRAINER_VERSION}")
    work = compared.work / slug
    work.mkdir(parents=True, exist_ok=True)
    task = TrainTask(
        resource=f"quality/{name}", uid=str(uuid.uuid5(uuid.NAMESPACE_URL, name)), work=f"file://{work}", spec=spec
    )
    (work / "spec.json").write_text(task.model_dump_json(by_alias=True))
    command = [sys.executable, "-m", "flowstill_trainer.cli", "--spec", str(work / "spec.json"), "--output", str(work)]
    done = subprocess.run(command, check=False)
    result = Result.model_validate_json((work / "result.json").read_text())
    if done.returncode != 0 or result.student is None:
        raise RuntimeError(f"{name}: {result.reason}: {result.message}")
    properties = read_manifest(fetch(result.student, "student")).properties
    assert isinstance(properties, StudentProperties)
    results.forget_others(name, result.student.digest)
    results.students[name] = Student(
        setting=wanted.name,
        training_seed=seed,
        spec=spec.model_dump(mode="json", by_alias=True, include={"student", "method", "training"}, exclude_none=True),
        digest=result.student.digest,
        trainer_version=properties.trainer_version,
        training_seconds=properties.training_seconds,
        fidelity=[each.model_dump(mode="json", by_alias=True) for each in properties.fidelity],
    )
    results.save()
    return f"{result.student.uri}@{result.student.digest}"


def claim_inputs(results: Results, compared: Compared) -> None:
    """Note which teacher and dataset the results are about.

    Raises:
        SystemExit: they are about others.
    """
    teacher = tree_digest(fetch(Source(uri=compared.teacher), "teacher"))
    dataset = tree_digest(fetch(Source(uri=compared.dataset), "dataset"))
    for kind, had, have in (("teacher", results.teacher, teacher), ("dataset", results.dataset, dataset)):
        if had not in ("", have):
            raise SystemExit(f"{results.path} is about another {kind} ({had[:19]}…); move it away")
    results.teacher, results.dataset = teacher, dataset


def run_arm(
    results: Results, compared: Compared, name: str, open_runner: Open, episodes: Episodes, pool: WorkerPool
) -> None:
    """Run what is missing of one arm, and save every :data:`PART` episodes.

    Raises:
        RuntimeError: the simulator broke an episode for good; paired episodes leave no gap.
    """
    arm = results.arm(name, episodes)
    if len(arm.success) >= episodes.count:
        return
    runner = open_runner()
    policy = BatchedPolicy(
        runner, name, seed=episodes.seed, action_steps=runner.info.action_steps, width=pool.width,
        instructions=METAWORLD.preflight([compared.task]), rename_map={},
    )  # fmt: skip
    while len(arm.success) < episodes.count:
        first = len(arm.success)
        outcomes: list[Outcome] = []

        def heard(answer: Round, outcomes: list[Outcome] = outcomes) -> None:
            outcomes.extend(answer.outcomes)
            if answer.errors:
                raise RuntimeError(f"episode {answer.errors[0].episode.index}: {answer.errors[0].message}")

        pool.run(episodes_of([compared.task], min(PART, episodes.count - first), episodes.seed, first), policy, heard)
        keep(arm, sorted(outcomes, key=lambda outcome: outcome.episode.index))
        results.save()
        print(f"{name} ({episodes.purpose}): {arm.success.count('1')} of {len(arm.success)}", flush=True)


def keep(arm: ArmResult, outcomes: list[Outcome]) -> None:
    """Add finished episodes, in their order."""
    for outcome in outcomes:
        arm.success += "1" if outcome.success else "0"
        arm.idle_chunks += outcome.idle_chunks
        arm.chunks += outcome.chunks
        arm.clamped_steps += outcome.clamped_steps
        arm.steps += outcome.steps


def run_all(
    results: Results,
    compared: Compared,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    episodes: Sequence[Episodes],
    pool: WorkerPool,
) -> None:
    """Every arm that is asked for and missing: the teacher's, then each setting's and seed's students."""
    for each in episodes:
        for name, open_runner in teacher_arms(compared).items():
            run_arm(results, compared, name, open_runner, each, pool)
    for seed in seeds:
        for one in settings:
            reference = distilled(results, compared, one, seed)
            for each in episodes:
                for name, open_runner in student_arms(f"{one.name}/{seed}", reference).items():
                    run_arm(results, compared, name, open_runner, each, pool)


def settle() -> None:
    """The store of the students, offline, with threads that wait."""
    os.environ["FLOWSTILL_STORE"] = f"file://{WORK / 'store'}"
    os.environ["HF_HUB_OFFLINE"] = "1"
    settle_threads()
    (WORK / "store").mkdir(parents=True, exist_ok=True)
