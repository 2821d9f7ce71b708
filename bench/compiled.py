"""Does torch.compile of the expert's call help a step of distillation?

    .venv/bin/python bench/compiled.py                                                        # the quickstart's teacher
    .venv/bin/python bench/compiled.py --policy smolvla --size full --batch-size 2 --steps 2  # half an hour on a CPU

Two trainers of bench/distill.py take the same samples in turn; of one the expert is compiled for its shapes. Processor
time on a CPU, wall clock on a GPU; ratios are of medians. The first step has the compilation in it and is told apart,
and both must give the same loss.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from distill import OURS, POLICIES, SETTINGS, Bench, scene_of, timed

TOLERANCE = 1e-4


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", choices=POLICIES, default="quickstart")
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--setting", type=int, default=2, help=f"of {', '.join(map(str, SETTINGS))}; from 0")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with scene_of(options, options.policy, folder) as scene:
            bench = Bench(scene, SETTINGS[options.setting], options.batch_size, folder)
            teacher = scene.load()
            arms = {name: bench.arm(OURS, teacher, teacher) for name in ("eager", "compiled")}
            student = arms["compiled"].student
            student.call_expert = torch.compile(student.call_expert, dynamic=False)
            plain, started = arms["eager"].step(), time.perf_counter()
            loss, first = arms["compiled"].step(), time.perf_counter() - started
            if abs(loss - plain) > TOLERANCE * abs(plain):
                raise AssertionError(f"the compiled expert gives the loss {loss}, the other {plain}")
            seconds = {name: statistics.median(found) for name, found in timed(arms, options.steps, 1).items()}
    eager, compiled = seconds["eager"], seconds["compiled"]
    print(f"{options.policy}, {options.size}, batch {options.batch_size}, {bench.setting}")
    print(f"eager {eager:.4f} s, compiled {compiled:.4f} s, {eager / compiled:.2f} times as fast")
    print(f"the first compiled step {first:.0f} s")


if __name__ == "__main__":
    main()
