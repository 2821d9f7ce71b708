"""How a command ended, for ``--json``: one document of a versioned shape (docs/cli.md describes it).

Fields may be added to a version; none is taken away, renamed or given another meaning.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from flowstill.api.conditions import Condition, find_condition
from flowstill.api.fields import StatusModel, StatusRef
from flowstill.api.overrides import measured
from flowstill.api.studentrollout import ArmResult, GateResult, Verdict
from flowstill.artifacts.uris import Locations
from flowstill.errors import UserError
from flowstill_operator.children import Document
from flowstill_operator.command.display import report_path
from flowstill_operator.command.exits import NAMES, USAGE

SCHEMA_VERSION: Literal[1] = 1
VERDICTS: Mapping[str, Verdict] = {"Completed": "Pass", "Rejected": "Fail", "Inconclusive": "Inconclusive"}
"""Of the ends of a StudentRollout that are verdicts; every other one says nothing about the student."""


class Problem(StatusModel):
    """Why a command did nothing, or could not go on.

    Attributes:
        field: the flag or the field that it is about.
        message: what is wrong, and what to do.
    """

    reason: str
    field: str | None = None
    message: str


class ParityOutcome(StatusModel):
    """Is the exported graph the trained student? ``threshold`` is null where the status does not hold it."""

    holds: bool
    difference: float | None = None
    threshold: float | None = None


class Ending(StatusModel):
    """One resource as it ended.

    Attributes:
        kind: DistillJob or StudentRollout.
        reason: of the condition that says how it ended.
        verdict: about the student; null where there is none.
        report: path of report.html.
        logs: path of each child's newest log, by the child's role.
    """

    kind: str
    name: str
    phase: str
    reason: str | None = None
    message: str | None = None
    verdict: Verdict | None = None
    parity: ParityOutcome | None = None
    arms: list[ArmResult] = Field(default_factory=list)
    gates: list[GateResult] = Field(default_factory=list)
    student: StatusRef | None = None
    teacher: StatusRef | None = None
    baseline: StatusRef | None = None
    evidence: StatusRef | None = None
    report: str | None = None
    logs: dict[str, str] = Field(default_factory=dict)


class Applied(StatusModel):
    """Where a resource was handed to a cluster."""

    server: str
    namespace: str
    kind: str
    name: str


class Outcome(StatusModel):
    """The whole document.

    Attributes:
        outcome: the exit code in a word.
        error: why nothing, or not everything, was done.
        resources: that were run here to their end.
        output: the folder that the user asked for, when it was written.
        manifest: the file that keeps the resource, when one was written.
        document: of ``--dry-run``: the resource.
        applied: with ``--runtime kubernetes``: where the resource is now.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    command: str
    exit_code: Annotated[int, Field(ge=0, le=255)]
    outcome: str
    error: Problem | None = None
    resources: list[Ending] = Field(default_factory=list)
    output: str | None = None
    manifest: str | None = None
    document: dict[str, Any] | None = None
    applied: Applied | None = None


def conclude(options: argparse.Namespace, exit_code: int, **fields: Any) -> int:
    """Print the document when ``--json`` asks for it; the exit code."""
    if getattr(options, "json", False):
        print_outcome(options.command, exit_code, **fields)
    return exit_code


def refuse(command: str, error: UserError) -> None:
    """Print the document of a command that could not work."""
    print_outcome(command, USAGE, error=Problem(reason=error.reason, field=error.field, message=str(error)))


def print_outcome(command: str, exit_code: int, **fields: Any) -> None:
    """Print the document on standard output."""
    outcome = Outcome(command=command, exit_code=exit_code, outcome=NAMES[exit_code], **fields)
    text = json.dumps(outcome.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def ending(resource: Document, locations: Locations, logs: Mapping[str, Path]) -> Ending:
    """A resource of this machine as it ended."""
    status: dict[str, Any] = resource.get("status") or {}
    phase = status.get("phase", "Pending")
    conditions = [Condition.model_validate(item) for item in status.get("conditions") or []]
    report = report_path(status, locations)
    kept = ("message", "arms", "gates", "student", "teacher", "baseline", "evidence")
    return Ending.model_validate(
        {
            **{field: status[field] for field in kept if field in status},
            "kind": resource["kind"],
            "name": resource["metadata"]["name"],
            "phase": phase,
            "reason": _reason(conditions),
            "verdict": _verdict(phase, status) if resource["kind"] == "StudentRollout" else None,
            "parity": _parity(status, conditions),
            "report": str(report) if report is not None else None,
            "logs": {role: str(path) for role, path in logs.items()},
        }
    )


def _verdict(phase: str, status: Mapping[str, Any]) -> Verdict | None:
    """As it was measured: a rollout that completed by somebody's override did not pass."""
    if phase != "Completed":
        return VERDICTS.get(phase)
    return measured([GateResult.model_validate(gate) for gate in status.get("gates") or []])


def _reason(conditions: list[Condition]) -> str | None:
    """Of the end: that it failed, else how it completed."""
    for kind in ("Failed", "Superseded", "Completed", "Complete"):
        found = find_condition(conditions, kind)
        if found is not None and (kind not in ("Failed", "Superseded") or found.status == "True"):
            return found.reason
    return None


def _parity(status: Mapping[str, Any], conditions: list[Condition]) -> ParityOutcome | None:
    """A DistillJob says it by one condition, a StudentRollout by another."""
    for kind in ("ParityVerified", "Validated"):
        found = find_condition(conditions, kind)
        if found is not None and found.reason in ("ParityHolds", "ParityPassed", "ParityFailed"):
            return ParityOutcome(holds=found.status == "True", difference=status.get("parityDifference"))
    return None
