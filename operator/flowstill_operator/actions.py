"""Abort and retry, as both kinds of resource take them. Pure.

Abort stops what runs; retry makes a resource that failed as if it had not begun what it failed at. Its Jobs are deleted
first, and it begins again when their pods are gone: two generations in one work folder would spoil its checkpoints.
Whoever is killed between any two effects finds the request unrecorded, and does the rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from flowstill.api.actions import Action, Request, find_request, with_action
from flowstill_operator.children import Document, is_finished, owned_by
from flowstill_operator.clusters.interface import Reads
from flowstill_operator.jobs import ROLE_LABEL, Owner, owner_labels
from flowstill_operator.steps import STOP, ChildJob, Draft, HasConditions, Move, Note, timestamp

ABORTED = "Aborted"
ABORTED_TEXT = "aborted by {whose}"
RETRIED = "Retried"
RETRIED_TEXT = "tried again by {whose}"
REFUSED = "ActionRefused"
REFUSED_TEXT = "{action} of {whose} was not carried out: {why}"
ENDED_TEXT = "it has ended: {phase}"
NOT_RETRIED_TEXT = "it is {phase}; what can be tried again has failed"
Steps = Sequence[tuple[str, str]]
"""The role of each child, and the condition that says how far it is."""
ENDING_LOOK_SECONDS = 5.0
"""How often a resource that waits for the end of its pods is looked at without an event."""


class HasActions(HasConditions, Protocol):
    """A status that remembers what people asked for."""

    @property
    def actions(self) -> list[Action]:
        """All of them."""


def pending(requests: Sequence[Request], actions: Sequence[Action], *, ended: bool) -> Request | None:
    """The request that may have to be acted on: abort of what runs, retry of what has ended."""
    request = find_request(requests, "retry" if ended else "abort")
    return None if request is None or request.recorded_in(actions) else request


async def find_children(cluster: Reads, owner: Owner) -> tuple[ChildJob, ...]:
    """All Jobs of this very resource."""
    jobs = await cluster.find_jobs(owner.namespace, owner_labels(owner))
    return tuple(child_job(job) for job in jobs if owned_by(job, owner.uid))


def child_job(job: Document) -> ChildJob:
    """That Job, as far as stopping it needs."""
    metadata = job["metadata"]
    role = metadata["labels"].get(ROLE_LABEL, "")
    return ChildJob(metadata["name"], metadata["uid"], role, is_finished(job), "deletionTimestamp" in metadata)


def take_requests[S: HasActions](
    requests: Sequence[Request],
    draft: Draft[S],
    phase: str,
    *,
    ended: bool,
    abort: Callable[[Request], Move],
    retry: Callable[[Request], Move | str],
) -> Move | None:
    """Act on what people ask for; None when nothing of it is new, or when the plan goes on all the same.

    ``retry``: its move, or why it is none.
    """
    before = draft.status.actions
    new = [request for request in requests if request.action != "approve" and not request.recorded_in(before)]
    for request in new:
        if request.action == "abort" and not ended:
            return abort(request)
        if request.action == "retry" and ended:
            move = retry(request)
            if isinstance(move, Move):
                return move
            refuse(draft, request, move)
        else:
            refuse(draft, request, (ENDED_TEXT if ended else NOT_RETRIED_TEXT).format(phase=phase))
    return STOP if new and ended else None


def record[S: HasActions](draft: Draft[S], request: Request, **facts: str) -> None:
    """Write down that it was acted on; from then on the same text does nothing."""
    action = Action(
        action=request.action,
        by=request.by,
        reason=request.reason,
        token=request.token or None,
        time=timestamp(draft.now),
        **facts,
    )
    draft.set(actions=with_action(draft.status.actions, action))


def refuse[S: HasActions](draft: Draft[S], request: Request, why: str) -> None:
    """Write down that it was not acted on, and say so."""
    record(draft, request, refused=why[:512])
    text = REFUSED_TEXT.format(action=request.action, whose=request.whose, why=why)
    draft.notes.append(Note("Warning", REFUSED, text[:1024]))


def stop[S: HasActions](
    draft: Draft[S], request: Request, jobs: Sequence[ChildJob], steps: Steps, fail: Callable[[str, str], Move]
) -> Move:
    """End the resource, and delete its Jobs that have not ended; their pods get SIGTERM and save what they can."""
    text = ABORTED_TEXT.format(whose=request.whose)
    undecided = [kind for _, kind in steps if not draft.is_true(kind)]
    current = next((kind for kind in undecided if draft.find(kind) is not None), None)
    if current is not None:
        draft.condition(current, "False", ABORTED, text)
    record(draft, request)
    unfinished = tuple(job for job in jobs if not job.finished and not job.ending)
    return replace(fail(ABORTED, text), delete=unfinished)


def begin_again[S: HasActions](
    draft: Draft[S], request: Request, jobs: Sequence[ChildJob], steps: Steps
) -> Move | None:
    """Back to before the first child whose decision is not in the status; None when it is there: go on from there.

    What was decided stays decided.
    """
    decided = {role for role, kind in steps if draft.is_true(kind)}
    text = RETRIED_TEXT.format(whose=request.whose)
    left = [job for job in jobs if job.role not in decided]
    if left:
        names = ", ".join(job.name for job in left)
        draft.set(message=f"{text}; waiting until the Jobs of before and their pods are gone: {names}"[:1024])
        return Move(requeue_after=ENDING_LOOK_SECONDS, delete=tuple(job for job in left if not job.ending))
    for _, kind in steps:
        if draft.find(kind) is not None and not draft.is_true(kind):
            draft.condition(kind, "Unknown", "Pending", text)
    draft.condition("Failed", "False", RETRIED, text)
    if not decided:
        # The image may be what was wrong; between children of one comparison it stays.
        draft.set(image=None)
    draft.set(phase="Pending", completion_time=None, message=text[:1024])
    record(draft, request)
    return None
