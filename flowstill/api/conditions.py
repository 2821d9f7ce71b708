"""Conditions: the contract between the operator and everybody who waits."""

from typing import Annotated, Literal

from pydantic import Field

from flowstill.api.fields import Message, StatusModel, Timestamp

Truth = Literal["True", "False", "Unknown"]


class Condition(StatusModel):
    """One fact about a resource, in the shape of ``metav1.Condition``."""

    type: Annotated[str, Field(min_length=1, max_length=64)]
    status: Truth
    reason: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
    message: Message = ""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    last_transition_time: Timestamp


def find_condition(conditions: list[Condition], kind: str) -> Condition | None:
    """The condition of that type, or None."""
    return next((c for c in conditions if c.type == kind), None)


def set_condition(
    conditions: list[Condition],
    kind: str,
    status: Truth,
    reason: str,
    message: str,
    *,
    generation: int,
    now: str,
) -> list[Condition]:
    """A new list with that condition set; its transition time moves only when its status changes."""
    message = message if len(message) <= 1024 else message[:1021] + "..."
    before = find_condition(conditions, kind)
    since = before.last_transition_time if before and before.status == status else now
    new = Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message,
        observed_generation=generation,
        last_transition_time=since,
    )
    if before is None:
        return [*conditions, new]
    return [new if c.type == kind else c for c in conditions]
