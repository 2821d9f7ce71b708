"""Prometheus metrics of the operator."""

from collections import Counter as Counts

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from flowstill_operator.engine.loop import Key


class Metrics:
    """Counts passes, children and resources by phase."""

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
        self._depth = Gauge("flowstill_queue_depth", "Keys that wait or are worked on.", registry=self.registry)
        self._phases: dict[Key, str] = {}
        self._counts: Counts[tuple[str, str]] = Counts()

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

    def text(self, queue_depth: int) -> bytes:
        """All metrics in Prometheus' text format."""
        self._depth.set(queue_depth)
        return generate_latest(self.registry)
