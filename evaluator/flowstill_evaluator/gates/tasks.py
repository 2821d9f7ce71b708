"""Success task by task: what S3, P5 and the report's table look at."""

from dataclasses import dataclass

from flowstill_evaluator.evidence import Pairs
from flowstill_evaluator.statistics import LEVEL, Bounds, PairCounts, difference_interval, mcnemar


@dataclass(frozen=True)
class TaskComparison:
    """The served student against the baseline on one task."""

    task: str
    counts: PairCounts
    bounds: Bounds
    p_value: float


def compare_tasks(pairs: Pairs, level: float = LEVEL) -> list[TaskComparison]:
    """One comparison a task that has episodes, in the order of the spec; bounds at a one-sided ``level``."""
    compared = ((task, pairs.success(index)) for index, task in enumerate(pairs.tasks))
    return [
        TaskComparison(task, counts, difference_interval(counts, level), mcnemar(counts.gained, counts.lost))
        for task, counts in compared
        if counts.pairs
    ]
