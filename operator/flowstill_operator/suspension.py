"""Suspend: a resource whose ``spec.suspend`` is true has no child at work. Pure.

Its Job is deleted, so that its pods get SIGTERM and a trainer saves a checkpoint. That it shall be deleted is written
into the status before it is, and is carried through even when ``suspend`` is taken back meanwhile: so a Job that is
missing then was suspended, and begins again, and any other that is missing never does. A child that has ended is not
touched: its result counts.
"""

from collections.abc import Callable
from dataclasses import dataclass

from flowstill_operator.children import Child
from flowstill_operator.steps import ChildJob, Draft, HasConditions, Move, Role, parse_timestamp

CONDITION = "Suspended"
PHASE = "Suspended"
AT_ONCE = 0.0

SUSPENDING = "Suspending"
SUSPENDING_TEXT = "its pods are told to end, and save a checkpoint first: up to {grace} s"
SUSPENDED = "Suspended"
SUSPENDED_TEXT = "spec.suspend is true; no child is at work"
PODS_LEFT_TEXT = "waiting until these pods have ended: {pods}"
RESUMED = "Resumed"
RESUMED_TEXT = "spec.suspend is false"
ENDED = "ChildEnded"
ENDED_TEXT = "its child had ended before it was suspended"

REASONS = (SUSPENDING, SUSPENDED)
"""Of a child's condition: when its Job is missing, it begins again once ``suspend`` is false."""
MAX_NAMED_PODS = 4


@dataclass(frozen=True)
class Suspendable:
    """The child that a resource is at.

    Attributes:
        asked: ``spec.suspend``.
        condition: that says how far the child is.
        begun: whether it is, by that condition.
        phase: of the resource while it is at this child.
        grace: how long its pods may take to end (s).
        pods_left: of its Jobs that were deleted.
        note_stopped: writes down what the Job leaves behind; called once before it is deleted.
        note_gone: called once when it is gone.
    """

    asked: bool
    role: Role
    condition: str
    begun: bool
    child: Child
    phase: str
    grace: int
    pods_left: tuple[str, ...] = ()
    note_stopped: Callable[[], None] = lambda: None
    note_gone: Callable[[], None] = lambda: None


def suspend[S: HasConditions](draft: Draft[S], it: Suspendable) -> Move | None:
    """What suspension wants before anything else may happen; None when the resource goes on."""
    found = draft.find(it.condition)
    stopping = found is not None and found.reason == SUSPENDING
    child = it.child
    if child.at_work and (stopping or it.asked):
        return _stop(draft, it, stopping=stopping)
    if child.state == "Missing" and stopping:
        return _gone(draft, it)
    if child.state == "Missing" and not it.begun and it.asked:
        return hold(draft)
    lift(draft, it.phase, asked=it.asked)
    return None


def hold[S: HasConditions](draft: Draft[S]) -> Move:
    """Nothing is begun while ``spec.suspend`` is true. A change of the spec is an event, so nobody looks before."""
    draft.condition(CONDITION, "True", SUSPENDED, SUSPENDED_TEXT)
    draft.set(phase=PHASE, message=SUSPENDED_TEXT)
    return Move(requeue_after=None)


def _stop[S: HasConditions](draft: Draft[S], it: Suspendable, *, stopping: bool) -> Move:
    text = SUSPENDING_TEXT.format(grace=it.grace)
    draft.condition(CONDITION, "Unknown", SUSPENDING, text)
    draft.condition(it.condition, "Unknown", SUSPENDING, text)
    draft.set(phase=it.phase, message=f"{it.role}: {text}")
    if not stopping:
        it.note_stopped()
        return Move(requeue_after=AT_ONCE)
    child = it.child
    return Move() if child.ending else Move(delete=(ChildJob(child.name, child.uid, it.role),))


def _gone[S: HasConditions](draft: Draft[S], it: Suspendable) -> Move:
    if it.pods_left:
        text = PODS_LEFT_TEXT.format(pods=listed(it.pods_left))
        draft.condition(it.condition, "Unknown", SUSPENDING, text)
        draft.set(message=f"{it.role}: {text}"[:1024])
        return Move()
    it.note_gone()
    draft.condition(it.condition, "Unknown", SUSPENDED, SUSPENDED_TEXT)
    if it.asked:
        return hold(draft)
    lift(draft, it.phase, asked=False)
    return Move(requeue_after=AT_ONCE)


def lift[S: HasConditions](draft: Draft[S], phase: str, *, asked: bool) -> None:
    """Say that the resource is not suspended any more, or was not before its child ended."""
    found = draft.find(CONDITION)
    if found is not None and found.status != "False":
        reason, text = (ENDED, ENDED_TEXT) if asked else (RESUMED, RESUMED_TEXT)
        draft.condition(CONDITION, "False", reason, text)
        draft.set(phase=phase, message=None)


def add_seconds[S: HasConditions](draft: Draft[S], before: int | None, child: Child) -> None:
    """Count the time for which that Job was not suspended into ``activeSeconds``, which are ``before`` so far."""
    if child.started is not None:
        seconds = max(0, int((draft.now - parse_timestamp(child.started)).total_seconds()))
        draft.set(active_seconds=(before or 0) + seconds)


def listed(pods: tuple[str, ...]) -> str:
    """The first of those names, and how many more there are."""
    more = f" and {len(pods) - MAX_NAMED_PODS} more" if len(pods) > MAX_NAMED_PODS else ""
    return f"{', '.join(pods[:MAX_NAMED_PODS])}{more}"
