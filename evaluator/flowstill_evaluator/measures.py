"""What is measured once in an evaluation, on held-out observations: latency, memory, fidelity."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowstill.child.threads import usable_cores
from flowstill.policies.interface import Runner
from flowstill_evaluator import fidelity, latency, memory
from flowstill_evaluator.arms import Arm, one_draw_arm, reference_arm
from flowstill_evaluator.lockstep import policy_threads
from flowstill_evaluator.observations import Batch
from flowstill_evaluator.session import Attempt, once

MEASURED = ("latency.json", "memory.json", "fidelity.json")


def measure(attempt: Attempt) -> None:
    """Write what is missing of :data:`MEASURED`."""
    observations = Batch.load(attempt.folder / "observations.npz")
    once(attempt.folder / "latency.json", lambda: measure_latency(attempt, observations))
    once(attempt.folder / "memory.json", lambda: measure_memory(attempt))
    once(attempt.folder / "fidelity.json", lambda: measure_fidelity(attempt, observations))


def measure_latency(attempt: Attempt, observations: Batch) -> dict[str, Any]:
    """``latency.json``."""
    arms = _served_arms(attempt)
    calls = attempt.task.gates.p2.min_calls
    attempt.tell_steps(0, calls, "measuring latency")
    runners = {arm.name: arm.open(attempt.provider, threads=latency.THREADS) for arm in arms}
    times = latency.measure(
        runners,
        observations,
        calls=calls,
        seed=attempt.seed,
        heard=lambda done: attempt.tell_steps(done, calls, "measuring latency"),
    )
    return {arm: {"calls": len(values), "milliseconds": values} for arm, values in times.items()}


def measure_memory(attempt: Attempt) -> dict[str, list[int]]:
    """``memory.json``."""
    return memory.measure(
        _served_arms(attempt),
        attempt.folder / "observations.npz",
        processes=attempt.task.gates.p3.processes,
        provider=attempt.provider,
        threads=latency.THREADS,
        at_once=min(2, usable_cores()),
        heard=lambda: attempt.tell("measuring memory"),
    )


def measure_fidelity(attempt: Attempt, observations: Batch) -> dict[str, Any]:
    """``fidelity.json``."""
    attempt.tell("measuring fidelity")
    teacher = reference_arm(attempt.references).open(attempt.provider, policy_threads(), draws=fidelity.CHUNKS)
    student = one_draw_arm(attempt.task, attempt.references).open(attempt.provider, policy_threads())
    generator = np.random.default_rng([attempt.seed, 4])

    def chunks(runner: Runner) -> fidelity.Doubles:
        steps = attempt.comparison.action_steps
        return fidelity.sample(runner, observations, steps, generator, attempt.check_stop)

    reference, fresh, distilled = chunks(teacher), chunks(teacher), chunks(student)
    return fidelity.compare(reference, fresh, distilled)


def _served_arms(attempt: Attempt) -> list[Arm]:
    comparison = attempt.comparison
    return [comparison[comparison.baseline], comparison[comparison.served]]
