"""The student on its target: put, awaited, watched, recorded; or the policy before it put back. Pure."""

from dataclasses import replace
from datetime import timedelta

from flowstill.api.fields import StatusRef
from flowstill.api.studentrollout import StudentRolloutSpec
from flowstill.api.studentrollout import Target as TargetSpec
from flowstill_operator.actions import ABORTED
from flowstill_operator.clusters.interface import FieldOwned
from flowstill_operator.rollout.drift import note_drift
from flowstill_operator.rollout.monitoring import BREACHED, monitoring_stage
from flowstill_operator.rollout.observe import Observed, waits_for
from flowstill_operator.rollout.outcome import StatusDraft, complete, fail, passed, supersede
from flowstill_operator.rollout.promote import Target, mark_completed, put, put_back, reference
from flowstill_operator.steps import STOP, WAITING_LOOK_SECONDS, Move, parse_timestamp, timestamp

AT_ONCE = 0.0
OWNED_FIX = (
    "No field is taken by force: take FLOWSTILL_POLICY out of what that manager applies, give the initial policy "
    "by envFrom, and create a rollout with a new name."
)
DEPLOYMENT_LOOK_SECONDS = 10.0
PROMOTING = "Promoting"
PROMOTING_TEXT = "The student is about to be put on the target."
WAITING_FOR_DEPLOYMENT = "WaitingForDeployment"
AVAILABLE = "Available"
NOT_AVAILABLE = "NotAvailable"
NOT_AVAILABLE_TEXT = "not available after {seconds} s: {availability}"
UNUSABLE = "TargetUnusable"
CHANGED = "TargetChanged"
CHANGED_TEXT = "the target serves {now}, not the student that was promoted"
NOT_PUT_BACK_TEXT = "{why}; nothing was put back: the target serves {now} by now"
ROLLED_BACK = "RolledBack"
TAKEN_BACK = (NOT_AVAILABLE, BREACHED, ABORTED)
"""Reasons of Promoted for which the policy before the student is put back."""
WAITING_FOR_SOAK = "WaitingForSoak"
WAITING_FOR_SOAK_TEXT = (
    "the policy that the target serves is still being watched, by rollout {uid}, until {until} at the latest; this "
    "student is promoted if that policy stays"
)


def soak_stage(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft) -> Move | None:
    """Let the policy before this student end its window: cut short each night, none would ever be proven."""
    target, uid = observed.target, waits_for(observed, draft.now)
    if uid is None or observed.unwatched or target is None or target.soaking_until is None:
        return None
    text = WAITING_FOR_SOAK_TEXT.format(uid=uid, until=target.watched_until)
    draft.condition("Promoted", "Unknown", WAITING_FOR_SOAK, text)
    draft.set(phase="Judging", message=text)
    left = (target.soaking_until - draft.now).total_seconds()
    return Move(requeue_after=min(WAITING_LOOK_SECONDS, left + 1))


def promotion_stage(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft) -> Move | None:
    """Serve the judged student; put the policy before it back when it does not become available, or breaches."""
    if spec.target is None:
        return None
    if observed.target is None:
        raise ValueError("a rollout with a target observes it")
    status, target, student = observed.status, observed.target, _student(draft)
    draft.set(phase="Promoting")
    if draft.is_true("Promoted"):
        watching = monitoring_stage(observed, spec, draft, target, reference(student))
        return _finish(observed, spec.target, draft, target) if watching is None else watching
    judged = any(c.type == "GatesPassed" and c.status == "True" for c in status.conditions)
    found = draft.find("Promoted")
    if not judged or found is None or found.reason == WAITING_FOR_SOAK:
        draft.condition("Promoted", "Unknown", PROMOTING, passed(draft))
        draft.set(roll_back_to=target.proven(reference(student)), message=PROMOTING_TEXT)
        return Move(requeue_after=AT_ONCE)
    if observed.target_refused is not None:
        reason, text = observed.target_refused.reason, observed.target_refused.message
        if reason == FieldOwned.reason:
            text = f"{text[:700]}. {OWNED_FIX}"
        draft.condition("Promoted", "False", reason, text)
        return fail(draft, reason, text)
    if target.problem is not None:
        draft.condition("Promoted", "False", UNUSABLE, target.problem)
        return fail(draft, UNUSABLE, target.problem)
    if found.reason in TAKEN_BACK:
        return _roll_back(observed, spec.target, draft, target)
    if target.rollout == observed.owner.uid:
        return _watch(spec.target, draft, target)
    return _promote(observed, spec, draft, target)


def _student(draft: StatusDraft) -> StatusRef:
    if draft.status.student is None:
        raise ValueError("a promotion has a student")
    return draft.status.student


def _promote(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft, target: Target) -> Move:
    student = _student(draft)
    if spec.target is None:
        raise ValueError("a promotion has a target")
    if draft.status.promotion_time is not None:
        text = CHANGED_TEXT.format(now=target.says)
        draft.condition("Promoted", "False", CHANGED, text)
        return supersede(draft, CHANGED, text)
    proven = target.proven(reference(student))
    if draft.status.roll_back_to != proven:
        # Written before the target is: afterwards nothing says what had completed its window.
        draft.set(roll_back_to=proven)
        return Move(requeue_after=AT_ONCE)
    draft.set(promotion_time=timestamp(draft.now), message="The student is being rolled out.")
    draft.condition("Promoted", "Unknown", WAITING_FOR_DEPLOYMENT, f"{reference(student)} is set")
    until = ""
    if spec.monitoring is not None:
        longest = spec.target.progress_deadline_seconds + spec.monitoring.window_seconds
        until = timestamp(draft.now + timedelta(seconds=longest))
    change = put(target, spec.target.deployment, student, observed.owner.uid, until)
    return Move(target=change, requeue_after=DEPLOYMENT_LOOK_SECONDS)


def _watch(wanted: TargetSpec, draft: StatusDraft, target: Target) -> Move:
    """Until the Deployment is available with the student, or its deadline is over."""
    if draft.status.promotion_time is None:
        draft.set(promotion_time=timestamp(draft.now))
    if target.served != reference(_student(draft)):
        text = CHANGED_TEXT.format(now=target.says)
        draft.condition("Promoted", "False", CHANGED, text)
        return supersede(draft, CHANGED, text)
    if target.available:
        draft.condition("Promoted", "True", AVAILABLE, target.availability)
        return Move(requeue_after=AT_ONCE)
    since = draft.now - parse_timestamp(draft.status.promotion_time or timestamp(draft.now))
    left = wanted.progress_deadline_seconds - since.total_seconds()
    if left > 0:
        draft.set(message=f"Waiting for the Deployment: {target.availability}")
        draft.condition("Promoted", "Unknown", WAITING_FOR_DEPLOYMENT, target.availability)
        return Move(requeue_after=min(DEPLOYMENT_LOOK_SECONDS, left + 1))
    text = NOT_AVAILABLE_TEXT.format(seconds=wanted.progress_deadline_seconds, availability=target.availability)
    draft.condition("Promoted", "False", NOT_AVAILABLE, text)
    draft.set(message=f"Putting the previous policy back: {text}")
    return Move(requeue_after=AT_ONCE)


def _finish(observed: Observed, wanted: TargetSpec, draft: StatusDraft, target: Target) -> Move:
    """The pass is written: record on the Deployment, while it serves the student, that this policy completed."""
    student = _student(draft)
    if observed.target_refused is not None:
        return complete(draft, f"the Deployment does not record it: {observed.target_refused.message}")
    if target.problem is not None or target.rollout != observed.owner.uid or target.served != reference(student):
        note_drift(observed, draft)
        return complete(draft, "the Deployment was changed since it became available")
    if target.last_completed == reference(student) and not target.watched_until:
        return complete(draft)
    change = mark_completed(target, wanted.deployment, student, target.previous, observed.owner.uid)
    return replace(complete(draft), target=change)


def _roll_back(observed: Observed, wanted: TargetSpec, draft: StatusDraft, target: Target) -> Move:
    """Put back what completed before, unless the target is somebody else's by now; without our mark it was done."""
    found = draft.find("Promoted")
    if found is None:
        raise ValueError("only a promotion is rolled back")
    why = found.message
    if target.rollout == observed.owner.uid and target.served == reference(_student(draft)):
        change = put_back(target, wanted.deployment, draft.status.roll_back_to or "")
        return Move(target=change, requeue_after=AT_ONCE)
    if target.rollout:
        text = NOT_PUT_BACK_TEXT.format(why=why, now=target.says)
        draft.condition("Promoted", "False", CHANGED, text)
        return supersede(draft, CHANGED, text)
    draft.condition("Promoted", "False", ROLLED_BACK, why)
    draft.condition("Completed", "False", ROLLED_BACK, why)
    draft.set(
        phase="RolledBack",
        completion_time=timestamp(draft.now),
        message=f"{draft.status.roll_back_to or 'The initial policy'} was put back: {why}"[:1024],
    )
    return STOP
