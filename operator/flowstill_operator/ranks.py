"""Reading an Indexed Job: one attempt of a training on several nodes, a pod for each.

The Job tries nothing twice. An attempt fails as a whole, and this says whether its parent may start another.
"""

import signal
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from flowstill_operator.children import (
    USER_ERROR_EXIT_CODES,
    Child,
    Document,
    Retry,
    container_status,
    job_condition,
    newest,
    read_child,
    read_result,
    why_any_waits,
)

INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
INTERRUPTED_EXIT_CODE = 128 + signal.SIGTERM
DISRUPTED = "DisruptionTarget"
"""The condition of a pod that the cluster ends: evicted, preempted, drained, or gone with its node."""


def is_indexed(job: Document) -> bool:
    """Whether the Job has one pod for each node of one training."""
    return bool(job.get("spec", {}).get("completionMode") == "Indexed")


def completion_index(pod: Document) -> int | None:
    """Which node of an Indexed Job the pod is."""
    text = (pod["metadata"].get("annotations") or {}).get(INDEX_ANNOTATION)
    return int(text) if text is not None else None


def is_ended(pod: Document) -> bool:
    """Whether no container of the pod runs any more."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def speaker(job: Document, pods: Sequence[Document]) -> Document | None:
    """The pod that speaks for the Job: that of rank 0, or the newest of a Job that has one at a time."""
    return newest([pod for pod in pods if completion_index(pod) == 0] if is_indexed(job) else pods)


def read_ranks(job: Document | None, pods: Sequence[Document], uid: str) -> Child:
    """What ``job`` and its ``pods`` say to the resource with that UID; of an Indexed Job, what all its ranks say."""
    child = read_child(job, pods, uid)
    if job is None or not child.ours or not is_indexed(job):
        return child
    failure = job_condition(job, "Failed")
    if job_condition(job, "Complete"):
        return replace(child, result=read_result(speaker(job, pods)))
    if failure:
        return _failed(child, job, pods, failure)
    ending = job_condition(job, "FailureTarget")
    if ending:
        message = f"{ending.get('message') or 'it failed'}; waiting until all its pods have ended"
        return replace(child, state="Queued", reason="AttemptFailed", message=message)
    reason, message = why_any_waits(job, pods)
    running = sum(pod.get("status", {}).get("phase") == "Running" for pod in pods)
    together = running >= job["spec"]["parallelism"] and not reason
    return replace(child, state="Running" if together else "Queued", reason=reason, message=message)


def _failed(child: Child, job: Document, pods: Sequence[Document], failure: Document) -> Child:
    users = _is_users(child, pods)
    rank_0 = read_result(speaker(job, pods))
    results = [rank_0, *map(read_result, pods)]
    words = next((result for result in results if result is not None and result.outcome == "UserError"), None)
    crashes = [f"{pod['metadata']['name']}: exit code {code}" for pod in pods if (code := exit_code(pod))]
    start, end = job.get("status", {}).get("startTime"), failure.get("lastTransitionTime")
    return replace(
        child,
        result=words or rank_0,
        message="; ".join(part for part in (child.message, *crashes) if part),
        retry="never" if users else _retry(child, pods),
        speechless=users and words is None,
        ended=end,
        seconds=_seconds_between(start, end) if start and end else 0,
    )


def _is_users(child: Child, pods: Sequence[Document]) -> bool:
    """Whether any rank ended with a user's exit code; its pod may be gone, but then the Job says it."""
    by_policy = child.reason == "PodFailurePolicy" and DISRUPTED not in child.message
    return by_policy or any(exit_code(pod) in USER_ERROR_EXIT_CODES for pod in pods)


def _retry(child: Child, pods: Sequence[Document]) -> Retry:
    if child.reason == "PodFailurePolicy":
        return "free"
    if child.reason != "BackoffLimitExceeded":
        return "never"
    if any(_has(pod, DISRUPTED) for pod in pods):
        return "free"
    # Pods that ended before the Job failed; the Job's controller deletes the others, which end interrupted too.
    own = [exit_code(pod) for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    interrupted = bool(own) and all(code == INTERRUPTED_EXIT_CODE for code in own)
    return "free" if interrupted else "counted"


def exit_code(pod: Document | None) -> int | None:
    """With what the child's container ended; None while it has not."""
    code: int | None = ((container_status(pod).get("state") or {}).get("terminated") or {}).get("exitCode")
    return code


def _has(pod: Document, kind: str) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(c.get("type") == kind and c.get("status") == "True" for c in conditions)


def _seconds_between(since: str, until: str) -> int:
    return max(0, int((datetime.fromisoformat(until) - datetime.fromisoformat(since)).total_seconds()))
