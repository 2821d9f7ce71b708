"""All nine gates, and what they say together."""

from collections.abc import Sequence

from flowstill.api.gates import Gates
from flowstill.api.studentrollout import GateResult, Verdict
from flowstill_evaluator.evidence import Evidence
from flowstill_evaluator.gates.literal import literal_gates
from flowstill_evaluator.gates.p1_success import p1_success
from flowstill_evaluator.gates.p2_latency import p2_latency
from flowstill_evaluator.gates.p3_memory import p3_memory
from flowstill_evaluator.gates.p4_fidelity import p4_fidelity
from flowstill_evaluator.gates.p5_per_task import p5_per_task
from flowstill_evaluator.gates.p6_failed_clamped import p6_failed_clamped
from flowstill_evaluator.gates.s1_clamp import s1_clamp
from flowstill_evaluator.gates.s2_velocity import s2_velocity
from flowstill_evaluator.gates.s3_cliff import s3_cliff

TITLES = {
    "S1": "Clamp rate",
    "S2": "Velocity shift",
    "S3": "No cliff",
    "P1": "Success",
    "P2": "Latency",
    "P3": "Memory",
    "P4": "Fidelity",
    "P5": "Per task",
    "P6": "Failed and clamped",
}


def run_gates(evidence: Evidence, gates: Gates) -> list[GateResult]:
    """Every gate, in the order of their names' classes: safety first. None stops another."""
    if gates.profile == "literal":
        return literal_gates(evidence, gates)
    return [
        s1_clamp(evidence, gates.s1),
        s2_velocity(evidence, gates.s2),
        s3_cliff(evidence, gates.s3),
        p1_success(evidence, gates.p1),
        p2_latency(evidence, gates.p2),
        p3_memory(evidence, gates.p3),
        p4_fidelity(evidence, gates.p4),
        p5_per_task(evidence, gates.p5),
        p6_failed_clamped(evidence, gates.p6),
    ]


def overall(results: Sequence[GateResult]) -> Verdict:
    """Any Fail fails; else anything undecided is Inconclusive; all nine passed is a Pass."""
    verdicts = {result.verdict for result in results}
    if "Fail" in verdicts:
        return "Fail"
    return "Pass" if verdicts == {"Pass"} and {r.name for r in results} == set(TITLES) else "Inconclusive"
