"""The evaluator's Jobs."""

from flowstill_operator.children import Document
from flowstill_operator.jobs import child_job, with_deadline_left
from flowstill_operator.platform import Platform
from flowstill_operator.rollout.observe import Observed
from flowstill_operator.shards import in_shards
from flowstill_operator.steps import Wanted


def manifest(observed: Observed, wanted: Wanted, platform: Platform) -> Document:
    """The Job of the child that the plan wants."""
    if observed.spec is None:
        raise ValueError("a plan wants no child of an invalid spec")
    spent = None if wanted.reader else observed.status.active_seconds
    runtime = with_deadline_left(observed.spec.runtime, spent)
    job = child_job(observed.owner, wanted, ["flowstill-evaluate", wanted.role], runtime, platform)
    return in_shards(job, wanted) if wanted.shards > 1 and not wanted.reader else job
