"""Success task by task: what S3, P5 and the report's table look at."""

from dataclasses import dataclass

import numpy as np

from flowstill_evaluator.evidence import Evidence, Gap, Pairs
from flowstill_evaluator.statistics import LEVEL, Bounds, PairCounts, difference_interval, mcnemar


@dataclass(frozen=True)
class TaskComparison:
    """The served student against the baseline on one task."""

    task: str
    counts: PairCounts
    bounds: Bounds
    p_value: float


def paired(evidence: Evidence) -> Pairs | Gap:
    """The pairs, when every task has some."""
    pairs = evidence.pairs
    if isinstance(pairs, Gap):
        return pairs
    if not len(pairs):
        return Gap("there are no paired episodes")
    missing = np.flatnonzero(np.bincount(pairs.task_index, minlength=len(pairs.tasks)) == 0)
    return Gap(f"there are no paired episodes of task {pairs.tasks[missing[0]]}") if len(missing) else pairs


def with_clamps(evidence: Evidence) -> Pairs | Gap:
    """The pairs, when it was counted in each whether an action was clamped."""
    pairs = paired(evidence)
    return pairs if isinstance(pairs, Gap) or pairs.clamps is None else pairs.clamps


def compare_tasks(pairs: Pairs, level: float = LEVEL) -> list[TaskComparison]:
    """One comparison a task that has episodes, in the order of the spec; bounds at a one-sided ``level``."""
    compared = zip(pairs.tasks, pairs.success_by_task(), strict=True)
    return [
        TaskComparison(task, counts, difference_interval(counts, level), mcnemar(counts.gained, counts.lost))
        for task, counts in compared
        if counts.pairs
    ]
