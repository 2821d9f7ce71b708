"""P5: no task is shown to be worse, however many tasks are looked at."""

from flowstill.api.gates import PerTaskLimits
from flowstill.api.studentrollout import GateResult
from flowstill_evaluator.evidence import Evidence, Gap
from flowstill_evaluator.gates.base import decided, inconclusive, points
from flowstill_evaluator.gates.tasks import compare_tasks, paired
from flowstill_evaluator.statistics import LEVEL, PairCounts, holm, inferior_p


def p5_per_task(evidence: Evidence, limits: PerTaskLimits) -> GateResult:
    """Fail only when an exact paired test, Holm-corrected over tasks, shows a loss beyond the margin.

    Episodes so few that losing all of them would not show it cannot pass either: Inconclusive.
    """
    pairs = paired(evidence)
    if isinstance(pairs, Gap):
        return inconclusive("P5", pairs, -limits.margin)
    level = evidence.expected.level(LEVEL)
    tasks = compare_tasks(pairs, level)
    adjusted = holm([inferior_p(t.counts, limits.margin) for t in tasks])
    index = min(range(len(tasks)), key=lambda i: (adjusted[i], tasks[i].counts.difference))
    worst, p_value = tasks[index], adjusted[index]
    blind = [t.task for t in tasks if not _could_fail(t.counts.pairs, len(tasks), limits.margin, level)]
    margin = f"{100 * limits.margin:g}"
    saying = f"{worst.task}: {points(worst.counts.difference)} points (Holm-corrected p = {p_value:.3f})"
    if p_value <= level:
        verdict, message = "Fail", f"{saying}: worse than the baseline by more than {margin} points."
    elif blind:
        verdict = "Inconclusive"
        message = (
            f"Too few episodes of {blind[0]} ({len(blind)} of {len(tasks)} tasks): "
            "even losing every one of them would show nothing."
        )
    else:
        verdict, message = (
            "Pass",
            f"No task is shown to lose more than {margin} points; the lowest is {saying}.",
        )
    return decided(
        "P5",
        verdict,  # type: ignore[arg-type]
        message,
        measured=worst.counts.difference,
        threshold=-limits.margin,
        samples=len(pairs),
        bounds=worst.bounds,
    )


def _could_fail(pairs: int, tasks: int, margin: float, level: float) -> bool:
    return inferior_p(PairCounts(0, 0, pairs, 0), margin) * tasks <= level
