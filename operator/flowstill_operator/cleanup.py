"""Time to live: the Jobs of a resource that has ended are deleted, the resource never is.

It counts from the end of the resource and not of each Job: what a Job says is read before it may go, and an earlier
attempt is there as long as the last. The status of what has ended is not touched.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from flowstill.api.runtime import Runtime
from flowstill_operator.actions import child_job
from flowstill_operator.children import owned_by
from flowstill_operator.clusters.interface import Reads
from flowstill_operator.jobs import Owner, owner_labels
from flowstill_operator.steps import ChildJob, Plan, parse_timestamp


class HasEnd(Protocol):
    """A status that says when its resource ended."""

    @property
    def completion_time(self) -> str | None:
        """RFC 3339; None of what has not ended."""


async def known_children(cluster: Reads, owner: Owner, runtime: Runtime) -> tuple[ChildJob, ...]:
    """The Jobs of a resource that has ended, where they have a time to live; the API server is not asked."""
    if runtime.ttl_seconds_after_finished is None:
        return ()
    jobs = await cluster.known_jobs(owner.namespace, owner_labels(owner))
    return tuple(child_job(job) for job in jobs if owned_by(job, owner.uid))


def clean_up[S: HasEnd](status: S, runtime: Runtime | None, jobs: Sequence[ChildJob], now: datetime) -> Plan[S]:
    """Delete the Jobs when their time has come, or look again then."""
    left = tuple(job for job in jobs if not job.ending)
    ttl = None if runtime is None else runtime.ttl_seconds_after_finished
    if not left or ttl is None or status.completion_time is None:
        return Plan(status)
    wait = (parse_timestamp(status.completion_time) + timedelta(seconds=ttl) - now).total_seconds()
    return Plan(status, requeue_after=wait) if wait > 0 else Plan(status, delete=left)
