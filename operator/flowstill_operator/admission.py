"""Kueue: a Job with ``runtime.queueName`` is suspended until there is quota for it. Pure.

Kueue owns the Job's ``suspend``: it is read here and never written.
"""

from flowstill.api.runtime import Runtime
from flowstill_operator.children import WAITING_FOR_QUOTA, Child, waiting_for_quota
from flowstill_operator.steps import Draft, HasConditions

CONDITION = "Admitted"
ADMITTED = "Admitted"
ADMITTED_TEXT = "the Job is not suspended"


def note_admission[S: HasConditions](draft: Draft[S], runtime: Runtime, child: Child) -> None:
    """Say whether the child that the resource is at waits for quota; nothing where nobody queues Jobs."""
    if not child.at_work:
        return
    if child.held_back:
        draft.condition(CONDITION, "False", WAITING_FOR_QUOTA, waiting_for_quota(child.queue))
    elif runtime.queue_name is not None or draft.find(CONDITION) is not None:
        draft.condition(CONDITION, "True", ADMITTED, ADMITTED_TEXT)
