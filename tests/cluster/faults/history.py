"""What must hold of all that an operator did, whatever went wrong meanwhile: read from its performed requests."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from flowstill_operator.distilljob.observe import TERMINAL as DISTILLED
from flowstill_operator.rollout.observe import TERMINAL as ROLLED_OUT
from tests.cluster.faults.calls import OURS, Call, Document

TERMINAL = {"distilljobs": DISTILLED, "studentrollouts": ROLLED_OUT}
DECISIONS = {
    "distilljobs": ("Trained", "Published", "Complete", "Failed"),
    "studentrollouts": ("Validated", "Evaluated", "GatesPassed", "Promoted", "Completed", "Failed"),
}
"""Conditions that say True for good."""


def created_jobs(calls: Sequence[Call], namespace: str) -> Counter[str]:
    """How often each Job was created, by its name without the hash of the owner's UID."""
    made = [c for c in calls if (c.method, c.plural, c.namespace) == ("POST", "jobs", namespace) and c.succeeded]
    return Counter(call.document()["metadata"]["name"].rpartition("-")[0] for call in made)


def written_statuses(calls: Sequence[Call], namespace: str) -> dict[tuple[str, str], list[Document]]:
    """Every status that was written, in order, by plural and name."""
    written: dict[tuple[str, str], list[Document]] = defaultdict(list)
    for call in calls:
        if call.namespace == namespace and call.plural in OURS and call.sub == "status" and call.succeeded:
            written[call.plural, call.name].append(call.document()["status"])
    return written


def check(calls: Sequence[Call], namespace: str) -> None:
    """No Job twice, nothing but status written to a resource, no end and no decision taken back."""
    twice = {name: count for name, count in created_jobs(calls, namespace).items() if count > 1}
    assert not twice, f"created more than once: {twice}"
    meddled = [c for c in calls if c.writes and c.plural in OURS and c.sub != "status"]
    assert not meddled, f"only status may be written: {meddled}"
    for (plural, name), statuses in written_statuses(calls, namespace).items():
        _check_end(plural, name, statuses)
        _check_decisions(plural, name, statuses)


def _check_end(plural: str, name: str, statuses: Sequence[Document]) -> None:
    phases = [status["phase"] for status in statuses]
    ends = [number for number, phase in enumerate(phases) if phase in TERMINAL[plural]]
    assert not ends or set(phases[ends[0] :]) == {phases[ends[0]]}, f"{plural} {name} went on after its end: {phases}"


def _check_decisions(plural: str, name: str, statuses: Sequence[Document]) -> None:
    decided: set[str] = set()
    for status in statuses:
        true = {condition["type"] for condition in status["conditions"] if condition["status"] == "True"}
        lost = decided - true
        assert not lost, f"{plural} {name} lost {lost} in {status}"
        decided |= true & set(DECISIONS[plural])
