"""Teachers for bench/quality_tasks.py, made as the quickstart's is: demonstrations of scripts, then flow matching.

    .venv/bin/python bench/teachers.py drawer-open-v3        # demonstrations, dataset, teacher; what is there stays
    .venv/bin/python bench/teachers.py                       # of all tasks

The code is that of examples/quickstart/make; the tasks are in bench/teacher_tasks.py. Everything is written below
.flowstill/teachers/TASK: ``demonstrations.npz``, ``dataset`` and ``teacher``. One thread; the seed is 0.
"""

import argparse
import os
import shutil
import time
from pathlib import Path

from teacher_tasks import TASKS, TeacherTask, attempt_of, complete

from flowstill_evaluator.suites.graphics import choose_library

ROOT = Path(__file__).parents[1]
WORK = ROOT / ".flowstill" / "teachers"


def folder_of(task: str) -> Path:
    """Where that task's files are."""
    return WORK / task


def demonstrations(task: TeacherTask, folder: Path, workers: int) -> None:
    """Record what the teacher learns from, and the students' dataset."""
    from record_demonstrations import record, save_arrays, save_dataset

    started = time.monotonic()
    kept = record(task.demonstrations, workers, attempt_of(task.subject.task))
    dataset = folder / "dataset"
    shutil.rmtree(dataset, ignore_errors=True)
    save_dataset([each for each in kept if complete(task, each)][: task.shipped], dataset, task.subject)
    save_arrays(kept, folder / "demonstrations.npz")
    frames = sum(len(each.state_TS) for each in kept)
    print(f"{task.subject.task}: {len(kept)} demonstrations, {frames} frames, {time.monotonic() - started:.0f} s")


def make(task: TeacherTask, workers: int) -> None:
    """Make what is missing of one task."""
    folder = folder_of(task.subject.task)
    arrays, teacher, trained = folder / "demonstrations.npz", folder / "teacher", folder / "trained"
    if not arrays.exists():
        demonstrations(task, folder, workers)
    if trained.exists():
        return
    import torch
    from train_teacher import Demonstrations, train

    torch.set_num_threads(1)
    train(task.subject, Demonstrations.load(arrays, None), teacher, task.course)
    trained.touch()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--workers", type=int, default=1, help="processes that demonstrate")
    options = parser.parse_args()
    unknown = sorted(set(options.tasks) - set(TASKS))
    if unknown:
        parser.error(f"there is no task {unknown[0]}; there are {', '.join(TASKS)}")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["MUJOCO_GL"] = choose_library()
    for name in options.tasks:
        make(TASKS[name], options.workers)


if __name__ == "__main__":
    main()
