"""Overrides of performance gates: which of them count, and what is left in the way of a promotion.

A gate's verdict is what was measured and stays so. An override stands beside it, and counts until it expires; who
decides looks again each time (:func:`attach`), so that one that has lapsed counts no more.
"""

from collections.abc import Sequence
from datetime import datetime

from flowstill.api.studentrollout import GateOverride, GateResult, Override, Verdict


def attach(gates: Sequence[GateResult], overrides: Sequence[Override], now: datetime) -> list[GateResult]:
    """The gates with the overrides that name them, as they stand at ``now``; those of safety gates are left out."""
    named = {override.gate: override for override in overrides if not override.gate.startswith("S")}
    return [
        gate.model_copy(update={"override": _as_of(now, named[gate.name]) if gate.name in named else None})
        for gate in gates
    ]


def measured(gates: Sequence[GateResult]) -> Verdict:
    """What the gates say together as they were measured: an override does not make a pass of a failure."""
    verdicts = {gate.verdict for gate in gates}
    return "Fail" if "Fail" in verdicts else "Inconclusive" if "Inconclusive" in verdicts else "Pass"


def counts(gate: GateResult) -> bool:
    """Whether the gate did not pass, and somebody answers for it."""
    return gate.verdict != "Pass" and gate.override is not None and not gate.override.lapsed


def in_the_way(gates: Sequence[GateResult]) -> list[GateResult]:
    """The gates that neither passed nor are overridden."""
    return [gate for gate in gates if gate.verdict != "Pass" and not counts(gate)]


def next_expiry(gates: Sequence[GateResult]) -> datetime | None:
    """When the first of the overrides that count expires; None: none does."""
    return min((datetime.fromisoformat(g.override.expires) for g in gates if g.override and counts(g)), default=None)


def described(gate: GateResult) -> str:
    """A gate that did not pass, with who answers for it, such as ``P2 Fail (overridden by ann until …: …)``."""
    text = f"{gate.name} {gate.verdict}"
    if gate.override is None or gate.verdict == "Pass":
        return text
    override = gate.override
    if override.lapsed:
        return f"{text} (the override by {override.by} expired {override.expires})"
    return f"{text} (overridden by {override.by} until {override.expires}: {override.reason})"


def _as_of(now: datetime, override: Override) -> GateOverride:
    return GateOverride(by=override.by, reason=override.reason, expires=override.expires, lapsed=override.end <= now)
