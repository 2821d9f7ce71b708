"""What suspension means for the training of a DistillJob: it ends an attempt that backoffLimit does not count. Pure."""

from flowstill.api.distilljob import DistillJobSpec, DistillJobStatus
from flowstill_operator.children import Child
from flowstill_operator.distilljob.observe import NOT_STARTED, STEPS, Observed, current_role
from flowstill_operator.steps import Draft, started
from flowstill_operator.suspension import Suspendable, add_seconds


def suspendable(observed: Observed, spec: DistillJobSpec, draft: Draft[DistillJobStatus]) -> Suspendable:
    """The child that a DistillJob is at."""
    role = current_role(observed.status)
    condition = dict(STEPS)[role]
    child, training = observed.child(role), role == "train"

    def note_stopped() -> None:
        add_seconds(draft, draft.status.active_seconds, child)
        if training and not observed.attempt:
            _add_attempts(draft, child)

    def note_gone() -> None:
        if training:
            _next_attempt(draft, numbered=observed.attempt > 0)

    return Suspendable(
        asked=spec.suspend,
        role=role,
        condition=condition,
        begun=started(observed.status.conditions, condition, NOT_STARTED),
        child=child,
        phase=("Running" if child.state == "Running" else "Queued") if training else "Validating",
        grace=spec.runtime.termination_grace_period_seconds,
        pods_left=observed.pods_left,
        note_stopped=note_stopped,
        note_gone=note_gone,
    )


def _add_attempts(draft: Draft[DistillJobStatus], child: Child) -> None:
    """On one node, where the Job counts its attempts and their failures."""
    status = draft.status
    earlier = status.earlier_attempts or 0
    # One that was never admitted has begun nothing.
    attempts = max(status.attempts, earlier + max(0 if child.held_back else 1, child.attempts))
    failures = earlier - (status.disruptions or 0) + child.failures
    draft.set(attempts=attempts, disruptions=attempts - failures)


def _next_attempt(draft: Draft[DistillJobStatus], *, numbered: bool) -> None:
    status = draft.status
    if numbered:
        draft.set(attempts=max(1, status.attempts) + 1, disruptions=(status.disruptions or 0) + 1)
    else:
        draft.set(earlier_attempts=status.attempts)
    if status.progress is not None:
        draft.set(progress=status.progress.model_copy(update={"estimated_remaining_seconds": None}))
