"""The tasks that an evaluation names, held against those of a suite."""

from collections.abc import Mapping, Sequence

from flowstill.errors import UserError

FIELD = "spec.evaluation.tasks"
_MOST_NAMED = 60


def once(tasks: Sequence[str]) -> None:
    """Refuse a task that is listed twice.

    Raises:
        UserError: one is.
    """
    if len(set(tasks)) != len(tasks):
        raise UserError("a task is listed twice; list each task once", field=FIELD)


def chosen(suite: str, known: Mapping[str, str], tasks: Sequence[str]) -> dict[str, str]:
    """The sentences of ``tasks``.

    Args:
        suite: its name, for messages.
        known: the sentence of every task that it has.
        tasks: those asked for.

    Raises:
        UserError: a task that the suite does not have, or has twice in ``tasks``.
    """
    once(tasks)
    for task in tasks:
        if task not in known:
            names = sorted(known)
            more = f", and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            raise UserError(
                f"the suite {suite} has no task {task!r}; it has {', '.join(names[:_MOST_NAMED])}{more}", field=FIELD
            )
    return {task: known[task] for task in tasks}
