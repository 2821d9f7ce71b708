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

from quality_results import Results, table
from quality_runs import PART, ROOT, WORK, Compared, claim_inputs, run_all, settle
from quality_settings import CHOICE, CLAIM, SETTINGS, TASK, TRAINING_SEEDS, setting

from flowstill_evaluator.lockstep import WorkerPool, pool_size
from flowstill_evaluator.suites.registry import METAWORLD

RESULTS = ROOT / "bench" / "results" / "quality.json"
QUICKSTART = ROOT / "examples" / "quickstart"
COMPARED = Compared(TASK, f"file://{QUICKSTART / 'teacher'}", f"file://{QUICKSTART / 'dataset'}", WORK / "work")
PURPOSES = {each.purpose: each for each in (CHOICE, CLAIM)}


def run(options: argparse.Namespace) -> None:
    """Everything that is asked for and missing."""
    results = Results.load(RESULTS)
    claim_inputs(results, COMPARED)
    wanted = [setting(name) for name in options.setting] or list(SETTINGS)
    episodes = [PURPOSES[name] for name in options.purpose]
    with WorkerPool(METAWORLD, *pool_size(PART, METAWORLD)) as pool:
        run_all(results, COMPARED, wanted, options.seeds, episodes, pool)


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
    settle()
    run(options)


if __name__ == "__main__":
    main()
