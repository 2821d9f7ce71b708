"""What spinning OpenMP threads cost where the cores are shared: teacher rollouts, beside busy processes and alone.

    .venv/bin/python bench/threads.py

Each line is one setting of the same work (256 rollouts of ten steps of the quickstart's teacher), in a fresh process,
in turn, and the ratio to what a child does (flowstill/child/threads.py).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

TEACHER = Path(__file__).parents[1] / "examples" / "quickstart" / "teacher"
ROLLOUTS = 256
SETTINGS = {
    "waiting threads (a child's own)": {"OMP_WAIT_POLICY": "PASSIVE"},
    "OpenMP's default": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BUSY = "while True: pass"


def work(repeats: int) -> None:
    """Print the seconds of each repeat as JSON."""
    import time

    import torch

    from flowstill.policies.registry import load_flow_policy

    teacher = load_flow_policy(TEACHER)
    batch = teacher.preprocess(
        {
            "observation.state": torch.zeros(ROLLOUTS, teacher.state_dim),
            **{camera: torch.zeros(ROLLOUTS, 3, 32, 32) for camera in teacher.cameras},
            "task": ["reach behind the post"] * ROLLOUTS,
        }
    )
    prefix = teacher.encode_prefix(batch)
    noise_BHD = torch.randn(ROLLOUTS, teacher.chunk_size, teacher.padded_action_dim)
    teacher.chunk(prefix, noise_BHD, 10)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        teacher.chunk(prefix, noise_BHD, 10)
        seconds.append(time.perf_counter() - started)
    print(json.dumps(seconds))


def measure(settings: dict[str, str], repeats: int) -> list[float]:
    """Seconds of each repeat in a fresh process with these settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    command = [sys.executable, __file__, "--work", "--repeats", str(repeats)]
    done = subprocess.run(command, env={**environment, **settings}, capture_output=True, text=True, check=True)
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.repeats)
        return
    cores = len(os.sched_getaffinity(0))
    for busy in (0, cores):
        found: dict[str, list[float]] = {name: [] for name in SETTINGS}
        with ExitStack() as stack:
            for _ in range(busy):
                stack.callback(subprocess.Popen([sys.executable, "-c", BUSY]).kill)
            for _ in range(options.rounds):
                for name, settings in SETTINGS.items():
                    found[name] += measure(settings, options.repeats)
        ours = statistics.median(found[next(iter(SETTINGS))])
        for name, seconds in found.items():
            median = statistics.median(seconds)
            print(
                f"{cores} cores, {busy} busy processes: {name}: {median:.2f} s, {median / ours:.2f} of ours", flush=True
            )


if __name__ == "__main__":
    main()
