"""What the gates say once overrides are counted: at the verdict, and on every look until the student is promoted."""

from dataclasses import replace
from typing import Literal

from flowstill.api.overrides import attach, described, in_the_way, next_expiry
from flowstill.api.studentrollout import GateResult, StudentRolloutSpec
from flowstill_operator.rollout.observe import Observed
from flowstill_operator.rollout.outcome import StatusDraft, inconclusive, reject
from flowstill_operator.steps import OVERRIDDEN, Move

PASSED, FAILED, OPEN, LAPSED = "GatesPassed", "GatesFailed", "Inconclusive", "OverrideLapsed"
"""With OVERRIDDEN the reasons of the condition GatesPassed once the gates are judged for good."""
_GRACE_SECONDS = 1.0
"""Looked at so much after an expiry, as clocks are read in whole seconds."""


def weigh(draft: StatusDraft, spec: StudentRolloutSpec) -> Move | None:
    """None when every gate passed or somebody answers for it; else the end of the rollout."""
    gates = attach(draft.status.gates, spec.overrides, draft.now)
    draft.set(gates=gates, gates_summary=gates_summary(gates))
    others = ", ".join(described(gate) for gate in gates if gate.verdict != "Pass")
    open_ = in_the_way(gates)
    if not open_:
        passed = sum(gate.verdict == "Pass" for gate in gates)
        text = f"{passed} of {len(gates)} gates passed{f'; {others}' if others else ''}"
        draft.condition("GatesPassed", "True", OVERRIDDEN if others else PASSED, text)
        return None
    failed = [gate for gate in open_ if gate.verdict == "Fail"]
    lapsed = all(gate.override is not None for gate in failed or open_)
    if failed:
        reason = LAPSED if lapsed else FAILED
        _refuse(draft, "False", reason, others)
        return reject(draft, reason, f"gates: {others}")
    reason = LAPSED if lapsed else OPEN
    _refuse(draft, "Unknown", reason, others)
    more = "more recorded trials" if spec.evaluation.evidence is not None else "more maxEpisodesPerTask"
    return inconclusive(draft, f"gates: {others}; a new rollout with {more} may decide", reason)


def override_stage(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft) -> Move | None:
    """An override that expired, or was taken back, before the student was promoted does not count."""
    if not _may_lapse(draft) or _is_put(observed):
        return None
    return weigh(draft, spec)


def by_expiry(draft: StatusDraft, move: Move) -> Move:
    """The same move, with a look when the first override that counts expires."""
    moment = next_expiry(draft.status.gates)
    if moment is None or move.requeue_after is None or not _may_lapse(draft):
        return move
    left = max(0.0, (moment - draft.now).total_seconds()) + _GRACE_SECONDS
    return replace(move, requeue_after=min(move.requeue_after, left))


def _may_lapse(draft: StatusDraft) -> bool:
    """Whether overrides still matter: something did not pass, and the target was not changed yet."""
    return draft.status.promotion_time is None and any(gate.verdict != "Pass" for gate in draft.status.gates)


def _is_put(observed: Observed) -> bool:
    """The student was put on the target, and the status that says so was lost."""
    return observed.target is not None and observed.target.rollout == observed.owner.uid


def _refuse(draft: StatusDraft, truth: Literal["False", "Unknown"], reason: str, text: str) -> None:
    draft.condition("GatesPassed", truth, reason, text)
    if draft.find("Promoted") is not None:
        draft.condition("Promoted", "False", reason, text)


def gates_summary(gates: list[GateResult]) -> str:
    """How many gates passed, and how many of the others somebody answers for."""
    passed = sum(gate.verdict == "Pass" for gate in gates)
    overridden = sum(gate.verdict != "Pass" for gate in gates) - len(in_the_way(gates))
    return f"{passed}/{len(gates)} Pass" + (f", {overridden} overridden" if overridden else "")
