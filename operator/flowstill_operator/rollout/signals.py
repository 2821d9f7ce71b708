"""What is counted in the window after a promotion: one check, and all checks so far. Pure.

All of it is kept in the status, so that another life of the operator goes on where the last one was.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from flowstill.api.monitoring import (
    MAX_PODS,
    RESTARTS,
    Monitoring,
    MonitoringQuery,
    MonitoringStatus,
    PodRestarts,
    Signal,
)
from flowstill.api.studentrollout import StudentRolloutStatus
from flowstill_operator.children import Document
from flowstill_operator.clusters.interface import Sample
from flowstill_operator.steps import parse_timestamp, timestamp

NO_PODS = "no pod of the Deployment serves the student"
"""Why restarts cannot be counted."""
HASH_LABEL = "pod-template-hash"
CUT = 256


@dataclass(frozen=True)
class Check:
    """What all signals were at one moment.

    Attributes:
        restarts: of the containers of every pod that serves the student, by the pod's name.
        samples: of every query, by its name.
    """

    restarts: Mapping[str, int]
    samples: Mapping[str, Sample]


def is_due(monitoring: Monitoring | None, status: StudentRolloutStatus, now: datetime) -> bool:
    """Whether the signals have to be looked at now: the student is served, and its window has not been decided."""
    true = {condition.type for condition in status.conditions if condition.status == "True"}
    if monitoring is None or "Promoted" not in true or "Monitored" in true:
        return False
    if status.monitoring is None or now >= next_check(monitoring, status.monitoring):
        return True
    return now < parse_timestamp(status.monitoring.last_checked)  # the clock was set back


def end_of(monitoring: Monitoring, seen: MonitoringStatus) -> datetime:
    """The end of the window."""
    return parse_timestamp(seen.start_time) + timedelta(seconds=monitoring.window_seconds)


def next_check(monitoring: Monitoring, seen: MonitoringStatus) -> datetime:
    """When the signals are looked at again: after an interval, and at the end of the window."""
    last, end = parse_timestamp(seen.last_checked), end_of(monitoring, seen)
    after = last + timedelta(seconds=monitoring.interval_seconds)
    return min(after, end) if last < end else after


def counted(monitoring: Monitoring, before: MonitoringStatus | None, check: Check, now: datetime) -> MonitoringStatus:
    """All checks, this one included. The first begins the window: restarts are counted against those of that moment."""
    known = {signal.name: signal for signal in before.signals} if before is not None else {}
    restarts = known.get(RESTARTS, Signal(name=RESTARTS, value=0.0, threshold=monitoring.max_restarts))
    seen = {pod.name: pod.restarts for pod in before.pods} if before is not None else dict(check.restarts)
    # A pod's count only grows while the pod is there; one that is new is counted from nothing. Of more pods than the
    # status holds those with the most restarts are in it: the others had no more than the least of them.
    unknown = min(seen.values()) if len(seen) >= MAX_PODS else 0
    more = sum(max(0, count - seen.get(name, unknown)) for name, count in check.restarts.items())
    total = Sample((restarts.value or 0.0) + more) if check.restarts else Sample(None, NO_PODS)
    signals = [_add(restarts, total, now, breached=(total.value or 0.0) > monitoring.max_restarts)]
    for query in monitoring.queries:
        sample = check.samples.get(query.name, Sample(None, "it was not asked for"))
        breached = sample.value is not None and query.is_breach(sample.value)
        signal = known.get(query.name, Signal(name=query.name, threshold=query.threshold))
        signals.append(_add(signal, sample, now, breached=breached))
    most = sorted(check.restarts.items(), key=lambda pod: (-pod[1], pod[0]))[:MAX_PODS]
    return MonitoringStatus(
        start_time=before.start_time if before is not None else timestamp(now),
        last_checked=timestamp(now),
        signals=signals,
        pods=[PodRestarts(name=name, restarts=count) for name, count in sorted(most) if count],
    )


def _add(signal: Signal, sample: Sample, now: datetime, *, breached: bool) -> Signal:
    """One check more. Without a number the breaches in a row are neither more nor over."""
    update: dict[str, object] = {"last_checked": timestamp(now)}
    if sample.value is None:
        update |= {"missing": signal.missing + 1, "message": sample.why[:CUT]}
    else:
        update |= {
            "samples": signal.samples + 1,
            "value": sample.value,
            "breaches": signal.breaches + 1 if breached else 0,
            "message": None,
        }
    return signal.model_copy(update=update)


def restarts_by_pod(pods: Iterable[Document], deployment: str, container: str, env: str, policy: str) -> dict[str, int]:
    """How often the containers of each pod were restarted; only pods of that Deployment which serve that policy."""
    found: dict[str, int] = {}
    for pod in pods:
        metadata = pod["metadata"]
        hash_ = (metadata.get("labels") or {}).get(HASH_LABEL)
        owners = metadata.get("ownerReferences") or []
        # How the Deployment controller names its ReplicaSets; reading those would need another permission.
        ours = any(o.get("kind") == "ReplicaSet" and o.get("name") == f"{deployment}-{hash_}" for o in owners)
        if ours and _serves(pod, container, env, policy):
            states = (pod.get("status") or {}).get("containerStatuses") or []
            found[metadata["name"]] = sum(state.get("restartCount", 0) for state in states)
    return found


def _serves(pod: Document, container: str, env: str, policy: str) -> bool:
    entries = [
        entry
        for each in pod["spec"].get("containers") or []
        if each["name"] == container
        for entry in each.get("env") or []
    ]
    return any(entry["name"] == env and entry.get("value") == policy for entry in entries)


def limit(query: MonitoringQuery) -> str:
    """What is a breach, in words."""
    return f"{query.comparison} {query.threshold:g}"
