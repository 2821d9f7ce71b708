"""What the judge says in few bytes: ``decision.json`` and the termination message.

Room is made in the sentences first, those of gates that passed before the others; numbers are never cut.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from flowstill.api.children import MAX_RESULT_BYTES, Result
from flowstill.api.studentrollout import GateResult
from flowstill_evaluator.gates.base import shortened
from flowstill_evaluator.report.subject import Artifact, Subject
from flowstill_evaluator.report.summary import Summary, arm_results

MAX_DECISION_BYTES = 4096
SCHEMA_VERSION = 1
_LENGTHS = ((512, 512), (160, 320), (0, 240), (0, 160), (0, 90), (0, 40), (0, 0))
_MAX_URI = 160
_WHO, _WHY = 24, 24


def decision_json(subject: Subject, summary: Summary, suite: str, tasks: int, pairs: int) -> str:
    """The decision as JSON of at most 4 KB."""

    def build(gates: Sequence[GateResult]) -> str:
        return _compact(
            {
                "schemaVersion": SCHEMA_VERSION,
                "verdict": summary.verdict,
                "message": shortened(summary.sentence, 256),
                "resource": shortened(subject.resource, 256),
                "student": _reference(subject.student),
                "teacher": _reference(subject.teacher),
                "baseline": _reference(subject.baseline),
                "rollouts": _reference(subject.rollouts),
                "suite": suite,
                "tasks": tasks,
                "pairedEpisodes": pairs,
                "parityDifference": subject.parity_difference,
                "gates": [gate.model_dump(by_alias=True, exclude_none=True) for gate in gates],
                "arms": [arm.model_dump(by_alias=True) for arm in arm_results(summary.arms)],
                "evaluatorVersion": subject.evaluator_version,
            }
        )

    return _fitting(summary.gates, build, MAX_DECISION_BYTES)


def fitted_result(result: Result) -> Result:
    """The same result, its gates' sentences shortened until it fits into a termination message."""

    def build(gates: Sequence[GateResult]) -> str:
        return result.model_copy(update={"gates": list(gates)}).model_dump_json(by_alias=True)

    return Result.model_validate_json(_fitting(result.gates, build, MAX_RESULT_BYTES))


def _fitting(gates: Sequence[GateResult], build: Callable[[Sequence[GateResult]], str], limit: int) -> str:
    text = ""
    for passed, others in _LENGTHS:
        cut = [_cut(gate, _length(gate, passed, others), others) for gate in gates]
        text = build(cut)
        if len(text.encode()) <= limit:
            return text
    raise ValueError(f"{len(text.encode())} bytes without any sentence, {limit} is the limit: URIs are too long")


def _cut(gate: GateResult, sentence: int, reason: int) -> GateResult:
    """A gate with less of its sentence; of an override something always stays of who and why."""
    changes: dict[str, Any] = {"message": shortened(gate.message, sentence)}
    if gate.override is not None:
        by, why = shortened(gate.override.by, max(reason, _WHO)), shortened(gate.override.reason, max(reason, _WHY))
        changes["override"] = gate.override.model_copy(update={"by": by, "reason": why})
    return gate.model_copy(update=changes)


def _length(gate: GateResult, passed: int, others: int) -> int:
    return passed if gate.verdict == "Pass" else others


def _reference(artifact: Artifact) -> dict[str, Any]:
    """A digest names the bytes; the address goes along when it is of bearable length."""
    uri = {"uri": artifact.uri} if len(artifact.uri) <= _MAX_URI else {}
    return {**uri, "digest": artifact.digest}


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
