"""The numbers of the report, computed once: for the page, for ``report.json`` and for the decision."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowstill.api.studentrollout import ArmResult, GateResult, Interval, Verdict
from flowstill_evaluator.evidence import Episode, Evidence, Gap
from flowstill_evaluator.gates.base import significant
from flowstill_evaluator.gates.s2_velocity import JointShift, joint_shifts
from flowstill_evaluator.gates.tasks import TaskComparison, compare_tasks
from flowstill_evaluator.report.document import Role
from flowstill_evaluator.statistics import LEVEL, Bounds, wilson

MAX_ARMS = 12


@dataclass(frozen=True)
class ArmSummary:
    """One arm over all its episodes."""

    name: str
    role: Role
    success: int
    episodes: int
    bounds: Bounds
    clamped: int | None
    mean_steps: float | None
    idle_rate: float | None
    failures: dict[str, int]
    by_task: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Summary:
    """What the evidence says, gate by gate and arm by arm."""

    verdict: Verdict
    sentence: str
    gates: tuple[GateResult, ...]
    arms: tuple[ArmSummary, ...]
    tasks: tuple[TaskComparison, ...]
    shifts: tuple[JointShift, ...]


def summarise(evidence: Evidence, gates: list[GateResult], verdict: Verdict) -> Summary:
    """Everything that the outputs share."""
    level = evidence.expected.level(LEVEL)
    return Summary(
        verdict=verdict,
        sentence=verdict_sentence(gates, verdict),
        gates=tuple(gates),
        arms=tuple(summarise_arms(evidence)),
        tasks=() if isinstance(evidence.pairs, Gap) else tuple(compare_tasks(evidence.pairs, level)),
        shifts=() if isinstance(evidence.velocity, Gap) else tuple(joint_shifts(evidence.velocity, level)),
    )


def verdict_sentence(gates: list[GateResult], verdict: Verdict) -> str:
    """Why, in one sentence."""
    names = {v: [g.name for g in gates if g.verdict == v] for v in ("Pass", "Fail", "Inconclusive")}
    if verdict == "Pass":
        return "All nine gates passed."
    if verdict == "Fail":
        also = f" Not decided: {', '.join(names['Inconclusive'])}." if names["Inconclusive"] else ""
        return f"{_count(names['Fail'], 'failed')}.{also}"
    return f"{_count(names['Inconclusive'], 'could not be decided')}; none failed."


def _count(names: Sequence[str], what: str) -> str:
    return f"{'Gate' if len(names) == 1 else 'Gates'} {', '.join(names)} {what}"


def summarise_arms(evidence: Evidence) -> list[ArmSummary]:
    """The arms in the order of the records, the baseline first and the served student last."""
    roles: dict[str, Role] = {evidence.expected.baseline: "baseline", evidence.expected.served: "served"}
    order: dict[Role, int] = {"baseline": 0, "other": 1, "served": 2}
    found = [
        _summarise_arm(name, roles.get(name, "other"), episodes)
        for name, episodes in evidence.episodes.items()
        if episodes
    ]
    return sorted(found, key=lambda arm: order[arm.role])[:MAX_ARMS]


def _summarise_arm(name: str, role: Role, episodes: tuple[Episode, ...]) -> ArmSummary:
    success, chunks = sum(e.success for e in episodes), sum(e.chunks for e in episodes)
    tasks = dict.fromkeys(e.task for e in episodes)
    steps = [e.steps for e in episodes if e.steps is not None]
    clamped = [e.clamped_steps > 0 for e in episodes if e.clamped_steps is not None]
    return ArmSummary(
        name=name,
        role=role,
        success=success,
        episodes=len(episodes),
        bounds=wilson(success, len(episodes)),
        clamped=sum(clamped) if len(clamped) == len(episodes) else None,
        mean_steps=float(np.mean(steps)) if len(steps) == len(episodes) else None,
        idle_rate=sum(e.idle_chunks for e in episodes) / chunks if chunks else None,
        failures=dict(Counter(e.failure or "unexplained" for e in episodes if not e.success)),
        by_task={
            t: (sum(e.success for e in episodes if e.task == t), sum(e.task == t for e in episodes)) for t in tasks
        },
    )


def arm_results(arms: tuple[ArmSummary, ...]) -> list[ArmResult]:
    """The arms as a status has them."""
    return [
        ArmResult(
            name=arm.name,
            success=significant(arm.success / arm.episodes),
            episodes=arm.episodes,
            interval=Interval(low=significant(arm.bounds.low), high=significant(arm.bounds.high)),
        )
        for arm in arms
    ]
