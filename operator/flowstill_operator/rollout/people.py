"""What people decide about a rollout: approval, abort and retry. Pure."""

from flowstill.api.actions import Request, find_request
from flowstill.api.studentrollout import StudentRolloutSpec
from flowstill_operator.actions import (
    ABORTED,
    ABORTED_TEXT,
    NOT_RETRIED_TEXT,
    RETRIED,
    RETRIED_TEXT,
    begin_again,
    record,
    stop,
    take_requests,
)
from flowstill_operator.rollout.observe import STEPS, TERMINAL, Observed
from flowstill_operator.rollout.outcome import StatusDraft, fail, passed, shortened
from flowstill_operator.steps import Move

RETRIABLE = frozenset({"Failed", "RolledBack"})
PROMOTING, MONITORED = "Promoting", "Monitored"
AT_ONCE = Move(requeue_after=0.0)
"""What was decided is written before anything follows from it."""

AWAITING = "AwaitingApproval"
AWAITING_TEXT = "{passed}; evidence {digest} waits for the approval of somebody who has seen it"
OTHER_EVIDENCE = "OtherEvidence"
OTHER_EVIDENCE_TEXT = "{by} approves {token}, and the evidence is {digest}"
UNSIGNED = "ApprovalUnsigned"
UNSIGNED_TEXT = 'the approval says neither who nor why: annotate flowstill.dev/approve="{digest} WHO: WHY"'
USED = "ApprovalUsed"
USED_TEXT = "the approval of {whose} was for the promotion before; approve this one with other words"
APPROVED = "Approved"
AUTOMATIC = "Automatic"
AUTOMATIC_TEXT = "spec.approval is Automatic"


def take_decisions(observed: Observed, draft: StatusDraft) -> Move | None:
    """Abort and retry; None when neither is asked for."""
    phase = observed.status.phase
    return take_requests(
        observed.requests,
        draft,
        phase,
        ended=phase in TERMINAL,
        abort=lambda request: _abort(observed, draft, request),
        retry=lambda request: _retry(observed, draft, request),
    )


def approval_stage(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft) -> Move | None:
    """Wait for an approval of this very evidence; None when one is in the status, or none is needed."""
    if draft.is_true("Approved") or _is_promoted(observed):
        return None
    if spec.approval == "Automatic":
        if draft.find("Approved") is None:
            return None
        draft.condition("Approved", "True", AUTOMATIC, AUTOMATIC_TEXT)
        return AT_ONCE
    evidence = draft.status.evidence
    if evidence is None:
        raise ValueError("a rollout whose gates passed has evidence")
    request = find_request(observed.requests, "approve")
    reason, text = _why_not(request, evidence.digest, draft)
    if request is not None and not reason:
        draft.condition("Approved", "True", APPROVED, request.whose)
        record(draft, request, digest=evidence.digest)
        return AT_ONCE
    draft.condition("Approved", "Unknown", reason, text)
    draft.set(phase="AwaitingApproval", message=text)
    return Move()


def _why_not(request: Request | None, digest: str, draft: StatusDraft) -> tuple[str, str]:
    """Reason and message of what is missing; empty when nothing is."""
    if request is None:
        return AWAITING, AWAITING_TEXT.format(digest=digest, passed=shortened(passed(draft)))
    if request.recorded_in(draft.status.actions):
        return USED, USED_TEXT.format(whose=request.whose)
    if request.token != digest:
        by, token = request.by or "somebody", request.token or "nothing"
        return OTHER_EVIDENCE, OTHER_EVIDENCE_TEXT.format(by=by, token=token, digest=digest)
    if not request.by or not request.reason:
        return UNSIGNED, UNSIGNED_TEXT.format(digest=digest)
    return "", ""


def _is_promoted(observed: Observed) -> bool:
    """Whether the target was written to, even when the status does not say so yet."""
    ours = observed.target is not None and observed.target.rollout == observed.owner.uid
    return ours or observed.status.promotion_time is not None


def _abort(observed: Observed, draft: StatusDraft, request: Request) -> Move:
    """Before the promotion it ends here; after it, the previous policy is put back."""
    if not _is_promoted(observed):
        return stop(draft, request, observed.jobs, STEPS, lambda reason, text: fail(draft, reason, text))
    text = ABORTED_TEXT.format(whose=request.whose)
    draft.condition("Promoted", "False", ABORTED, text)
    if draft.find(MONITORED) is not None:
        draft.condition(MONITORED, "False", ABORTED, text)
    draft.set(phase=PROMOTING, message=f"Putting the previous policy back: {text}"[:1024])
    record(draft, request)
    return AT_ONCE


def _retry(observed: Observed, draft: StatusDraft, request: Request) -> Move | str:
    """A verdict is not tried again: other evidence needs another rollout."""
    phase = observed.status.phase
    if phase not in RETRIABLE:
        return NOT_RETRIED_TEXT.format(phase=phase)
    move = begin_again(draft, request, observed.jobs, STEPS)
    if move is not None:
        return move
    text = RETRIED_TEXT.format(whose=request.whose)
    for kind, reason in (
        ("Completed", RETRIED),
        ("Approved", AWAITING),
        ("Promoted", PROMOTING),
        (MONITORED, PROMOTING),
    ):
        if draft.find(kind) is not None:
            draft.condition(kind, "Unknown", reason, text)
    draft.set(promotion_time=None, active_seconds=None, monitoring=None)
    return AT_ONCE
