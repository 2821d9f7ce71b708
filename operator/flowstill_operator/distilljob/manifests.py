"""The Jobs of the trainer, and of the evaluator that checks its export."""

from flowstill_operator.children import Document
from flowstill_operator.distilljob.observe import Observed
from flowstill_operator.indexed import over_nodes, training_command
from flowstill_operator.jobs import child_job
from flowstill_operator.platform import Platform
from flowstill_operator.steps import Wanted


def manifest(observed: Observed, wanted: Wanted, platform: Platform) -> Document:
    """The Job of the child that the plan wants."""
    if observed.spec is None:
        raise ValueError("a plan wants no child of an invalid spec")
    owner, runtime = observed.owner, observed.spec.runtime
    if wanted.role == "train":
        command = training_command(owner, wanted, runtime, platform)
        if not wanted.attempt:
            return child_job(owner, wanted, command, runtime, platform)
        if runtime.active_deadline_seconds is not None:
            left = max(1, runtime.active_deadline_seconds - (observed.status.active_seconds or 0))
            runtime = runtime.model_copy(update={"active_deadline_seconds": left})
        return over_nodes(child_job(owner, wanted, command, runtime, platform), owner, runtime.nodes)
    # One student of one robot: more than one GPU would only be waited for.
    small = runtime.model_copy(update={"gpus_per_node": min(1, runtime.gpus_per_node)})
    return child_job(observed.owner, wanted, ["flowstill-evaluate", wanted.role], small, platform)
