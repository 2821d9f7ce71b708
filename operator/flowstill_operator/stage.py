"""One child from its start to its result: what every stage of every plan does with it."""

from collections.abc import Callable
from dataclasses import dataclass

from flowstill.api.children import AnyTask, Result, ResultKind
from flowstill.api.conditions import find_condition
from flowstill_operator.children import Child
from flowstill_operator.steps import (
    READING,
    WAITING_TEXT,
    Draft,
    HasConditions,
    Move,
    Role,
    Wanted,
    condition_reason,
    judge_step,
    look_after,
    started,
)
from flowstill_operator.suspension import hold


@dataclass(frozen=True)
class Stage:
    """A child and how the status tells of it.

    Attributes:
        role: of the child.
        condition: that says how far it is.
        result: the kind of result that it ends with.
        not_started: reasons of the condition from before its start.
    """

    role: Role
    condition: str
    result: ResultKind
    not_started: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """The child of a stage and its reader as they were observed, and the image that a new one gets.

    ``suspended``: no new one is made.
    """

    child: Child
    reader: Child
    image: str
    suspended: bool = False


def run_stage[S: HasConditions](
    draft: Draft[S],
    stage: Stage,
    seen: Seen,
    task: Callable[[], AnyTask],
    fail: Callable[[str, str], Move],
    number: int = 1,
    shards: int = 1,
) -> Result | Move:
    """The child's result when it is there, else what to do.

    Args:
        draft: its condition and message are written here.
        stage: which child.
        seen: the child as it is.
        task: what a new child is told; called only when one is wanted.
        fail: ends the resource, given reason and message.
        number: of the round, of a child that there is once a round.
        shards: pods that share its work.
    """
    kind = stage.condition
    conditions = draft.before.conditions
    before = find_condition(conditions, kind)
    step = judge_step(
        stage.result,
        started(conditions, kind, stage.not_started),
        before is not None and before.reason == READING,
        seen.child,
        seen.reader,
    )
    match step.state:
        case "start" if seen.suspended:
            return hold(draft)
        case "start":
            draft.condition(kind, "Unknown", "Queued", WAITING_TEXT["queued"])
            draft.set(message=f"{stage.role}: {WAITING_TEXT['queued']}")
            return Move((Wanted(stage.role, task(), seen.image, round=number, shards=shards),))
        case "read":
            draft.condition(kind, "Unknown", READING, step.message)
            return Move((Wanted(stage.role, task(), seen.image, reader=True, round=number, shards=shards),))
        case "queued" | "running":
            draft.condition(kind, "Unknown", condition_reason(step.reason), step.message)
            if step.message:
                draft.set(message=f"{stage.role}: {step.message}"[:1024])
            if seen.child.progress is not None:
                report = seen.child.progress
                others = f"{seen.child.message}; " if seen.child.message else ""
                draft.set(message=f"{others}{report.activity}: {report.step} of {report.total_steps}"[:1024])
            return Move(requeue_after=look_after(step))
        case "done" if step.result is not None:
            return step.result
        case _:
            draft.condition(kind, "False", condition_reason(step.reason), step.message)
            return fail(step.reason, f"{stage.role}: {step.message}")
