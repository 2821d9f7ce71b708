"""Suspension of a StudentRollout: until its promotion begins, and no longer. Pure."""

from flowstill.api.studentrollout import StudentRolloutSpec
from flowstill_operator.admission import note_admission
from flowstill_operator.rollout.evidence import PHASES
from flowstill_operator.rollout.observe import NOT_STARTED, STEPS, Observed, current_role
from flowstill_operator.rollout.outcome import StatusDraft
from flowstill_operator.steps import Move, started
from flowstill_operator.suspension import CONDITION, Suspendable, add_seconds, hold, lift, suspend

BEGUN = ("Promoting", "Monitoring")
"""Phases from which on it is too late."""
TOO_LATE = "Promoting"
TOO_LATE_TEXT = "spec.suspend has no effect from Promoting on: a target is never left between two policies"


def suspended(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft) -> Move | None:
    """What suspension wants of the child that the rollout is at; None when it goes on."""
    role = current_role(observed.status)
    if role is None:
        return None
    condition, child = dict(STEPS)[role], observed.child(role)
    note_admission(draft, spec.runtime, child)
    return suspend(
        draft,
        Suspendable(
            asked=spec.suspend,
            role=role,
            condition=condition,
            begun=started(observed.status.conditions, condition, NOT_STARTED),
            child=child,
            phase=PHASES[role],
            grace=spec.runtime.termination_grace_period_seconds,
            note_stopped=lambda: add_seconds(draft, draft.status.active_seconds, child),
        ),
    )


def hold_promotion(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft) -> Move | None:
    """After the verdict: hold, unless the promotion has begun."""
    if observed.status.phase in BEGUN:
        if spec.suspend:
            draft.condition(CONDITION, "False", TOO_LATE, TOO_LATE_TEXT)
        return None
    if spec.suspend and (spec.target is not None or spec.approval == "Manual"):
        return hold(draft)
    lift(draft, PHASES["judge"], asked=False)
    return None
