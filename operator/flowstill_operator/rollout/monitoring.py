"""The window after a promotion: what the signals mean for the student that is served. Pure.

A check without a number says nothing, neither way: it is no reason to take a student back, and a window that has
not seen every signal does not end well.
"""

from flowstill.api.monitoring import RESTARTS, Monitoring, MonitoringStatus, Signal
from flowstill.api.studentrollout import StudentRolloutSpec
from flowstill_operator.rollout.drift import note_drift
from flowstill_operator.rollout.observe import Observed
from flowstill_operator.rollout.outcome import StatusDraft, inconclusive, supersede
from flowstill_operator.rollout.promote import Target
from flowstill_operator.rollout.signals import counted, end_of, limit, next_check
from flowstill_operator.steps import NO_DATA, Move, timestamp

CONDITION, PHASE = "Monitored", "Monitoring"
BREACHED = "SignalBreached"
AT_ONCE = Move(requeue_after=0.0)


def monitoring_stage(
    observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft, target: Target, policy: str
) -> Move | None:
    """Watch the student, which serves as ``policy``; None when its window has ended well, or when it has none."""
    monitoring = spec.monitoring
    if monitoring is None or draft.is_true(CONDITION):
        return None
    draft.set(phase=PHASE)
    if target.problem is not None or target.rollout != observed.owner.uid or target.served != policy:
        text = target.problem or f"the target serves {target.says}, not the student that was watched"
        draft.condition(CONDITION, "False", "TargetChanged", text)
        note_drift(observed, draft)
        return supersede(draft, "TargetChanged", text)
    if observed.check is not None:
        draft.set(monitoring=counted(monitoring, draft.status.monitoring, observed.check, draft.now))
    seen = draft.status.monitoring
    if seen is None:
        raise ValueError("a window begins with a check")
    decided = _decide(monitoring, seen, draft) if observed.check is not None else None
    if decided is not None:
        return decided
    return Move(requeue_after=max(0.0, (next_check(monitoring, seen) - draft.now).total_seconds()))


def _decide(monitoring: Monitoring, seen: MonitoringStatus, draft: StatusDraft) -> Move | None:
    """What the newest check means; None when the window goes on."""
    bad = breaches(monitoring, seen)
    if bad:
        text = "; ".join(bad)
        draft.condition(CONDITION, "False", BREACHED, text)
        draft.condition("Promoted", "False", BREACHED, text)
        draft.set(phase="Promoting", message=f"Putting the previous policy back: {text}"[:1024])
        return AT_ONCE
    so_far = described(monitoring, seen)
    unsettled = [signal.name for signal in seen.signals if signal.breaches]
    if draft.now < end_of(monitoring, seen):
        missing = [f"{signal.name}: {signal.message}" for signal in seen.signals if signal.message is not None]
        text = f"watched until {timestamp(end_of(monitoring, seen))}: {so_far}"
        draft.condition(CONDITION, "Unknown", NO_DATA if missing else "Watching", "; ".join([text, *missing]))
        draft.set(message=f"{PHASE}: {text}"[:1024])
        return None
    if unsettled:
        text = f"the window is over, and goes on because of {', '.join(unsettled)}: {so_far}"
        draft.condition(CONDITION, "Unknown", "Extended", text)
        draft.set(message=f"{PHASE}: {text}"[:1024])
        return None
    unseen = unknown(monitoring, seen)
    if unseen:
        text = f"the window of {monitoring.window} ended without enough data: {'; '.join(unseen)}"
        draft.condition(CONDITION, "False", NO_DATA, text)
        return inconclusive(draft, f"{text[:900]}. The student stays in place, unproven", NO_DATA)
    draft.condition(CONDITION, "True", "WindowPassed", f"watched for {monitoring.window}: {so_far}")
    draft.set(message=f"The window of {monitoring.window} ended well.")
    return AT_ONCE


def breaches(monitoring: Monitoring, seen: MonitoringStatus) -> list[str]:
    """Every reason to take the student back, with its numbers."""
    signals = {signal.name: signal for signal in seen.signals}
    restarts = signals[RESTARTS]
    found = []
    if restarts.breaches:
        text = f"containers that serve the student were restarted {restarts.value or 0:.0f} times since"
        found.append(f"{text} {seen.start_time}, more than maxRestarts {monitoring.max_restarts}")
    for query in monitoring.queries:
        signal = signals[query.name]
        if signal.breaches >= query.failure_limit:
            times = f"{signal.breaches} times in a row (failureLimit {query.failure_limit})"
            found.append(f"{query.name} is {signal.value or 0:g}, {limit(query)}, {times}")
    return found


def unknown(monitoring: Monitoring, seen: MonitoringStatus) -> list[str]:
    """Every signal of which too little was seen, and why."""
    fewest = {RESTARTS: 1} | {query.name: query.min_samples for query in monitoring.queries}
    return [
        f"{signal.name} has {signal.samples} of at least {fewest[signal.name]} samples{_why(signal)}"
        for signal in seen.signals
        if signal.samples < fewest[signal.name]
    ]


def described(monitoring: Monitoring, seen: MonitoringStatus) -> str:
    """The newest number of every signal, beside its limit."""
    signals = {signal.name: signal for signal in seen.signals}
    parts = [f"{RESTARTS} {signals[RESTARTS].value or 0:.0f} of at most {monitoring.max_restarts}"]
    for query in monitoring.queries:
        value = signals[query.name].value
        parts.append(f"{query.name} {'unknown' if value is None else f'{value:g}'} (breach: {limit(query)})")
    return ", ".join(parts)


def _why(signal: Signal) -> str:
    return f" ({signal.message})" if signal.message else ""
