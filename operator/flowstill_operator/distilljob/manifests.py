"""The Jobs of the trainer, and of the evaluator that checks its export."""

from flowstill.api.distilljob import DistillJobStatus
from flowstill.api.runtime import Runtime
from flowstill_operator.children import Document
from flowstill_operator.distilljob.observe import Observed
from flowstill_operator.indexed import over_nodes, training_command
from flowstill_operator.jobs import child_job, with_deadline_left
from flowstill_operator.platform import Platform
from flowstill_operator.steps import Wanted


def what_is_left(wanted: Wanted, runtime: Runtime, status: DistillJobStatus) -> Runtime:
    """Without the failures and the seconds that this child has spent: suspension gives neither back.

    Who only reads a result has all of both, and the failures in the status are those of training.
    """
    if wanted.reader:
        return runtime
    if wanted.role != "train":
        return with_deadline_left(runtime, status.active_seconds)
    failures = max(0, (status.earlier_attempts or 0) - (status.disruptions or 0))
    left = runtime.model_copy(update={"backoff_limit": max(0, runtime.backoff_limit - failures)})
    return with_deadline_left(left, status.active_seconds)


def manifest(observed: Observed, wanted: Wanted, platform: Platform) -> Document:
    """The Job of the child that the plan wants."""
    if observed.spec is None:
        raise ValueError("a plan wants no child of an invalid spec")
    owner, runtime = observed.owner, what_is_left(wanted, observed.spec.runtime, observed.status)
    if wanted.role == "train":
        job = child_job(owner, wanted, training_command(owner, wanted, runtime, platform), runtime, platform)
        return over_nodes(job, owner, runtime.nodes) if runtime.nodes > 1 and not wanted.reader else job
    # One student of one robot: more than one GPU would only be waited for.
    small = runtime.model_copy(update={"gpus_per_node": min(1, runtime.gpus_per_node)})
    return child_job(observed.owner, wanted, ["flowstill-evaluate", wanted.role], small, platform)
