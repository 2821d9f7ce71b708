"""What plans are made of: wishes for children, what a child means for its parent, a draft of a status."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, Self

from flowstill.api.children import AnyTask, Result
from flowstill.api.conditions import Condition, Truth, find_condition, set_condition
from flowstill_operator.children import WAITING_FOR_QUOTA, Child

Role = Literal["train", "parity", "rollouts", "judge"]
READING = "ReadingResult"
INCOMPLETE = "ResultIncomplete"
INCOMPLETE_TEXT = "the {role} child succeeded without {what}; a verdict without evidence is not a pass"
WAITING_TEXT = {"queued": "waiting to be started", "running": ""}

NEWS = ("Suspended", "Admitted")
"""Conditions that are good news neither way, nor bad."""
BAD_NEWS = ("Failed", "Drifted")
"""Conditions that are better not True."""
OVERRIDDEN = "GatesOverridden"
NO_DATA = "NoData"
WARNED = frozenset({OVERRIDDEN, NO_DATA})
"""Reasons that are warnings though their condition is as it should be."""

RUNNING_LOOK_SECONDS = 30.0
"""How often a running child's progress is written at most."""
WAITING_LOOK_SECONDS = 60.0
"""How often a resource that waits is looked at without an event."""
QUOTA_LOOK_SECONDS = 600.0
"""The same, while it waits for quota: thousands may, for days."""


@dataclass(frozen=True)
class Wanted:
    """A child that should exist. A reader only prints the result that the child of that role left behind.

    ``attempt``: from 1, of a child that the operator and not its Job tries again; else 0. ``round``: from 1, of a child
    that there is once for each round of episodes. ``shards``: pods that share its work.
    """

    role: Role
    task: AnyTask
    image: str
    reader: bool = False
    attempt: int = 0
    round: int = 1
    shards: int = 1


@dataclass(frozen=True)
class TargetChange:
    """One conditional write to a Deployment; ``value`` None takes our entry away."""

    deployment: str
    container: str
    env: str
    value: str | None
    annotations: tuple[tuple[str, str], ...]
    uid: str
    resource_version: str


@dataclass(frozen=True)
class ChildJob:
    """A Job of this resource, as far as stopping it needs.

    Attributes:
        finished: it ended, either way.
        ending: it is being deleted, and is there until its pods are gone.
    """

    name: str
    uid: str
    role: str
    finished: bool = False
    ending: bool = False


@dataclass(frozen=True)
class Note:
    """A Kubernetes event about a resource."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Problem:
    """Why a spec cannot work."""

    reason: str
    message: str


@dataclass(frozen=True)
class Plan[S]:
    """What should be done now, in this order: children are made and deleted, the target, the status, then events."""

    status: S
    create: tuple[Wanted, ...] = ()
    target: TargetChange | None = None
    requeue_after: float | None = None
    events: tuple[Note, ...] = ()
    delete: tuple[ChildJob, ...] = ()


@dataclass(frozen=True)
class Move:
    """What one stage of a plan wants before the next stage may begin."""

    create: tuple[Wanted, ...] = ()
    target: TargetChange | None = None
    requeue_after: float | None = WAITING_LOOK_SECONDS
    delete: tuple[ChildJob, ...] = ()


STOP = Move(requeue_after=None)


@dataclass(frozen=True)
class Step:
    """What one child, with its reader, means for its parent."""

    state: Literal["start", "read", "queued", "running", "done", "failed"]
    result: Result | None = None
    reason: str = ""
    message: str = ""


def judge_step(kind: str, started: bool, reading: bool, child: Child, reader: Child) -> Step:
    """Decide what to do about the child that should end with a Result of ``kind``.

    A child that was started once and is gone is not started again: its result is read from its folder.
    """
    if not child.ours or not reader.ours:
        return Step(
            "failed",
            reason="NameTaken",
            message="a Job of the child's name exists and belongs to somebody else",
        )
    if child.state == "Missing" and not started:
        return Step("start")
    if child.state in ("Queued", "Running"):
        state: Literal["queued", "running"] = "queued" if child.state == "Queued" else "running"
        return Step(state, reason=child.reason or child.state, message=child.message or WAITING_TEXT[state])
    result = child.result if child.result is not None and child.result.kind == kind else None
    if child.state == "Failed" and not child.speechless:
        return _failed(child, result)
    if child.state == "Succeeded" and result is not None:
        return _ended(result)
    return _read(kind, reading, child, reader)


def _failed(child: Child, result: Result | None) -> Step:
    if result is not None and result.outcome in ("UserError", "Error"):
        return Step("failed", reason=result.reason, message=result.message or child.message)
    return Step(
        "failed",
        reason=child.reason or "ChildFailed",
        message=child.message or "the child failed without a message",
    )


def _ended(result: Result) -> Step:
    if result.outcome == "Succeeded":
        return Step("done", result=result)
    return Step("failed", reason=result.reason, message=result.message or f"the child ended with {result.outcome}")


def _read(kind: str, reading: bool, child: Child, reader: Child) -> Step:
    gone = child.state == "Missing"
    if reader.state == "Missing" and not reading:
        return Step("read", reason=READING, message="the Job is gone" if gone else "its pod left no readable message")
    if reader.state in ("Queued", "Running"):
        return Step("queued", reason=READING, message="reading the result from the work folder")
    result = reader.result if reader.result is not None and reader.result.kind == kind else None
    if child.speechless and (result is None or result.outcome != "UserError"):
        return _failed(child, None)
    if result is not None and result.outcome in ("Succeeded", "UserError"):
        return _ended(result)
    if gone:
        message = "the child Job was deleted before its result was seen, and its work folder holds none"
        return Step("failed", reason="ChildMissing", message=f"{message}; create a resource with a new name")
    message = "the child succeeded, but neither its termination message nor its result.json could be read"
    return Step("failed", reason="ResultUnreadable", message=f"{message}: {reader.message or 'no result'}")


def look_after(step: Step) -> float:
    """When to look again at a child that waits or runs (s)."""
    if step.reason == WAITING_FOR_QUOTA:
        return QUOTA_LOOK_SECONDS
    return RUNNING_LOOK_SECONDS if step.state == "running" else WAITING_LOOK_SECONDS


class HasConditions(Protocol):
    """A status with conditions."""

    @property
    def conditions(self) -> list[Condition]:
        """All of them."""

    def model_copy(self, *, update: dict[str, Any] | None = None, deep: bool = False) -> Self:
        """The same with other values."""


class Draft[S: HasConditions]:
    """A status being written, for the length of one plan."""

    def __init__(self, status: S, generation: int, now: datetime) -> None:
        self.before = status
        self.generation = generation
        self.now = now
        self.status: S = status.model_copy(update={"observed_generation": generation})
        self.notes: list[Note] = []

    def set(self, **fields: object) -> None:
        """Set fields of the status."""
        self.status = self.status.model_copy(update=fields)

    def condition(self, kind: str, truth: Truth, reason: str, message: str = "") -> None:
        """Set one condition."""
        conditions = set_condition(
            self.status.conditions,
            kind,
            truth,
            reason,
            message,
            generation=self.generation,
            now=timestamp(self.now),
        )
        self.set(conditions=conditions)

    def find(self, kind: str) -> Condition | None:
        """The condition as it is now."""
        return find_condition(self.status.conditions, kind)

    def is_true(self, kind: str) -> bool:
        """Whether that condition is True now."""
        found = self.find(kind)
        return found is not None and found.status == "True"

    def plan(self, move: Move) -> Plan[S]:
        """The finished plan, with an event for every condition that changed."""
        notes = (*self.notes, *transitions(self.before.conditions, self.status.conditions))
        return Plan(self.status, move.create, move.target, move.requeue_after, notes, move.delete)


def started(conditions: list[Condition], kind: str, waiting: Iterable[str]) -> bool:
    """Whether the child behind that condition was started; ``waiting`` are the reasons from before."""
    found = find_condition(conditions, kind)
    return found is not None and found.reason not in set(waiting)


def transitions(before: list[Condition], after: list[Condition]) -> Iterable[Note]:
    """An event for each condition whose status or reason is new; what failed is a warning."""
    for condition in after:
        old = find_condition(before, condition.type)
        if old is not None and (old.status, old.reason) == (condition.status, condition.reason):
            continue
        unwanted = condition.status == ("True" if condition.type in BAD_NEWS else "False")
        bad = (unwanted and condition.type not in NEWS) or condition.reason in WARNED
        text = f"{condition.type}: {condition.message}" if condition.message else condition.type
        yield Note("Warning" if bad else "Normal", condition.reason, text)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime:
    """The moment of an RFC 3339 text."""
    return datetime.fromisoformat(text)


def condition_reason(reason: str) -> str:
    """A reason that the API accepts: CamelCase letters and digits, at most 64."""
    letters = "".join(c for c in reason if c.isascii() and c.isalnum())[:64]
    return letters if letters[:1].isalpha() else f"Reason{letters}"[:64]


def refused(child: Child, message: str, reason: str) -> Child:
    """The child as the parent sees it when the API refused to create it."""
    return replace(child, state="Failed", ours=True, reason=reason, message=message)
