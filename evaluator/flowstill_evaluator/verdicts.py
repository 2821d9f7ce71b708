"""One verdict for one question: what was judged and published before is not evaluated again."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

import flowstill
from flowstill.api.children import ParityTask, Result, RolloutTask
from flowstill.api.fields import Digest, StatusRef
from flowstill.api.studentrollout import ArmResult, CustomSuite
from flowstill.artifacts.digests import file_digest, json_digest
from flowstill.artifacts.manifest import PARITY_THRESHOLDS, EvidenceProperties, read_manifest
from flowstill.artifacts.stores import fetch, lookup_by_inputs, record_by_inputs
from flowstill.errors import ArtifactError
from flowstill_evaluator.arms import References
from flowstill_evaluator.decision import fitted_result

EVALUATOR_VERSION = "1"
"""Raise it when the same question would get another verdict."""
NOT_ASKED = {"shards"}
"""Options of an evaluation that change nothing of its records."""
_ARMS = TypeAdapter(list[ArmResult])


def describe_question(task: RolloutTask, references: References) -> dict[str, Any]:
    """Everything that decides a verdict: digests of what is compared, every option that matters, and who judges.

    Overrides belong to it: those that count end an evaluation sooner, and stand in its record.
    """
    evaluation = task.evaluation.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=NOT_ASKED)
    if task.evaluation.evidence is not None:
        evaluation["evidence"] = task.evaluation.evidence.digest
    return {
        "kind": "Verdict",
        "student": references.student.digest,
        "teacher": references.teacher.digest,
        "baseline": references.baseline.digest,
        "parity": task.parity.model_dump(mode="json", by_alias=True, exclude_none=True),
        "evaluation": evaluation,
        "gates": task.gates.model_dump(mode="json", by_alias=True),
        "overrides": [override.model_dump(mode="json", by_alias=True) for override in task.overrides],
        "suite": _code_digest(task.evaluation.custom) if task.evaluation.custom is not None else None,
        "evaluator": [EVALUATOR_VERSION, flowstill.__version__],
        "image": task.image,
    }


def _code_digest(suite: CustomSuite) -> Digest | None:
    """Of every file of the package that the entry point is in: its author may change it between two evaluations.

    It is looked for and not imported, as it may bring anything. None: it is not there, which parity says.
    """
    found = find_spec(suite.entry_point.partition(":")[0].partition(".")[0])
    if found is None:
        return None
    if found.submodule_search_locations is None:
        return file_digest(Path(found.origin)) if found.origin is not None else None
    roots = [Path(folder) for folder in found.submodule_search_locations]
    files = [(root, path) for root in roots for path in sorted(root.rglob("*")) if path.is_file()]
    return json_digest(
        [[str(path.relative_to(root)), file_digest(path)] for root, path in files if "__pycache__" not in path.parts]
    )


def question(task: RolloutTask, references: References) -> Digest:
    """The key of the verdict."""
    return json_digest(describe_question(task, references))


def record_verdict(task: RolloutTask, references: References, evidence: StatusRef) -> None:
    """Remember where the evidence of this verdict lies. The first one stays, as long as it is there and whole."""
    key = question(task, references)
    try:
        known = lookup_by_inputs(key)
    except ArtifactError:
        known = None
    if known is None:
        record_by_inputs(key, evidence)


def published_verdict(task: ParityTask, references: References) -> Result | None:
    """The verdict that was published for the same question, as the result of parity; None when there is none.

    Raises:
        ArtifactError: what is recorded is no evidence of this question, or cannot be read.
        DigestMismatch: its bytes are not what was published.
    """
    evidence = lookup_by_inputs(question(task, references))
    if evidence is None:
        return None
    folder = fetch(evidence, "evidence")
    properties = read_manifest(folder).properties
    try:
        decision = json.loads((folder / "decision.json").read_text(encoding="utf-8"))
        arms, difference = _ARMS.validate_python(decision["arms"]), float(decision["parityDifference"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ArtifactError(f"{evidence.uri} holds no decision that this version reads; remove it: {error}") from error
    if (
        not isinstance(properties, EvidenceProperties)
        or properties.verdict is None
        or not _is_about(properties, references)
    ):
        raise ArtifactError(f"{evidence.uri} is recorded as the verdict about this student, and is not; remove it")
    return fitted_result(
        Result(
            kind="Parity",
            outcome="Succeeded",
            reason="Reused",
            reused=True,
            message=f"judged before as {decision.get('resource', 'another resource')}"[:512],
            difference=difference,
            threshold=task.parity.threshold or PARITY_THRESHOLDS[references.properties.precision],
            student=references.student,
            teacher=references.teacher,
            baseline=references.baseline,
            rollouts=properties.rollouts,
            verdict=properties.verdict,
            gates=[gate.model_copy(update={"override": None}) for gate in properties.gates],
            arms=arms,
            evidence=evidence,
        )
    )


def _is_about(properties: EvidenceProperties, references: References) -> bool:
    pairs = (
        (properties.student, references.student),
        (properties.teacher, references.teacher),
        (properties.baseline, references.baseline),
    )
    return all(theirs.digest == ours.digest for theirs, ours in pairs)
