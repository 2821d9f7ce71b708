"""P3: the student fits where the baseline did."""

import numpy as np

from flowstill.api.gates import MemoryLimits
from flowstill.api.studentrollout import GateResult
from flowstill_evaluator.evidence import Evidence, Gap
from flowstill_evaluator.gates.base import decided, inconclusive, usable
from flowstill_evaluator.statistics import Bounds

MEGABYTE = 2**20


def p3_memory(evidence: Evidence, limits: MemoryLimits) -> GateResult:
    """Ratio of medians of resident memory over fresh processes; the interval is the range over all pairs."""
    memory = usable(evidence.memory, limits.processes, "measured processes")
    if isinstance(memory, Gap):
        return inconclusive("P3", memory, limits.max_ratio)
    processes = min(len(memory.student), len(memory.baseline))
    student, baseline = float(np.median(memory.student)), float(np.median(memory.baseline))
    ratio = student / baseline
    return decided(
        "P3",
        "Pass" if ratio <= limits.max_ratio else "Fail",
        f"{student / MEGABYTE:,.0f} MiB against {baseline / MEGABYTE:,.0f} MiB resident (medians): "
        f"{ratio:.3g} times the baseline's, "
        f"{'within' if ratio <= limits.max_ratio else 'above'} {limits.max_ratio:g}.",
        measured=ratio,
        threshold=limits.max_ratio,
        samples=processes,
        bounds=Bounds(
            float(memory.student.min() / memory.baseline.max()),
            float(memory.student.max() / memory.baseline.min()),
        ),
    )
