"""Is a one-step student as good as its ten-step teacher? The measured claim, by paired episodes.

    .venv/bin/python bench/quality.py run                     # go on with whatever is missing, for hours
    .venv/bin/python bench/quality.py run --setting "10, bank" --seeds 0 --purpose claim
    .venv/bin/python bench/quality.py table                   # what is finished, with its N

The task is the quickstart's two-way reach in Meta-World's simulator, states only. Every arm runs the same episodes with
the same noise: the teacher at 10, 4, 2 and 1 steps, the teacher at 10 with as many draws as the student has, and each
student with one draw and with eight. Episodes that chose the defaults ("choice") are not those of the claim. Students
are distilled by ``flowstill-train`` and stored by their inputs; finished episodes are saved every 100, so that the
bench can be stopped at any time and goes on where it was. Results: bench/results/quality.json.
"""

import argparse
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

from quality_results import ArmResult, Results, Student, table
from quality_settings import (
    CHOICE,
    CLAIM,
    DRAWS,
    SETTINGS,
    TASK,
    TEACHER_STEPS,
    TRAINING_SEEDS,
    Episodes,
    Setting,
    setting,
)

from flowstill.api.children import Result, TrainTask
from flowstill.api.fields import Source
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.manifest import StudentProperties, read_manifest
from flowstill.artifacts.stores import fetch
from flowstill.child.threads import settle_threads
from flowstill.policies.interface import Runner
from flowstill.policies.loading import load_policy
from flowstill_evaluator.lockstep import Round, WorkerPool, policy_threads, pool_size
from flowstill_evaluator.policy import BatchedPolicy
from flowstill_evaluator.records import Outcome, episodes_of
from flowstill_evaluator.suites.registry import METAWORLD
from flowstill_trainer.inputs import TRAINER_VERSION

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "quality.json"
WORK = ROOT / ".flowstill" / "quality"
QUICKSTART = ROOT / "examples" / "quickstart"
TEACHER, DATASET = (f"file://{QUICKSTART / name}" for name in ("teacher", "dataset"))
BASELINE = f"teacher@{TEACHER_STEPS}"
PART = 100
"""Episodes between two saves."""
PURPOSES = {each.purpose: each for each in (CHOICE, CLAIM)}
Open = Callable[[], Runner]


def teacher_arms() -> dict[str, Open]:
    """The teacher's arms by name."""

    def at(steps: int, draws: int) -> Open:
        return lambda: load_policy(TEACHER, runtime="torch", steps=steps, draws=draws, threads=policy_threads())

    arms = {f"teacher@{steps}": at(steps, 1) for steps in (TEACHER_STEPS, 4, 2, 1)}
    return arms | {f"{BASELINE}, {DRAWS} draws": at(TEACHER_STEPS, DRAWS)}


def student_arms(name: str, reference: str) -> dict[str, Open]:
    """A published student with one draw and with all."""

    def with_draws(draws: int) -> Open:
        return lambda: load_policy(reference, runtime="onnx", draws=draws, threads=policy_threads())

    return {f"{name}/{draws}": with_draws(draws) for draws in (1, DRAWS)}


def distilled(results: Results, wanted: Setting, seed: int) -> str:
    """``URI@DIGEST`` of the student of that setting, trained now if it is not there.

    Raises:
        RuntimeError: training failed.
    """
    spec = wanted.spec(TEACHER, DATASET, seed)
    name = f"{wanted.name}/{seed}"
    slug = re.sub(r"[^a-z0-9]+", "-", f"{name} trainer {TRAINER_VERSION}")
    work = WORK / "work" / slug
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


def run_arm(results: Results, name: str, open_runner: Open, episodes: Episodes, pool: WorkerPool) -> None:
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
        instructions=METAWORLD.preflight([TASK]), rename_map={},
    )  # fmt: skip
    while len(arm.success) < episodes.count:
        first = len(arm.success)
        outcomes: list[Outcome] = []

        def heard(answer: Round, outcomes: list[Outcome] = outcomes) -> None:
            outcomes.extend(answer.outcomes)
            if answer.errors:
                raise RuntimeError(f"episode {answer.errors[0].episode.index}: {answer.errors[0].message}")

        pool.run(episodes_of([TASK], min(PART, episodes.count - first), episodes.seed, first), policy, heard)
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


def run(options: argparse.Namespace) -> None:
    """Everything that is asked for and missing."""
    results = Results.load(RESULTS)
    teacher = tree_digest(fetch(Source(uri=TEACHER), "teacher"))
    if results.teacher not in ("", teacher):
        raise SystemExit(f"{RESULTS} is about another teacher ({results.teacher[:19]}…); move it away")
    results.teacher = teacher
    wanted = [setting(name) for name in options.setting] or list(SETTINGS)
    episodes = [PURPOSES[name] for name in options.purpose]
    with WorkerPool(METAWORLD, *pool_size(PART, METAWORLD)) as pool:
        for each in episodes:
            for name, open_runner in teacher_arms().items():
                run_arm(results, name, open_runner, each, pool)
        for seed in options.seeds:
            for one in wanted:
                reference = distilled(results, one, seed)
                for each in episodes:
                    for name, open_runner in student_arms(f"{one.name}/{seed}", reference).items():
                        run_arm(results, name, open_runner, each, pool)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="go on with what is missing")
    running.add_argument("--setting", action="append", default=[], choices=[each.name for each in SETTINGS])
    running.add_argument("--seeds", type=int, nargs="*", default=list(TRAINING_SEEDS), help="none: the teacher only")
    running.add_argument("--purpose", nargs="+", default=list(PURPOSES), choices=list(PURPOSES))
    showing = commands.add_parser("table", help="what is finished, in Markdown")
    showing.add_argument("--purpose", nargs="+", default=list(PURPOSES), choices=list(PURPOSES))
    options = parser.parse_args()
    if options.command == "table":
        for purpose in options.purpose:
            print(f"{purpose}, evaluation seed {PURPOSES[purpose].seed}\n")
            print(table(Results.load(RESULTS), purpose), end="\n\n")
        return
    os.environ["FLOWSTILL_STORE"] = f"file://{WORK / 'store'}"
    os.environ["HF_HUB_OFFLINE"] = "1"
    settle_threads()
    (WORK / "store").mkdir(parents=True, exist_ok=True)
    run(options)


if __name__ == "__main__":
    main()
