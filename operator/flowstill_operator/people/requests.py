"""Whether something may be asked of a resource now. Pure; the operator decides again when it acts."""

from typing import Any

from flowstill.api.actions import ActionName
from flowstill.api.fields import StatusRef
from flowstill.errors import UserError
from flowstill_operator.children import Document
from flowstill_operator.distilljob.observe import TERMINAL as DISTILLJOB_ENDS
from flowstill_operator.rollout.observe import TERMINAL as ROLLOUT_ENDS
from flowstill_operator.rollout.people import RETRIABLE

ENDS = {"DistillJob": DISTILLJOB_ENDS, "StudentRollout": ROLLOUT_ENDS}
VERDICTS = frozenset({"Completed", "Rejected", "Inconclusive", "Superseded", "Succeeded"})


def check(action: ActionName, resource: Document) -> None:
    """Refuse what the operator would refuse.

    Raises:
        UserError: it does not apply to the resource as it is; with what does.
    """
    kind, name = resource["kind"], resource["metadata"]["name"]
    phase = (resource.get("status") or {}).get("phase", "Pending")
    ended = phase in ENDS[kind]
    if action == "approve":
        _check_approval(resource, phase)
    elif action == "abort" and ended:
        raise UserError(f"{kind} {name} has ended: {phase}; there is nothing to abort", field="NAME")
    elif action == "retry" and not ended:
        raise UserError(f"{kind} {name} is {phase}: retry is for what has failed; abort it first", field="NAME")
    elif action == "retry" and phase not in RETRIABLE:
        fix = "create a resource with a new name" if phase in VERDICTS else "wait"
        raise UserError(f"{kind} {name} is {phase}, and a verdict is not tried again: {fix}", field="NAME")


def evidence_of(resource: Document) -> StatusRef:
    """What a rollout was judged by.

    Raises:
        UserError: there is none yet.
    """
    evidence: Any = (resource.get("status") or {}).get("evidence")
    if evidence is None:
        phase = (resource.get("status") or {}).get("phase", "Pending")
        name = resource["metadata"]["name"]
        raise UserError(f"{resource['kind']} {name} is {phase} and has no evidence yet", field="NAME")
    return StatusRef.model_validate(evidence)


def _check_approval(resource: Document, phase: str) -> None:
    kind, name = resource["kind"], resource["metadata"]["name"]
    if kind != "StudentRollout":
        raise UserError(f"{kind} {name}: only a StudentRollout is approved", field="NAME")
    if phase == "AwaitingApproval":
        return
    automatic = (resource["spec"].get("approval") or "Automatic") == "Automatic"
    why = "spec.approval is Automatic" if automatic else "only a rollout that is AwaitingApproval is approved"
    raise UserError(f"StudentRollout {name} is {phase}: {why}", field="NAME")
