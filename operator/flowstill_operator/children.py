"""Reading a child: what a Job and its pods say, as one small value."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError

from flowstill.api.children import ProgressReport, Result

Document = dict[str, Any]
"""A Kubernetes object as JSON."""

CONTAINER = "child"
WAITING_FOR_QUOTA = "WaitingForQuota"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
FEWEST_PODS = "kueue.x-k8s.io/job-min-parallelism"
"""Annotation: with so many pods at a time a Job may begin where its queue has no quota for all (partial admission)."""
USER_ERROR_EXIT_CODES = tuple(range(64, 79))
ChildState = Literal["Missing", "Queued", "Running", "Succeeded", "Failed"]
Retry = Literal["never", "counted", "free"]


@dataclass(frozen=True)
class Child:
    """A child Job as its parent sees it.

    Attributes:
        retry: whether the parent may start another attempt, and whether that counts against
            ``spec.runtime.backoffLimit``: only after a failure on several nodes, since on one the Job itself retries.
        speechless: it failed with a user's exit code, and the words about it went with their pod.
        ended: when an attempt on several nodes failed (RFC 3339).
        seconds: from its start to that failure.
        name, uid: of its Job.
        started: since when its Job is not suspended (RFC 3339).
        failures: of its pods, as far as its Job counts them against its backoffLimit.
        ending: its Job is being deleted, and is there until its pods are gone.
        held_back: whoever queues Jobs has suspended its Job.
        queue: that its Job is in.
    """

    state: ChildState = "Missing"
    ours: bool = True
    attempts: int = 0
    image: str | None = None
    result: Result | None = None
    reason: str = ""
    message: str = ""
    progress: ProgressReport | None = None
    retry: Retry = "never"
    speechless: bool = False
    ended: str | None = None
    seconds: int = 0
    name: str = ""
    uid: str = ""
    started: str | None = None
    failures: int = 0
    ending: bool = False
    held_back: bool = False
    queue: str = ""

    @property
    def at_work(self) -> bool:
        """Whether there is a Job of ours that has not ended."""
        return self.ours and self.state in ("Queued", "Running")


MISSING = Child()


def owned_by(document: Document, uid: str) -> bool:
    """Whether the controller of that object is the resource with this UID."""
    owners = document.get("metadata", {}).get("ownerReferences") or []
    return any(owner.get("uid") == uid and owner.get("controller") for owner in owners)


def job_condition(job: Document, kind: str) -> Document | None:
    """The Job's condition of that type, when it is True."""
    conditions = job.get("status", {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == kind and c.get("status") == "True"), None)


def is_finished(job: Document) -> bool:
    """Whether the Job ended, either way."""
    return job_condition(job, "Complete") is not None or job_condition(job, "Failed") is not None


def newest(pods: Sequence[Document]) -> Document | None:
    """The pod that was created last."""
    return max(
        pods,
        key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", pod["metadata"].get("name", "")),
        default=None,
    )


def read_result(pod: Document | None) -> Result | None:
    """The Result in the pod's termination message; None when there is none that can be read."""
    status = container_status(pod)
    message = ((status.get("state") or {}).get("terminated") or {}).get("message") or ""
    lines = [line for line in message.splitlines() if line.strip()]
    if not lines:
        return None
    try:
        return Result.model_validate_json(lines[-1])
    except ValidationError:
        return None


def read_child(job: Document | None, pods: Sequence[Document], uid: str) -> Child:
    """What ``job`` and its ``pods`` say to the resource with that UID."""
    if job is None:
        return MISSING
    if not owned_by(job, uid):
        return Child(state="Running", ours=False)
    pod = newest(pods)
    counts = job.get("status", {})
    attempts = sum(int(counts.get(key) or 0) for key in ("active", "succeeded", "failed"))
    child = Child(
        attempts=attempts,
        image=job["spec"]["template"]["spec"]["containers"][0].get("image"),
        name=job["metadata"]["name"],
        uid=job["metadata"].get("uid", ""),
        started=counts.get("startTime"),
        failures=int(counts.get("failed") or 0),
        ending="deletionTimestamp" in job["metadata"],
        held_back=bool(job["spec"].get("suspend")),
        queue=_queue(job),
    )
    if job_condition(job, "Complete"):
        return replace(child, state="Succeeded", result=read_result(pod))
    failure = job_condition(job, "Failed")
    if failure:
        return replace(
            child,
            state="Failed",
            result=read_result(pod),
            reason=failure.get("reason") or "JobFailed",
            message=failure.get("message") or "",
        )
    reason, message = why_waiting(job, pod)
    # A pod that ended well is at work until its Job says so: to call it queued again would be a step back.
    running = pod is not None and pod.get("status", {}).get("phase") in ("Running", "Succeeded") and not reason
    return replace(child, state="Running" if running else "Queued", reason=reason, message=message)


def waiting_for_quota(queue: str) -> str:
    """What a Job that is held back waits for, and where it is said why it gets none."""
    where = f" of queue {queue} (why: kubectl describe workload)" if queue else ""
    return f"the Job is suspended: it waits for quota{where}"


def _queue(job: Document) -> str:
    name: str = (job["metadata"].get("labels") or {}).get(QUEUE_LABEL, "")
    return name


def container_status(pod: Document | None) -> Document:
    """The status of the child's container; empty before there is one."""
    statuses = (pod or {}).get("status", {}).get("containerStatuses") or []
    found: Document = next((s for s in statuses if s.get("name") == CONTAINER), {})
    return found


def why_waiting(job: Document, pod: Document | None) -> tuple[str, str]:
    """Why the child does not run yet: suspended, unschedulable, its image cannot be pulled."""
    if job.get("spec", {}).get("suspend"):
        return WAITING_FOR_QUOTA, waiting_for_quota(_queue(job))
    waiting = (container_status(pod).get("state") or {}).get("waiting") or {}
    if waiting.get("reason"):
        return waiting["reason"], waiting.get("message") or ""
    for condition in (pod or {}).get("status", {}).get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return condition.get("reason") or "Unschedulable", condition.get("message") or ""
    return "", ""


def why_any_waits(job: Document, pods: Sequence[Document]) -> tuple[str, str]:
    """The same of the first of several pods that waits; of the Job alone while it has none."""
    reasons = [why_waiting(job, pod) for pod in pods] or [why_waiting(job, None)]
    return next((found for found in reasons if found[0]), ("", ""))
