"""``flowstill-evaluate rollouts``: episodes in a simulator, or trials that were run elsewhere."""

from flowstill.api.children import Result, RolloutsTask
from flowstill.child.context import ChildContext
from flowstill_evaluator import rollouts, trials


def run(task: RolloutsTask, context: ChildContext) -> Result:
    """Publish the records of an evaluation.

    Raises:
        UserError: an artifact, a task, an arm or a record cannot work.
        Interrupted: asked to stop; what was done is kept.
    """
    return rollouts.run(task, context) if task.evaluation.evidence is None else trials.run(task, context)
