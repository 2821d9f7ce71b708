"""The Jobs of the trainer, and of the evaluator that checks its export."""

from flowstill_operator.children import Document
from flowstill_operator.distilljob.observe import Observed
from flowstill_operator.jobs import child_job
from flowstill_operator.platform import Platform
from flowstill_operator.steps import Wanted


def manifest(observed: Observed, wanted: Wanted, platform: Platform) -> Document:
    """The Job of the child that the plan wants."""
    if observed.spec is None:
        raise ValueError("a plan wants no child of an invalid spec")
    runtime = observed.spec.runtime
    if wanted.role == "train":
        return child_job(observed.owner, wanted, ["flowstill-train"], runtime, platform)
    # One student of one robot: more than one GPU would only be waited for.
    small = runtime.model_copy(update={"gpus_per_node": min(1, runtime.gpus_per_node)})
    return child_job(observed.owner, wanted, ["flowstill-evaluate", wanted.role], small, platform)
