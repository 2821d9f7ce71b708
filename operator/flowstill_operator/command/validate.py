"""``flowstill validate``: is the exported graph the trained student, and is the student near its teacher?

One child of the evaluator answers on recorded frames. It needs no simulator, and no resource remembers it.
"""

import argparse
import asyncio
import os
import uuid
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from flowstill.api.children import DatasetParityTask, Result
from flowstill.api.distilljob import Dataset
from flowstill.api.fields import ArtifactRef, Source, StatusRef
from flowstill.api.studentrollout import Parity, Verdict
from flowstill.artifacts.manifest import PARITY_THRESHOLDS
from flowstill.artifacts.stores import fetch
from flowstill.artifacts.uris import Locations
from flowstill.errors import ArtifactError, UserError
from flowstill_operator.children import Child, Document
from flowstill_operator.clusters.processes import NAMESPACE
from flowstill_operator.command.display import Display, summarise
from flowstill_operator.command.exits import INTERRUPTED, exit_code
from flowstill_operator.command.flags import Flag, Flags, renamed, resource_name
from flowstill_operator.command.outcome import Ending, ParityOutcome, conclude
from flowstill_operator.command.policies import by_flag, located, pinned, pinned_student, properties
from flowstill_operator.command.shared import (
    THRESHOLDS,
    Subparsers,
    add_json,
    add_state,
    add_store,
    check_writable,
    say,
    store_uri,
    subcommand,
)
from flowstill_operator.command.single import Answer, ask
from flowstill_operator.jobs import Owner, work_uri
from flowstill_operator.parity import PARITY_FAILED
from flowstill_operator.platform import Platform, local_platform
from flowstill_operator.steps import Wanted

KIND = "Validation"
COMMAND = ["flowstill-evaluate", "parity"]
PHASES: dict[Verdict, str] = {"Pass": "Completed", "Fail": "Rejected", "Inconclusive": "Inconclusive"}
FLAGS = Flags(
    Parity,
    (
        Flag(
            "--threshold",
            "threshold",
            "largest difference of a normalised action between the ONNX graph and the same student in PyTorch, not to "
            f"its teacher, from which one step always differs (default: {THRESHOLDS})",
        ),
        Flag("--samples", "samples", "frames that are compared"),
    ),
)


def add_parser(commands: Subparsers) -> None:
    """Its flags."""
    command = subcommand(commands, "validate", run, help="compare a student's graph with PyTorch, and with its teacher")
    add_store(command)
    add_state(command)
    add_json(command)
    command.add_argument("student", metavar="STUDENT", help="a student's folder, or its URI")
    command.add_argument(
        "--reference",
        metavar="TEACHER",
        help="also ask whether the student's chunks are as near to this teacher's as gate P4 wants "
        "(docs/gates.md); default: do not",
    )
    FLAGS.add_to(command)
    command.add_argument("--dataset", help="whose frames are seen (default: the one in the student's manifest)")
    command.add_argument(
        "--rename-map", action="append", metavar="OLD=NEW", help="the dataset's name of a camera, and the policy's"
    )
    command.add_argument("--name", help="for the log's folder (default: made from the student's folder)")


def run(options: argparse.Namespace, console: Console) -> int:
    """Ask the child, and say what came of it."""
    store = store_uri(options.store)
    os.environ["FLOWSTILL_STORE"] = store
    check_writable(store)
    platform = local_platform(store)
    name = resource_name(options.name, options.student.partition("@sha256:")[0])
    owner = Owner(KIND, NAMESPACE, name, str(uuid.uuid4()))
    task = _task(options, owner, platform)
    wanted = Wanted("parity", task, platform.evaluator_image)
    answer = asyncio.run(ask(owner, wanted, COMMAND, options.state.absolute(), platform, Display(console)))
    if answer.child is None:
        say(console, "\nStopped; the same command starts again.")
        return conclude(options, INTERRUPTED)
    ended = _ending(name, task, answer.child, answer)
    summarise(console, [_document(ended)], Locations(store, Path("/")), [answer.logs])
    return conclude(options, exit_code([ended.phase]), resources=[ended])


def _task(options: argparse.Namespace, owner: Owner, platform: Platform) -> DatasetParityTask:
    student = ArtifactRef.model_validate(pinned_student(options.student, "STUDENT", platform))
    made = properties(student.uri, "STUDENT")
    parity = FLAGS.read(options, {})
    if parity.threshold is None:
        parity = parity.model_copy(update={"threshold": PARITY_THRESHOLDS[made.precision]})
    reference = None
    if options.reference is not None:
        reference = Source.model_validate(pinned(options.reference, "--reference", platform))
    return DatasetParityTask(
        resource=f"{owner.namespace}/{owner.name}",
        uid=owner.uid,
        work=work_uri(owner, "parity"),
        student=student,
        dataset=_dataset(options, made.dataset, platform),
        reference=reference,
        parity=parity,
    )


def _dataset(options: argparse.Namespace, recorded: StatusRef, platform: Platform) -> Dataset:
    """The frames' dataset, which must be there.

    Raises:
        UserError: it is not.
    """
    if options.dataset is not None:
        uri, digest = located(options.dataset, "--dataset", platform)
    else:
        uri, digest = recorded.uri, recorded.digest
    try:
        fetch(Source(uri=uri, digest=digest), "--dataset")
    except ArtifactError as error:
        if options.dataset is not None:
            raise UserError(by_flag(str(error), "--dataset"), field="--dataset") from error
        raise UserError(
            f"the data of the student's distillation cannot be read here ({uri}@{digest}): give --dataset DATASET, "
            "with the same features",
            field="--dataset",
        ) from error
    try:
        return Dataset(uri=uri, digest=digest, rename_map=dict(renamed(options)))
    except ValidationError as error:
        raise UserError(error.errors()[0]["msg"], field="--rename-map") from error


def _ending(name: str, task: DatasetParityTask, child: Child, answer: Answer) -> Ending:
    """The child's end as that of a resource."""
    result = child.result
    reason, message = child.reason or "ChildFailed", child.message or "the child ended without a readable result"
    if result is not None and (child.state == "Succeeded" or result.outcome in ("UserError", "Error")):
        reason, message = _said(result)
    verdict = _verdict(child, result)
    return Ending(
        kind=KIND,
        name=name,
        phase="Failed" if verdict is None else PHASES[verdict],
        reason=reason,
        message=message,
        verdict=verdict,
        parity=_parity(task, child, result),
        gates=result.gates if result is not None else [],
        student=StatusRef(uri=task.student.uri, digest=task.student.digest),
        teacher=result.teacher if result is not None else None,
        logs={role: str(path) for role, path in answer.logs.items()},
    )


def _said(result: Result) -> tuple[str, str]:
    """Reason and message, of both answers where two were asked for."""
    if not result.gates:
        return result.reason, result.message
    gate = result.gates[0]
    reason = {"Pass": "NearTeacher", "Fail": "FarFromTeacher", "Inconclusive": "Inconclusive"}[gate.verdict]
    return reason, f"{result.message}; {gate.name} on these frames: {gate.verdict}"


def _verdict(child: Child, result: Result | None) -> Verdict | None:
    """Parity's, and that of P4 where it was asked for; None: nothing can be said about the student."""
    if result is None or result.kind != "Parity":
        return None
    if result.reason == PARITY_FAILED:
        return "Fail"
    if child.state != "Succeeded" or result.outcome != "Succeeded" or result.difference is None:
        return None
    return result.gates[0].verdict if result.gates else "Pass"


def _parity(task: DatasetParityTask, child: Child, result: Result | None) -> ParityOutcome | None:
    if result is None:
        return None
    holds = child.state == "Succeeded" and result.difference is not None
    if not holds and result.reason != PARITY_FAILED:
        return None
    return ParityOutcome(holds=holds, difference=result.difference, threshold=task.parity.threshold)


def _document(ended: Ending) -> Document:
    """In the shape that is shown as every other."""
    status = ended.model_dump(mode="json", by_alias=True, include={"phase", "message", "student", "gates"})
    return {"kind": ended.kind, "metadata": {"name": ended.name}, "status": status}
