"""Drift: what somebody else made of the entry that a rollout had put. It is reported, never fought over. Pure."""

from flowstill_operator.rollout.observe import Observed
from flowstill_operator.rollout.outcome import StatusDraft
from flowstill_operator.rollout.promote import reference

CONDITION = "Drifted"
DRIFTED, RESTORED, REPLACED = "EntryChanged", "EntryRestored", "Replaced"
DRIFTED_TEXT = (
    "the target serves {now}, set by {who}, and not {policy}, which this rollout put; nothing is done about it: "
    "put that entry back, or create a rollout with a new name, which compares with what is served"
)


def note_drift(observed: Observed, draft: StatusDraft) -> None:
    """Set or clear the condition. Only the rollout that the target's record names has an entry that can drift."""
    target, student = observed.target, draft.status.student
    if target is None or target.problem is not None or student is None or not draft.is_true("Promoted"):
        return
    if target.rollout == observed.owner.uid and target.served != reference(student):
        who = f"field manager {', '.join(target.managers)}" if target.managers else "nobody"
        text = DRIFTED_TEXT.format(now=target.says, who=who, policy=reference(student))
        draft.condition(CONDITION, "True", DRIFTED, text)
    elif draft.is_true(CONDITION):
        if target.rollout == observed.owner.uid:
            draft.condition(CONDITION, "False", RESTORED, f"the target serves {reference(student)} again")
        else:
            text = f"the target serves {target.says}, which is no longer this rollout's to answer for"
            draft.condition(CONDITION, "False", REPLACED, text)
