"""The measured claim on other tasks: three of Meta-World's own, and a two-way reach through a camera.

    .venv/bin/python bench/teachers.py                     # the teachers, first
    .venv/bin/python bench/quality_tasks.py run            # go on with whatever is missing
    .venv/bin/python bench/quality_tasks.py run --task drawer-open-v3
    .venv/bin/python bench/quality_tasks.py table          # what is finished, with its N

As bench/quality.py, with the same arms, noise and table: the default setting, the paper's and the refined one, one
training seed, 400 episodes, trained for less (:func:`less`). Results: bench/results/quality_tasks/TASK.json.
"""

import argparse
import os
from dataclasses import replace

from quality_results import Results, table
from quality_runs import PART, ROOT, WORK, Compared, claim_inputs, run_all, settle
from quality_settings import Episodes, Setting, setting
from teacher_tasks import TASKS, TeacherTask
from teachers import folder_of

from flowstill_evaluator.lockstep import WorkerPool, pool_size
from flowstill_evaluator.suites.graphics import choose_library
from flowstill_evaluator.suites.registry import METAWORLD

RESULTS = ROOT / "bench" / "results" / "quality_tasks"
EPISODES = Episodes("claim", seed=12, count=400)
SEEDS = (0,)
STEPS, BANK = 800, 6_000
COMPARISON = ("10, bank", "10, bank, refined", "2, the paper's weight")


def less(wanted: Setting) -> Setting:
    """The setting with fewer steps, and a smaller bank if it has one."""
    bank = {} if wanted.method.get("bankSize") == 0 else {"bankSize": BANK}
    return replace(wanted, method={**wanted.method, **bank}, training={**wanted.training, "steps": STEPS})


def compared(task: TeacherTask) -> Compared:
    """That task, with its teacher and data.

    Raises:
        SystemExit: they were not made yet.
    """
    name = task.subject.task
    folder = folder_of(name)
    if not (folder / "trained").exists():
        raise SystemExit(f"{folder} has no teacher; run bench/teachers.py {name} first")
    return Compared(name, f"file://{folder / 'teacher'}", f"file://{folder / 'dataset'}", WORK / "work" / name)


def run(names: list[str]) -> None:
    """Everything that is missing of these tasks."""
    settings = [less(setting(name)) for name in COMPARISON]
    for name in names:
        task = TASKS[name]
        one, results = compared(task), Results.load(RESULTS / f"{name}.json")
        claim_inputs(results, one)
        with WorkerPool(METAWORLD, *pool_size(PART, METAWORLD), task.view) as pool:
            run_all(results, one, settings, SEEDS, [EPISODES], pool)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("run", "go on with what is missing"), ("table", "what is finished, in Markdown")):
        command = commands.add_parser(name, help=what)
        command.add_argument("--task", nargs="+", default=list(TASKS), choices=list(TASKS))
    options = parser.parse_args()
    if options.command == "run":
        settle()
        os.environ["MUJOCO_GL"] = choose_library()
        run(options.task)
        return
    for name in options.task:
        results = Results.load(RESULTS / f"{name}.json")
        if results.arms:
            print(f"`{name}`\n\n{table(results, EPISODES.purpose)}", end="\n\n")


if __name__ == "__main__":
    main()
