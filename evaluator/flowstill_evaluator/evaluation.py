"""``flowstill-evaluate rollouts``: episodes in a simulator, or trials that were run elsewhere."""

from flowstill.api.children import Result, RolloutsTask
from flowstill.child.context import ChildContext


def run(task: RolloutsTask, context: ChildContext) -> Result:
    """Publish the records of an evaluation.

    Raises:
        UserError: an artifact, a task, an arm or a record cannot work.
        Interrupted: asked to stop; what was done is kept.
    """
    # Only here: neither needs what the other imports, which takes seconds.
    if task.evaluation.evidence is not None:
        from flowstill_evaluator import trials

        return trials.run(task, context)
    from flowstill_evaluator import rollouts

    return rollouts.run(task, context)
