"""What the tests of the gates share: judging a records folder, changing it, and evidence made of counts."""

from dataclasses import replace

import numpy as np

from flowstill.api.gates import Gates
from flowstill_evaluator.evidence import Evidence, Gap, Pairs
from flowstill_evaluator.gates.chain import run_gates
from flowstill_evaluator.gates.p1_success import p1_success
from flowstill_evaluator.gates.p2_latency import p2_latency
from flowstill_evaluator.gates.p3_memory import p3_memory
from flowstill_evaluator.gates.p4_fidelity import p4_fidelity
from flowstill_evaluator.gates.p5_per_task import p5_per_task
from flowstill_evaluator.gates.p6_failed_clamped import p6_failed_clamped
from flowstill_evaluator.gates.s1_clamp import s1_clamp
from flowstill_evaluator.gates.s2_velocity import s2_velocity
from flowstill_evaluator.gates.s3_cliff import s3_cliff
from tests.unit.evaluator import synthetic as syn

SERVED, BASELINE = "student-draws", "teacher@10"
LOOKS = (50, 100, 150, 200)
NOTHING = Gap("not measured")


class Judged(dict):
    """Gate results by name, each computed when it is asked for."""

    def __init__(self, evidence, limits):
        self.evidence, self.limits = evidence, limits

    def __missing__(self, name):
        self[name] = GATES[name](self.evidence, getattr(self.limits, name.lower()))
        return self[name]


GATES = {
    "S1": s1_clamp,
    "S2": s2_velocity,
    "S3": s3_cliff,
    "P1": p1_success,
    "P2": p2_latency,
    "P3": p3_memory,
    "P4": p4_fidelity,
    "P5": p5_per_task,
    "P6": p6_failed_clamped,
}


def judged(folder, gates=None, **changes):
    return Judged(syn.load(folder, **changes), Gates.model_validate(gates or {}))


def judged_all(folder, **changes):
    return {r.name: r for r in run_gates(syn.load(folder, **changes), Gates())}


def set_outcomes(folder, student, baseline, task="reach-around", **student_changes):
    """Replace the two compared arms by ones with these successes, in order."""
    lines = [e for e in syn.read_lines(folder) if e["arm"] not in (SERVED, BASELINE) or e["task"] != task]
    for arm, successes in ((SERVED, student), (BASELINE, baseline)):
        changes = student_changes if arm == SERVED else {}
        lines += [syn.episode(arm, task, i, success=bool(x), **changes) for i, x in enumerate(successes)]
    syn.write_lines(folder, lines)


def clamp(folder, arm, episodes):
    syn.write_lines(
        folder,
        [
            e | {"clamped_steps": 3 if e["arm"] == arm and e["episode"] in episodes else 0}
            for e in syn.read_lines(folder)
        ],
    )


def first(count, of=200):
    return [i < count for i in range(of)]


def made_evidence(student, baseline, *, present, looks=LOOKS, tasks=1, clamped=0, velocity=NOTHING, latency=NOTHING):
    """So many of ``present`` episodes of every task succeed; the first ``clamped`` of a task clamped."""
    names = tuple(f"t{index}" for index in range(tasks))
    number_N = np.tile(np.arange(present), tasks)
    pairs = Pairs(
        tasks=names,
        task_index=np.repeat(np.arange(tasks), present),
        student_success=number_N < student,
        baseline_success=number_N < baseline,
        student_clamped=number_N < clamped,
        baseline_clamped=np.zeros(len(number_N), dtype=np.bool_),
    )
    expected = replace(syn.expected(names, present), looks=looks)
    return Evidence(expected, {}, pairs, velocity, latency, NOTHING, NOTHING, NOTHING)
