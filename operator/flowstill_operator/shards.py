"""An evaluation in shards: an Indexed Job whose pods do not know each other, and what it says as a whole.

Each shard is tried again by itself. One that has failed too often ends the whole: what the others would still find out
is of no use without it, and what they did lies in their work folders.
"""

from collections.abc import Sequence
from dataclasses import replace

from flowstill.api.children import Result
from flowstill_operator.children import (
    FEWEST_PODS,
    QUEUE_LABEL,
    Child,
    Document,
    job_condition,
    newest,
    read_child,
    read_result,
    why_any_waits,
)
from flowstill_operator.ranks import completion_index, exit_code, read_ranks, speaker
from flowstill_operator.steps import Wanted

MAX_NAMED = 4


def in_shards(job: Document, wanted: Wanted) -> Document:
    """The Job with a pod for each shard; ``backoffLimit`` is each one's own. A queue may run them one by one."""
    spec = {key: value for key, value in job["spec"].items() if key != "backoffLimit"}
    metadata = job["metadata"]
    if QUEUE_LABEL in metadata.get("labels", {}):
        metadata = {**metadata, "annotations": {**metadata.get("annotations", {}), FEWEST_PODS: "1"}}
    return {
        **job,
        "metadata": metadata,
        "spec": {
            **spec,
            "completionMode": "Indexed",
            "completions": wanted.shards,
            "parallelism": wanted.shards,
            "backoffLimitPerIndex": job["spec"]["backoffLimit"],
            "maxFailedIndexes": 0,
        },
    }


def is_sharded(job: Document) -> bool:
    """Whether the pods of an Indexed Job are tried again one by one."""
    return "backoffLimitPerIndex" in job.get("spec", {})


def read_job(job: Document | None, pods: Sequence[Document], uid: str) -> Child:
    """What a child Job of any shape and its ``pods`` say to the resource with that UID."""
    if job is None or not is_sharded(job):
        return read_ranks(job, pods, uid)
    child = read_child(job, pods, uid)
    if not child.ours:
        return child
    if job_condition(job, "Complete"):
        return replace(child, result=_whole(pods))
    if job_condition(job, "Failed"):
        return _failed(child, job, pods)
    running = [pod for pod in pods if pod.get("status", {}).get("phase") == "Running"]
    reason, message = why_any_waits(job, pods)
    done = f"{job.get('status', {}).get('succeeded') or 0} of {job['spec']['completions']} shards are done"
    if running:
        return replace(child, state="Running", reason="", message=done)
    return replace(child, state="Queued", reason=reason, message=message)


def talker(job: Document, pods: Sequence[Document]) -> Document | None:
    """The pod to ask how far a child is: of shards the first that still runs."""
    if not is_sharded(job):
        return speaker(job, pods)
    running = [pod for pod in pods if pod.get("status", {}).get("phase") == "Running"]
    return min(running, key=lambda pod: completion_index(pod) or 0, default=None)


def _whole(pods: Sequence[Document]) -> Result | None:
    """That all shards succeeded, in the words of any of them; what each published it wrote into its work folder."""
    results = [result for result in map(read_result, pods) if result is not None and result.outcome == "Succeeded"]
    return results[0].model_copy(update={"rollouts": None, "message": "all shards were run"}) if results else None


def _failed(child: Child, job: Document, pods: Sequence[Document]) -> Child:
    """The words of a user's error, else those of the shard that failed too often."""
    said = [(pod, result) for pod in pods if (result := read_result(pod)) is not None]
    users = next(((pod, result) for pod, result in said if result.outcome == "UserError"), None)
    if users is not None:
        return replace(child, result=_of_shard(job, *users), message=users[1].message)
    if child.reason == "PodFailurePolicy":
        return replace(child, result=None, speechless=True)
    failed = _failed_indexes(job)
    last = newest([pod for pod in pods if completion_index(pod) in failed and exit_code(pod)])
    result = None if last is None else read_result(last)
    named = ", ".join(str(index + 1) for index in failed[:MAX_NAMED])
    more = f" and {len(failed) - MAX_NAMED} more" if len(failed) > MAX_NAMED else ""
    which = f"shard {named}{more} of {job['spec']['completions']}" if failed else ""
    tries = f"failed {int(job['spec']['backoffLimitPerIndex']) + 1} times, the last with exit code {exit_code(last)}"
    text = "; ".join(part for part in (f"{which} {tries}" if last is not None else which, child.message) if part)
    if last is not None and result is not None and result.outcome == "Error":
        return replace(child, result=_of_shard(job, last, result), message=text)
    return replace(child, result=None, message=text)


def _of_shard(job: Document, pod: Document, result: Result) -> Result:
    number = (completion_index(pod) or 0) + 1
    text = f"shard {number} of {job['spec']['completions']}: {result.message}"
    return result.model_copy(update={"message": text[:1024]})


def _failed_indexes(job: Document) -> list[int]:
    """Indexes of ``status.failedIndexes``, which is like ``1,3-5``."""
    found: list[int] = []
    for part in (job.get("status", {}).get("failedIndexes") or "").split(","):
        first, _, last = part.partition("-")
        if first:
            found += range(int(first), int(last or first) + 1)
    return found
