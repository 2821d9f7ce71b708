"""What a person can do about a resource as it is. Pure."""

from collections.abc import Sequence
from typing import Any

from flowstill.api.conditions import Condition, find_condition
from flowstill_operator.children import WAITING_FOR_QUOTA, Document
from flowstill_operator.observation import ENV_REFUSED, INVALID_SPEC, RESOURCES_REFUSED
from flowstill_operator.people.place import SHORT
from flowstill_operator.rollout.people import RETRIABLE
from flowstill_operator.told import TOO_LONG

NEW_NAME = "a resource with a new name"
ADVICE = {
    "Rejected": f"The evidence says that the student is worse: train another, and create {NEW_NAME}.",
    "Inconclusive": "The evidence is too thin, which is no rejection: raise spec.evaluation.maxEpisodesPerTask in "
    f"{NEW_NAME}.",
    "Monitoring": "Wait: the student is watched, and completes when its window has ended well.",
    "Superseded": f"What was compared is no longer what is served: create {NEW_NAME}, which compares with that.",
    "Suspended": "Nothing happens while spec.suspend is true: set it to false.",
    "Completed": "Nothing: it is done.",
    "Succeeded": "Nothing: the student is published. A StudentRollout proves it and rolls it out.",
}
UNPROVEN = (
    "The student is served, and its window saw too little: mend what the condition Monitored names, then create "
    f"{NEW_NAME}; or put the policy before it back by hand."
)
WAITING = {
    "WaitingForDistillJob": "It waits for its DistillJob.",
    "WaitingForTarget": "It waits for its Deployment: the message says what is missing.",
    "Unschedulable": "Its pod has no node: free or add what it asks for, or correct spec.runtime in a new resource.",
    "ImagePullBackOff": "Its image cannot be pulled: correct the image, or the pull secret.",
    "ErrImagePull": "Its image cannot be pulled: correct the image, or the pull secret.",
    WAITING_FOR_QUOTA: "It waits for quota: the condition Admitted names the queue.",
}
WRONG_FOR_GOOD = (INVALID_SPEC, ENV_REFUSED, RESOURCES_REFUSED, TOO_LONG)
"""Reasons of Validated that no change around the resource mends."""


STOPPED = "Nothing works on it: the command that was stopped goes on when it is given again."


def next_steps(resource: Document, *, local: bool, stopped: bool = False, prefix: str = "flowstill") -> list[str]:
    """Sentences and commands, the first first; ``stopped``: as a Place says; ``prefix``: how the commands are typed."""
    if stopped:
        return [STOPPED]
    status: dict[str, Any] = resource.get("status") or {}
    phase = status.get("phase", "Pending")
    conditions = [Condition.model_validate(item) for item in status.get("conditions") or []]
    metadata = resource["metadata"]
    name = f"{SHORT[resource['kind']]}/{metadata['name']}"
    where = "" if local else f" -n {metadata['namespace']}"
    watched = find_condition(conditions, "Monitored")
    blind = phase == "Inconclusive" and watched is not None
    steps = [UNPROVEN] if blind else [ADVICE[phase]] if phase in ADVICE else []
    drift = find_condition(conditions, "Drifted")
    if drift is not None and drift.status == "True":
        steps = [f"Somebody else changed the Deployment: {drift.message}."]
    if phase == "Monitoring":
        steps.append(f'To take it back now: {prefix} abort {name}{where} --reason "WHY"')
    if phase == "AwaitingApproval":
        approval = find_condition(conditions, "Approved")
        steps += [approval.message] if approval is not None and approval.reason != "AwaitingApproval" else []
        steps.append(f'{prefix} approve {name}{where} --reason "WHY"')
        steps.append(f'{prefix} abort {name}{where} --reason "WHY"')
    if phase in RETRIABLE:
        again = "the same command again" if local else f'{prefix} retry {name}{where} --reason "WHAT WAS MENDED"'
        fix = "" if _is_transient(conditions) else " (a spec that is wrong stays wrong: that needs a new name)"
        steps += [f"{prefix} logs {name}{where}", f"Mend what the message names, then: {again}{fix}"]
    if status.get("evidence") and phase not in ("Completed", "Failed"):
        steps.insert(0, f"{prefix} report {name}{where}")
    return steps or _while_it_runs(conditions, phase, f"{prefix} logs {name}{where} --follow")


def _while_it_runs(conditions: Sequence[Condition], phase: str, logs: str) -> list[str]:
    waiting = [WAITING[c.reason] for c in conditions if c.status == "Unknown" and c.reason in WAITING]
    if waiting:
        return waiting
    return (
        ["Nothing: the operator has not seen it yet."]
        if not conditions and phase == "Pending"
        else [f"Wait, or watch: {logs}"]
    )


def _is_transient(conditions: Sequence[Condition]) -> bool:
    """Whether trying again may help without another spec."""
    validated = find_condition(list(conditions), "Validated")
    return validated is None or validated.reason not in WRONG_FOR_GOOD
