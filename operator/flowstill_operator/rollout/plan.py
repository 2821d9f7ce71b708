"""What a StudentRollout needs next. Pure: the same observation gives the same plan.

Stages run in order; the first that is not done says what is to do. Each child's decision is in the
status before the target is touched, so the operator may be killed between any two effects.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from flowstill.api.fields import ArtifactRef, StatusRef
from flowstill.api.studentrollout import StudentRolloutSpec, StudentRolloutStatus
from flowstill_operator.actions import ABORTED
from flowstill_operator.cleanup import clean_up
from flowstill_operator.clusters.interface import FieldOwned
from flowstill_operator.rollout.evidence import evaluation_stage, judge_stage, parity_stage
from flowstill_operator.rollout.observe import TERMINAL, Observed
from flowstill_operator.rollout.outcome import StatusDraft, complete, fail, passed, supersede
from flowstill_operator.rollout.overrides import by_expiry, override_stage
from flowstill_operator.rollout.people import approval_stage, take_decisions
from flowstill_operator.rollout.promote import Target, mark_completed, parse_reference, put, put_back, reference
from flowstill_operator.rollout.suspended import hold_promotion, suspended
from flowstill_operator.steps import (
    STOP,
    Draft,
    Move,
    Plan,
    Problem,
    Wanted,
    parse_timestamp,
    refused,
    timestamp,
)

AT_ONCE = 0.0
OWNED_FIX = (
    "No field is taken by force: take FLOWSTILL_POLICY out of what that manager applies, give the initial policy "
    "by envFrom, and create a rollout with a new name."
)
DEPLOYMENT_LOOK_SECONDS = 10.0


def plan(observed: Observed, now: datetime) -> Plan[StudentRolloutStatus]:
    """The child that should exist, the change of the target, the status to write, and when to look again."""
    draft = Draft(observed.status, observed.generation, now)
    decided = take_decisions(observed, draft)
    if decided is not None:
        return draft.plan(decided)
    if observed.status.phase in TERMINAL:
        # What may be changed after the end was seen, or whoever waits for that generation waits for ever.
        seen = observed.status.model_copy(update={"observed_generation": observed.generation})
        runtime = None if observed.spec is None else observed.spec.runtime
        return clean_up(seen, runtime, observed.jobs, now)
    if observed.problem is not None or observed.spec is None:
        problem = observed.problem or Problem("InvalidSpec", "the spec cannot be read")
        draft.condition("Validated", "False", problem.reason, problem.message)
        return draft.plan(fail(draft, problem.reason, problem.message))
    held = suspended(observed, observed.spec, draft)
    if held is not None:
        return draft.plan(held)
    stages: tuple[Callable[[Observed, StudentRolloutSpec, StatusDraft], Move | None], ...] = (
        _student_stage,
        _baseline_stage,
        parity_stage,
        evaluation_stage,
        judge_stage,
        override_stage,
        hold_promotion,
        approval_stage,
        _promotion_stage,
    )
    for stage in stages:
        move = stage(observed, observed.spec, draft)
        if move is not None:
            return draft.plan(by_expiry(draft, move))
    return draft.plan(complete(draft))


def child_refused(observed: Observed, wanted: Wanted, reason: str, message: str) -> Observed:
    """The observation after the API refused that child."""
    role = wanted.role
    if wanted.reader:
        return replace(observed, readers={**observed.readers, role: refused(observed.reader(role), message, reason)})
    return replace(observed, children={**observed.children, role: refused(observed.child(role), message, reason)})


def target_refused(observed: Observed, reason: str, message: str) -> Observed:
    """The observation after the API refused the change of the target."""
    return replace(observed, target_refused=Problem(reason, message))


def _student_stage(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft) -> Move | None:
    """Pin the student; wait for the DistillJob that makes it."""
    if draft.status.student is not None:
        return None
    source = spec.student
    if source.uri is not None and source.digest is not None:
        draft.set(student=StatusRef(uri=source.uri, digest=source.digest))
        return None
    name, distilled = source.distill_job, observed.distilled
    if distilled.phase == "Failed":
        message = f"DistillJob {name} failed: {distilled.message}"
        draft.condition("Validated", "False", "DistillJobFailed", message)
        return fail(draft, "DistillJobFailed", message)
    if distilled.student is not None and distilled.phase == "Succeeded":
        draft.set(student=distilled.student)
        return None
    state = f"is {distilled.phase}" if distilled.exists else "does not exist yet"
    message = f"DistillJob {name} {state}"
    draft.condition("Validated", "Unknown", "WaitingForDistillJob", message)
    draft.set(phase="Pending", message=message)
    return Move()


def _baseline_stage(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft) -> Move | None:
    """Pin what the student is compared with, and remember what the target serves."""
    if draft.status.start_time is not None:
        return None
    given = spec.baseline
    if observed.target is not None:
        if observed.target.problem is not None:
            text = f"{observed.target.problem}; this rollout waits for it, without a deadline"
            draft.condition("Validated", "Unknown", "WaitingForTarget", text)
            draft.set(phase="Pending", message=text)
            return Move()
        served = parse_reference(observed.target.served)
        if observed.target.served and served is None:
            message = (
                f"the target serves {observed.target.served}, which is not URI@sha256:DIGEST, "
                "so it is no baseline; pin it, or give the initial policy by envFrom instead of env"
            )
            draft.condition("Validated", "False", "BaselineUnpinned", message)
            return fail(draft, "BaselineUnpinned", message)
        if served is not None and given is not None and served.digest != given.digest:
            return supersede(
                draft,
                "BaselineChanged",
                f"the target serves {served.digest}, not spec.baseline {given.digest}",
            )
        draft.set(previous=observed.target.served)
        given = given or (ArtifactRef(uri=served.uri, digest=served.digest) if served is not None else None)
    if given is not None:
        draft.set(baseline=StatusRef(uri=given.uri, digest=given.digest))
    draft.set(start_time=timestamp(draft.now))
    return None


def _promotion_stage(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft) -> Move | None:
    """Serve the judged student; put the previous policy back when it does not become available."""
    if spec.target is None:
        return None
    if observed.target is None:
        raise ValueError("a rollout with a target observes it")
    status, target = observed.status, observed.target
    judged = any(c.type == "GatesPassed" and c.status == "True" for c in status.conditions)
    draft.set(phase="Promoting")
    if draft.is_true("Promoted"):
        return _finish(observed, spec, draft, target)
    if not judged or draft.find("Promoted") is None:
        draft.condition("Promoted", "Unknown", "Promoting", passed(draft))
        return Move(requeue_after=AT_ONCE)
    if observed.target_refused is not None:
        reason, text = observed.target_refused.reason, observed.target_refused.message
        if reason == FieldOwned.reason:
            text = f"{text[:700]}. {OWNED_FIX}"
        draft.condition("Promoted", "False", reason, text)
        return fail(draft, reason, text)
    if target.problem is not None:
        draft.condition("Promoted", "False", "TargetUnusable", target.problem)
        return fail(draft, "TargetUnusable", target.problem)
    promoted = draft.find("Promoted")
    if promoted is not None and promoted.reason in ("NotAvailable", ABORTED):
        return _roll_back(observed, spec, draft, target)
    if target.rollout == observed.owner.uid:
        return _watch(spec, draft, target)
    return _promote(observed, spec, draft, target)


def _promote(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft, target: Target) -> Move:
    student, previous = draft.status.student, draft.status.previous
    if spec.target is None or student is None:
        raise ValueError("a promotion has a target and a student")
    if draft.status.promotion_time is not None:
        text = f"the target serves {target.served or 'no policy of ours'}, not the student that was promoted"
        draft.condition("Promoted", "False", "TargetChanged", text)
        return supersede(draft, "TargetChanged", text)
    if target.served != previous:
        now, then = target.served or "no policy of ours", previous or "the initial policy"
        text = f"the target serves {now}; evaluated was {then}"
        draft.condition("Promoted", "False", "BaselineChanged", text)
        return supersede(draft, "BaselineChanged", text)
    draft.set(promotion_time=timestamp(draft.now), message="The student is being rolled out.")
    draft.condition("Promoted", "Unknown", "WaitingForDeployment", f"{reference(student)} is set")
    change = put(target, spec.target.deployment, student, observed.owner.uid)
    return Move(target=change, requeue_after=DEPLOYMENT_LOOK_SECONDS)


def _watch(spec: StudentRolloutSpec, draft: StatusDraft, target: Target) -> Move | None:
    student = draft.status.student
    if spec.target is None or student is None:
        raise ValueError("a promotion has a target and a student")
    if draft.status.promotion_time is None:
        draft.set(promotion_time=timestamp(draft.now))
    if target.served != reference(student):
        text = f"the target serves {target.served or 'no policy of ours'}, not the student that was promoted"
        draft.condition("Promoted", "False", "TargetChanged", text)
        return supersede(draft, "TargetChanged", text)
    if target.available:
        draft.condition("Promoted", "True", "Available", target.availability)
        return Move(requeue_after=AT_ONCE)
    since = draft.now - parse_timestamp(draft.status.promotion_time or timestamp(draft.now))
    left = spec.target.progress_deadline_seconds - since.total_seconds()
    if left > 0:
        draft.set(message=f"Waiting for the Deployment: {target.availability}")
        draft.condition("Promoted", "Unknown", "WaitingForDeployment", target.availability)
        return Move(requeue_after=min(DEPLOYMENT_LOOK_SECONDS, left + 1))
    text = f"not available after {spec.target.progress_deadline_seconds} s: {target.availability}"
    draft.condition("Promoted", "False", "NotAvailable", text)
    draft.set(message=f"Putting the previous policy back: {text}")
    return Move(requeue_after=AT_ONCE)


def _finish(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft, target: Target) -> Move:
    """The pass is written: record on the Deployment, while it serves the student, that this policy completed."""
    student = draft.status.student
    if spec.target is None or student is None:
        raise ValueError("a promotion has a target and a student")
    if observed.target_refused is not None:
        return complete(draft, f"the Deployment does not record it: {observed.target_refused.message}")
    if target.problem is not None or target.rollout != observed.owner.uid or target.served != reference(student):
        return complete(draft, "the Deployment was changed since it became available")
    if target.last_completed == reference(student):
        return complete(draft)
    previous = draft.status.previous or ""
    change = mark_completed(target, spec.target.deployment, student, previous, observed.owner.uid)
    return replace(complete(draft), target=change)


def _roll_back(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft, target: Target) -> Move:
    """Put the previous policy back, unless the target is somebody else's by now; without our mark it was done."""
    student, found = draft.status.student, draft.find("Promoted")
    if spec.target is None or student is None or found is None:
        raise ValueError("only a promotion is rolled back")
    why = found.message
    if target.rollout == observed.owner.uid and target.served == reference(student):
        change = put_back(target, spec.target.deployment, draft.status.previous or "")
        return Move(target=change, requeue_after=AT_ONCE)
    if target.rollout:
        text = f"{why}; nothing was put back: the target serves {target.served or 'no policy of ours'} by now"
        draft.condition("Promoted", "False", "TargetChanged", text)
        return supersede(draft, "TargetChanged", text)
    draft.condition("Promoted", "False", "RolledBack", why)
    draft.condition("Completed", "False", "RolledBack", why)
    draft.set(
        phase="RolledBack",
        completion_time=timestamp(draft.now),
        message=f"The previous policy was put back: {why}"[:1024],
    )
    return STOP
