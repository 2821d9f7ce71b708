"""S3: no single task falls off a cliff while the average looks well."""

from flowstill.api.gates import CliffLimits
from flowstill.api.studentrollout import GateResult
from flowstill_evaluator.evidence import Evidence, Gap
from flowstill_evaluator.gates.base import decided, inconclusive, points
from flowstill_evaluator.gates.margins import within_margin
from flowstill_evaluator.gates.tasks import compare_tasks, paired
from flowstill_evaluator.statistics import LEVEL, episodes_to_decide


def s3_cliff(evidence: Evidence, limits: CliffLimits) -> GateResult:
    """Every task within its margin is an intersection-union claim: each at the full level, no correction.

    That some task fell off is a claim of any of them, and shares the level among the tasks.
    """
    pairs = paired(evidence)
    if isinstance(pairs, Gap):
        return inconclusive("S3", pairs, -limits.margin)
    level = evidence.expected.level(LEVEL)
    tasks = compare_tasks(pairs, level)
    verdicts = {t.task: within_margin(t.counts, limits.margin, level, claims=len(tasks)) for t in tasks}
    failed = [t for t in tasks if verdicts[t.task] == "Fail"]
    open_ = [t for t in tasks if verdicts[t.task] == "Inconclusive"]
    worst = min(failed or open_ or tasks, key=lambda t: t.bounds.low)
    saying = (
        f"{worst.task}: {points(worst.counts.difference)} points "
        f"({points(worst.bounds.low)} to {points(worst.bounds.high)}, {worst.counts.pairs} pairs)"
    )
    margin = f"{100 * limits.margin:g}"
    if failed:
        message = f"{saying}: lost more than {margin} points; so did {len(failed) - 1} other tasks."
    elif open_:
        needed = max(episodes_to_decide(t.counts, limits.margin) for t in open_)
        message = (
            f"{saying}: a loss of {margin} points is not excluded on {len(open_)} of {len(tasks)} tasks; "
            f"about {needed:,} paired episodes a task would decide."
        )
    else:
        message = f"No task loses {margin} points; the nearest to it is {saying}."
    return decided(
        "S3",
        "Fail" if failed else "Inconclusive" if open_ else "Pass",
        message,
        measured=worst.counts.difference,
        threshold=-limits.margin,
        samples=len(pairs),
        bounds=worst.bounds,
    )
