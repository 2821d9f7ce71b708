"""Prometheus metrics of the operator."""

from collections import Counter as Counts
from collections.abc import Callable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from flowstill.api.gates import GateName
from flowstill.api.studentrollout import Verdict
from flowstill_operator.children import Document
from flowstill_operator.distilljob.observe import TERMINAL as DISTILLED
from flowstill_operator.engine.loop import Key, ResourceKind
from flowstill_operator.rollout.observe import TERMINAL as ROLLED_OUT
from flowstill_operator.rollout.overrides import FAILED, LAPSED, OPEN, PASSED
from flowstill_operator.steps import OVERRIDDEN, parse_timestamp

ENDS: dict[ResourceKind, frozenset[str]] = {
    "DistillJob": frozenset(DISTILLED),
    "StudentRollout": frozenset(ROLLED_OUT),
}
JUDGED = {PASSED, FAILED, OPEN, LAPSED, OVERRIDDEN}
MINUTE, HOUR = 60.0, 3600.0
DURATIONS = (MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, 24 * HOUR, 72 * HOUR)
"""A student of minutes and a soak of days: seconds."""
OUTCOMES = ("good", "breach", "missing")
"""Of a look at one signal."""


class Metrics:
    """Counts passes, children, resources by phase, how they ended and what the gates said.

    Every count whose labels are known begins at 0: Prometheus sees no increase in a series that begins at 1.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._passes = Counter(
            "flowstill_reconcile", "Passes over resources.", ["kind", "outcome"], registry=self.registry
        )
        self._seconds = Histogram(
            "flowstill_reconcile_seconds", "Duration of a pass.", ["kind"], registry=self.registry
        )
        self._children = Counter("flowstill_children_created", "Child Jobs created.", ["role"], registry=self.registry)
        self._resources = Gauge("flowstill_resources", "Resources by phase.", ["kind", "phase"], registry=self.registry)
        self._ended = Histogram(
            "flowstill_duration_seconds",
            "From the first child to the end, by the phase it ended in.",
            ["kind", "phase"],
            buckets=DURATIONS,
            registry=self.registry,
        )
        self._verdicts = Counter(
            "flowstill_gate_verdicts", "What the gates said.", ["gate", "verdict"], registry=self.registry
        )
        self._samples = Counter(
            "flowstill_monitoring_samples", "Signals of watched students.", ["outcome"], registry=self.registry
        )
        self._drifts = Counter(
            "flowstill_drifts", "Promoted entries that somebody else changed.", registry=self.registry
        )
        self._depth = Gauge("flowstill_queue_depth", "Keys that wait or are worked on.", registry=self.registry)
        self._lag = Gauge("flowstill_loop_lag_seconds", "How late the event loop wakes up.", registry=self.registry)
        self._heard = Gauge(
            "flowstill_watch_age_seconds", "Since a watch last heard of something.", registry=self.registry
        )
        self._phases: dict[Key, str] = {}
        self._counts: Counts[tuple[str, str]] = Counts()
        self._begin_at_zero()

    def passed(self, key: Key, outcome: str, seconds: float) -> None:
        """One pass ended."""
        self._passes.labels(key.kind, outcome).inc()
        self._seconds.labels(key.kind).observe(seconds)

    def phase(self, key: Key, phase: str | None) -> None:
        """The resource is in that phase now; None: it is gone."""
        before = self._phases.pop(key, None)
        if phase is not None:
            self._phases[key] = phase
        for one, change in ((before, -1), (phase, 1)):
            if one is not None:
                self._counts[key.kind, one] += change
                self._resources.labels(key.kind, one).set(self._counts[key.kind, one])

    def child_created(self, role: str) -> None:
        """A child Job was created."""
        self._children.labels(role).inc()

    def wrote(self, kind: ResourceKind, before: Document, after: Document) -> None:
        """Count an end and a judgement once: with the write that made them true."""
        phase = after.get("phase", "")
        if phase in ENDS[kind] and before.get("phase") != phase:
            begin, end = after.get("startTime"), after.get("completionTime")
            seconds = (parse_timestamp(end) - parse_timestamp(begin)).total_seconds() if begin and end else 0.0
            self._ended.labels(kind, phase).observe(seconds)
        if is_judged(after) and not is_judged(before):
            for gate in after.get("gates") or []:
                self._verdicts.labels(gate["name"], gate["verdict"]).inc()
        if is_drifted(after) and not is_drifted(before):
            self._drifts.inc()
        for outcome, count in new_samples(before, after).items():
            self._samples.labels(outcome).inc(count)

    def text(self, queue_depth: int, lag: float, watch_age: float) -> bytes:
        """All metrics in Prometheus' text format."""
        self._depth.set(queue_depth)
        self._lag.set(lag)
        self._heard.set(watch_age)
        return generate_latest(self.registry)

    def _begin_at_zero(self) -> None:
        for kind, phases in ENDS.items():
            for outcome in ("ok", "conflict", "error"):
                self._passes.labels(kind, outcome)
            for phase in phases:
                self._ended.labels(kind, phase)
        for gate in get_args(GateName):
            for verdict in get_args(Verdict):
                self._verdicts.labels(gate, verdict)
        for outcome in OUTCOMES:
            self._samples.labels(outcome)


def is_judged(status: Document) -> bool:
    """Whether what the gates say is the last word: after a round that leaves some open, another may follow."""
    reasons = {c.get("reason") for c in status.get("conditions") or [] if c["type"] == "GatesPassed"}
    return bool(reasons & JUDGED)


def is_drifted(status: Document) -> bool:
    """Whether somebody else changed what was promoted."""
    return any(c["type"] == "Drifted" and c["status"] == "True" for c in status.get("conditions") or [])


def new_samples(before: Document, after: Document) -> Counts[str]:
    """What the signals of a watched student were, when this write brings a check; nothing when it brings none."""
    old, new = ((status.get("monitoring") or {}) for status in (before, after))
    found: Counts[str] = Counts()
    if new.get("lastChecked") != old.get("lastChecked"):
        for signal in new.get("signals") or []:
            found["missing" if signal.get("message") is not None else "breach" if signal["breaches"] else "good"] += 1
    return found


class WatchAge:
    """Seconds since a watch last heard of something; 0 until the first time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: float | None = None

    def heard(self) -> None:
        """Something was heard now."""
        self._last = self._clock()

    def seconds(self) -> float:
        """The age now."""
        return 0.0 if self._last is None else self._clock() - self._last
