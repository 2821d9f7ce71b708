"""P3's figures: resident memory of a fresh process that loads a policy and acts.

``python -m flowstill_evaluator.memory`` is that process; it imports nothing that serving would not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flowstill.errors import FlowstillError
from flowstill_evaluator.arms import Arm, Provider

_CALLS = 3


def measure(
    arms: Sequence[Arm],
    observations: Path,
    *,
    processes: int,
    provider: Provider,
    threads: int,
    at_once: int,
    heard: Callable[[], None],
) -> dict[str, list[int]]:
    """Resident bytes of fresh processes, the arms taking turns.

    Args:
        arms: to measure.
        observations: file of a ``Batch``.
        processes: per arm.
        provider: execution provider of all.
        threads: of the runtime, the same for all.
        at_once: processes side by side; resident memory does not depend on it.
        heard: told before every process; may raise to stop.

    Raises:
        FlowstillError: a process failed; its own words are in the message.
    """
    turns = [arm for _ in range(processes) for arm in arms]

    def one(arm: Arm) -> int:
        heard()
        return _one_process(arm, observations, provider, threads)

    with ThreadPoolExecutor(at_once) as pool:
        sizes = list(pool.map(one, turns))
    return {arm.name: sizes[number :: len(arms)] for number, arm in enumerate(arms)}


def _one_process(arm: Arm, observations: Path, provider: Provider, threads: int) -> int:
    command = [sys.executable, "-m", "flowstill_evaluator.memory", "--policy", arm.reference]
    command += ["--runtime", arm.runtime, "--observations", str(observations)]
    command += ["--provider", provider, "--threads", str(threads)]
    command += ["--steps", str(arm.steps)] if arm.steps is not None else []
    command += ["--draws", str(arm.draws)] if arm.draws is not None else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise FlowstillError(f"measuring the memory of {arm.name} failed ({done.returncode}): {last}")
    return int(json.loads(done.stdout.strip().splitlines()[-1])["resident_bytes"])


def resident_bytes() -> int:
    """Resident memory of this process: now on Linux, at its peak elsewhere."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(argv: Sequence[str] | None = None) -> None:
    """Load, act three times, print ``{"resident_bytes": …}``."""
    parser = argparse.ArgumentParser(prog="flowstill_evaluator.memory")
    parser.add_argument("--policy", required=True)
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--observations", type=Path, required=True)
    parser.add_argument("--provider", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--draws", type=int)
    options = parser.parse_args(argv)
    import numpy as np

    from flowstill.policies.loading import load_policy

    runner = load_policy(
        options.policy,
        runtime=options.runtime,
        steps=options.steps,
        draws=options.draws,
        threads=options.threads,
        provider=options.provider,
    )
    # The batch is read by hand: the module that makes batches imports what only simulation needs.
    with np.load(options.observations, allow_pickle=False) as stored:
        seen = {name: stored[name][:1] for name in stored.files if name != "sentences"}
        sentence = str(stored["sentences"][0])
    info = runner.info
    generator = np.random.default_rng(0)
    for _ in range(_CALLS):
        shape = (1, info.draws, info.chunk_size, info.padded_action_dim)
        runner.act({**seen, "task": [sentence]}, generator.standard_normal(shape, dtype=np.float32))
    print(json.dumps({"resident_bytes": resident_bytes()}))


if __name__ == "__main__":
    main()
