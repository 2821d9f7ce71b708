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
from flowstill_evaluator.session import Session, once

MEASURED = ("latency.json", "memory.json", "fidelity.json")


def measure(session: Session) -> None:
    """Write what is missing of :data:`MEASURED`."""
    observations = Batch.load(session.folder / "observations.npz")
    once(session.folder / "latency.json", lambda: measure_latency(session, observations))
    once(session.folder / "memory.json", lambda: measure_memory(session))
    once(session.folder / "fidelity.json", lambda: measure_fidelity(session, observations))


def measure_latency(session: Session, observations: Batch) -> dict[str, Any]:
    """``latency.json``."""
    arms = _served_arms(session)
    calls = session.task.gates.p2.min_calls
    session.tell_steps(0, calls, "measuring latency")
    runners = {arm.name: arm.open(session.provider, threads=latency.THREADS) for arm in arms}
    times = latency.measure(
        runners,
        observations,
        calls=calls,
        seed=session.seed,
        heard=lambda done: session.tell_steps(done, calls, "measuring latency"),
    )
    return {arm: {"calls": len(values), "milliseconds": values} for arm, values in times.items()}


def measure_memory(session: Session) -> dict[str, list[int]]:
    """``memory.json``."""
    return memory.measure(
        _served_arms(session),
        session.folder / "observations.npz",
        processes=session.task.gates.p3.processes,
        provider=session.provider,
        threads=latency.THREADS,
        at_once=min(2, usable_cores()),
        heard=lambda: session.tell("measuring memory"),
    )


def measure_fidelity(session: Session, observations: Batch) -> dict[str, Any]:
    """``fidelity.json``."""
    session.tell("measuring fidelity")
    teacher = reference_arm(session.references).open(session.provider, policy_threads(), draws=fidelity.CHUNKS)
    student = one_draw_arm(session.task, session.references).open(session.provider, policy_threads())
    generator = np.random.default_rng([session.seed, 4])

    def chunks(runner: Runner) -> fidelity.Doubles:
        steps = session.comparison.action_steps
        return fidelity.sample(runner, observations, steps, generator, session.check_stop)

    reference, fresh, distilled = chunks(teacher), chunks(teacher), chunks(student)
    return fidelity.compare(reference, fresh, distilled)


def _served_arms(session: Session) -> list[Arm]:
    comparison = session.comparison
    return [comparison[comparison.baseline], comparison[comparison.served]]
