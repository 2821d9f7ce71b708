"""What a StudentRollout needs next. Pure: the same observation gives the same plan.

Stages run in order; the first that is not done says what is to do. Each child's decision is in the
status before the target is touched, so the operator may be killed between any two effects.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from flowstill.api.fields import StatusRef
from flowstill.api.studentrollout import StudentRolloutSpec, StudentRolloutStatus
from flowstill_operator.cleanup import clean_up
from flowstill_operator.observation import INVALID_SPEC, INVALID_SPEC_TEXT
from flowstill_operator.rollout.baseline import baseline_stage, replaced_stage
from flowstill_operator.rollout.drift import note_drift
from flowstill_operator.rollout.evidence import evaluation_stage, judge_stage, parity_stage
from flowstill_operator.rollout.observe import TERMINAL, WAITING_FOR_DISTILL_JOB, Observed
from flowstill_operator.rollout.outcome import StatusDraft, complete, fail
from flowstill_operator.rollout.overrides import by_expiry, override_stage
from flowstill_operator.rollout.people import approval_stage, take_decisions
from flowstill_operator.rollout.promotion import promotion_stage, soak_stage
from flowstill_operator.rollout.suspended import hold_promotion, suspended
from flowstill_operator.steps import Draft, Move, Plan, Problem, Wanted, refused

DISTILL_JOB_FAILED = "DistillJobFailed"
DISTILL_JOB_FAILED_TEXT = "DistillJob {name} failed: {why}"


def plan(observed: Observed, now: datetime) -> Plan[StudentRolloutStatus]:
    """The child that should exist, the change of the target, the status to write, and when to look again."""
    draft = Draft(observed.status, observed.generation, now)
    decided = take_decisions(observed, draft)
    if decided is not None:
        return draft.plan(decided)
    if observed.status.phase in TERMINAL:
        # What may be changed after the end was seen, or whoever waits for that generation waits for ever.
        # So is what others do to the target; nothing else of a status changes any more.
        note_drift(observed, draft)
        runtime = None if observed.spec is None else observed.spec.runtime
        cleaned = clean_up(draft.status, runtime, observed.jobs, now)
        return draft.plan(Move(requeue_after=cleaned.requeue_after, delete=cleaned.delete))
    if observed.problem is not None or observed.spec is None:
        problem = observed.problem or Problem(INVALID_SPEC, INVALID_SPEC_TEXT)
        draft.condition("Validated", "False", problem.reason, problem.message)
        return draft.plan(fail(draft, problem.reason, problem.message))
    void = replaced_stage(observed, draft)
    if void is not None:
        return draft.plan(void)
    held = suspended(observed, observed.spec, draft)
    if held is not None:
        return draft.plan(held)
    stages: tuple[Callable[[Observed, StudentRolloutSpec, StatusDraft], Move | None], ...] = (
        _student_stage,
        baseline_stage,
        parity_stage,
        evaluation_stage,
        judge_stage,
        override_stage,
        hold_promotion,
        approval_stage,
        soak_stage,
        promotion_stage,
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
        message = DISTILL_JOB_FAILED_TEXT.format(name=name, why=distilled.message)
        draft.condition("Validated", "False", DISTILL_JOB_FAILED, message)
        return fail(draft, DISTILL_JOB_FAILED, message)
    if distilled.student is not None and distilled.phase == "Succeeded":
        draft.set(student=distilled.student)
        return None
    state = f"is {distilled.phase}" if distilled.exists else "does not exist yet"
    message = f"DistillJob {name} {state}"
    draft.condition("Validated", "Unknown", WAITING_FOR_DISTILL_JOB, message)
    draft.set(phase="Pending", message=message)
    return Move()
