"""How a StudentRollout ends: each end is final, and says why."""

from flowstill.api.overrides import described
from flowstill.api.studentrollout import StudentRolloutStatus
from flowstill_operator.steps import STOP, Draft, Move, condition_reason, timestamp

StatusDraft = Draft[StudentRolloutStatus]


def complete(draft: StatusDraft, note: str = "") -> Move:
    """All gates passed, and the target, if any, became available with the student; ``note``: what is not as usual."""
    promoted = draft.is_true("Promoted")
    text = shortened(passed(draft)) + (
        ", and the target became available with the student" if promoted else "; there was no target"
    )
    watched = draft.find("Monitored")
    if watched is not None and watched.status == "True":
        text = f"{text}; {shortened(watched.message, 100)}"
    text = f"{text}; {note}" if note else text
    text = text[:1024]
    draft.condition("Completed", "True", "Completed", text)
    draft.set(phase="Completed", completion_time=timestamp(draft.now), message=text)
    return STOP


def passed(draft: StatusDraft) -> str:
    """By what the student may be served: all gates, or those that passed and somebody's word for the others."""
    others = [gate for gate in draft.status.gates if gate.verdict != "Pass"]
    return f"passed but for {', '.join(map(described, others))}" if others else "all gates passed"


def shortened(text: str, limit: int = 800) -> str:
    """The text, cut so that something else finds room beside it in a message."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def reject(draft: StatusDraft, reason: str, message: str) -> Move:
    """The evidence says that the student is worse."""
    draft.condition("Completed", "False", reason, message)
    draft.set(phase="Rejected", completion_time=timestamp(draft.now), message=message[:1024])
    return STOP


def inconclusive(draft: StatusDraft, message: str, reason: str = "Inconclusive") -> Move:
    """The evidence is too thin to say either; this is no rejection."""
    draft.condition("Completed", "False", reason, message)
    draft.set(phase="Inconclusive", completion_time=timestamp(draft.now), message=message[:1024])
    return STOP


def supersede(draft: StatusDraft, reason: str, message: str) -> Move:
    """The target changed under the rollout, so its comparison says nothing about what is served now."""
    draft.condition("Superseded", "True", reason, message)
    draft.condition("Completed", "False", reason, message)
    draft.set(phase="Superseded", completion_time=timestamp(draft.now), message=message[:1024])
    return STOP


def fail(draft: StatusDraft, reason: str, message: str) -> Move:
    """The rollout could not be carried out; nothing is said about the student."""
    message = message if len(message) <= 1024 else message[:1021] + "..."
    draft.condition("Failed", "True", condition_reason(reason), message)
    draft.set(phase="Failed", message=message, completion_time=timestamp(draft.now))
    return STOP
