"""What follows a failed attempt of a training on several nodes: the operator starts the next, with all ranks. Pure.

The next attempt is written into the status before its Job is made, and its Job is made only when no pod of an earlier
one is left: two generations of ranks in one work folder would spoil its checkpoints. Whoever is killed between any two
lines finds the old number or the new one, and whoever acts on an old one cannot write it.
"""

from datetime import UTC, datetime, timedelta

from flowstill.api.distilljob import DistillJobSpec, DistillJobStatus
from flowstill_operator.distilljob.observe import NOT_STARTED, RESTARTING, Observed
from flowstill_operator.steps import WAITING_LOOK_SECONDS, Draft, Move, Step, parse_timestamp, timestamp

FIRST_BACK_OFF_SECONDS = 10.0
MAX_BACK_OFF_SECONDS = 300.0
MAX_NAMED_PODS = 4
MAX_MESSAGE = 1024


def wait_for_pods(observed: Observed, draft: Draft[DistillJobStatus]) -> Move | None:
    """Before an attempt begins: None when no pod of an earlier one is left."""
    if not observed.pods_left:
        return None
    before = draft.find("Trained")
    reason = before.reason if before is not None and before.reason in NOT_STARTED else RESTARTING
    draft.set(phase="Queued")
    draft.condition("Trained", "Unknown", reason, _waiting_text(observed))
    return Move(requeue_after=WAITING_LOOK_SECONDS)


def after_failure(observed: Observed, spec: DistillJobSpec, draft: Draft[DistillJobStatus], step: Step) -> Move | Step:
    """The way to the next attempt; a Step that failed for good when there is none.

    ``step``: what the failed attempt means by itself.
    """
    child, status, runtime, number = observed.child("train"), observed.status, spec.runtime, observed.attempt
    if not number or child.retry == "never":
        return step
    disruptions = (status.disruptions or 0) + (child.retry == "free")
    failures = number - disruptions
    seconds = (status.active_seconds or 0) + child.seconds
    if failures > runtime.backoff_limit:
        limit = f"spec.runtime.backoffLimit is {runtime.backoff_limit}"
        return Step("failed", reason=step.reason, message=f"attempt {number} failed, and {limit}: {step.message}")
    if runtime.active_deadline_seconds is not None and seconds >= runtime.active_deadline_seconds:
        text = f"all attempts together took {seconds} s of spec.runtime.activeDeadlineSeconds"
        return Step("failed", reason="DeadlineExceeded", message=f"{text}; the last: {step.message}")
    cause = "was ended by the cluster, which does not count" if child.retry == "free" else "failed"
    text = f"attempt {number} {cause}: {step.message}"
    draft.set(phase="Queued", message=text[:MAX_MESSAGE])
    if observed.pods_left:
        draft.condition("Trained", "Unknown", "AttemptFailed", f"{text}; {_waiting_text(observed)}")
        return Move(requeue_after=WAITING_LOOK_SECONDS)
    due = _due(child.ended, failures)
    if due is not None and draft.now < due:
        draft.condition("Trained", "Unknown", "AttemptFailed", f"{text}; the next one starts at {timestamp(due)}")
        return Move(requeue_after=(due - draft.now).total_seconds())
    draft.set(attempts=number + 1, disruptions=disruptions, active_seconds=seconds)
    draft.condition("Trained", "Unknown", RESTARTING, f"{text}; attempt {number + 1} starts with all ranks")
    return Move(requeue_after=0.0)


def _due(ended: str | None, failures: int) -> datetime | None:
    """When the next attempt may start: later after every failure."""
    if ended is None:
        return None
    wait = min(MAX_BACK_OFF_SECONDS, FIRST_BACK_OFF_SECONDS * 2.0 ** min(max(0, failures - 1), 16))
    return (parse_timestamp(ended) + timedelta(seconds=wait)).astimezone(UTC)


def _waiting_text(observed: Observed) -> str:
    names = observed.pods_left
    more = f" and {len(names) - MAX_NAMED_PODS} more" if len(names) > MAX_NAMED_PODS else ""
    return f"waiting until these pods have ended: {', '.join(names[:MAX_NAMED_PODS])}{more}"
