"""A cluster in memory that can be killed before or after any effect."""

import copy
import itertools
import json

from flowstill_operator.children import is_finished
from flowstill_operator.clusters.interface import AlreadyExists, Conflict, FieldOwned, Sample


class Crash(BaseException):
    """The operator was killed: no handler of errors may catch it."""


class FakeCluster:
    def __init__(self):
        self.objects = {}
        self.pods_by_job = {}
        self.created = []
        self.deleted = []
        self.applied = []
        self.statuses = {}
        self.events = []
        self.work = {}
        self.crash_at = None
        self.conflicts = 0
        self.field_owner = None
        self.refuse_create = None
        self.slow_to_end = False
        self.samples = {}
        self._effects = 0
        self._versions = itertools.count(10)

    def put(self, document):
        document["metadata"]["resourceVersion"] = str(next(self._versions))
        kind, metadata = document["kind"], document["metadata"]
        self.objects[kind, metadata["namespace"], metadata["name"]] = document

    def arm(self, crash_at):
        """Be killed around the effect of that number: 2n before effect n, 2n + 1 after it."""
        self.crash_at, self._effects = crash_at, 0

    @property
    def count(self):
        """Effects since it was armed."""
        return self._effects

    def _effect(self, act):
        number, self._effects = self._effects, self._effects + 1
        if self.crash_at == 2 * number:
            raise Crash
        act()
        if self.crash_at == 2 * number + 1:
            raise Crash

    async def get(self, kind, namespace, name):
        return copy.deepcopy(self.objects.get((kind, namespace, name)))

    async def pods(self, job):
        return copy.deepcopy(self.pods_by_job.get(job["metadata"]["name"], []))

    async def find_pods(self, namespace, labels):
        every = [pod for pods in self.pods_by_job.values() for pod in pods]
        return copy.deepcopy([pod for pod in every if labels.items() <= pod["metadata"].get("labels", {}).items()])

    async def find_jobs(self, namespace, labels):
        return copy.deepcopy([job for job in self.jobs() if labels.items() <= job["metadata"]["labels"].items()])

    async def find_rollout(self, namespace, uid):
        rollouts = [thing for thing in self.objects.values() if thing["kind"] == "StudentRollout"]
        return copy.deepcopy(next((thing for thing in rollouts if thing["metadata"]["uid"] == uid), None))

    async def known_deployment(self, namespace, name):
        return await self.get("Deployment", namespace, name)

    async def known_jobs(self, namespace, labels):
        return await self.find_jobs(namespace, labels)

    async def delete_job(self, namespace, name, uid):
        found = self.objects.get(("Job", namespace, name))
        if found is not None and found["metadata"]["uid"] == uid:
            self._effect(lambda: self.delete(found))

    def delete(self, job):
        """It goes at once, or is seen as ending until ``let_go``."""
        self.deleted.append(job["metadata"]["name"])
        if self.slow_to_end and not is_finished(job):
            job["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            self.put(job)
        else:
            self.delete_job_object(job)

    def let_go(self):
        """The pods of Jobs that are being deleted are gone."""
        for job in self.jobs():
            if "deletionTimestamp" in job["metadata"]:
                self.delete_job_object(job)

    async def progress(self, pod):
        return None

    async def create(self, manifest):
        metadata = manifest["metadata"]
        key = (manifest["kind"], metadata["namespace"], metadata["name"])
        if self.refuse_create is not None:
            raise self.refuse_create
        if key in self.objects:
            raise AlreadyExists(metadata["name"])

        def act():
            document = copy.deepcopy(manifest)
            document["metadata"]["uid"] = f"job-{len(self.created)}"
            document["status"] = {}
            self.put(document)
            if manifest["kind"] == "Job":
                self.created.append(metadata["name"])
            if manifest["spec"].get("completionMode") == "Indexed":
                self.pods_by_job[metadata["name"]] = [
                    rank_pod(manifest, i) for i in range(manifest["spec"]["completions"])
                ]

        self._effect(act)

    async def apply_deployment(self, manifest):
        metadata = manifest["metadata"]
        found = self.objects.get(("Deployment", metadata["namespace"], metadata["name"]))
        if found is None or any(found["metadata"][key] != metadata[key] for key in ("uid", "resourceVersion")):
            raise Conflict(metadata["name"])
        if self.field_owner:
            raise FieldOwned(f"conflict with {self.field_owner}")

        def act():
            containers = manifest.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
            env = containers[0]["env"] if containers else []
            if found["spec"]["template"]["spec"]["containers"][0]["env"] != env:
                # Only another pod template is rolled out.
                found["spec"]["template"]["spec"]["containers"][0]["env"] = env
                found["status"]["availableReplicas"] = 0
            kept = {k: v for k, v in found["metadata"]["annotations"].items() if not k.startswith("flowstill.dev/")}
            found["metadata"]["annotations"] = {**kept, **metadata["annotations"]}
            self.put(found)
            self.applied.append(copy.deepcopy(manifest))

        self._effect(act)

    async def measure(self, query):
        return self.samples.get(query, Sample(None, "the query gives 0 series: there are no data"))

    async def write_status(self, resource, status):
        metadata = resource["metadata"]
        key = (resource["kind"], metadata["namespace"], metadata["name"])
        found = self.objects[key]
        if self.conflicts:
            self.conflicts -= 1
            self.put(found)
        if found["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
            raise Conflict(metadata["name"])
        # What cannot be written as JSON must not be written at all.
        written = json.loads(json.dumps(status, allow_nan=False))

        def act():
            found["status"] = written
            self.put(found)
            self.statuses.setdefault(key, []).append(copy.deepcopy(written))

        self._effect(act)

    async def record_event(self, resource, note):
        self._effect(lambda: self.events.append((resource["kind"], note.type, note.reason)))

    def ending(self):
        """Jobs that are being deleted: they are there until their pods are gone."""
        return [job for job in self.jobs() if "deletionTimestamp" in job["metadata"]]

    def jobs(self):
        return [document for (kind, _, _), document in sorted(self.objects.items()) if kind == "Job"]

    def end_job(self, job, *, complete, result=None, message=True, reason="BackoffLimitExceeded"):
        """The Job ends. Its result goes to the work folder, and to the pod's termination message when ``message``."""
        name = job["metadata"]["name"]
        work = json.loads(job["spec"]["template"]["metadata"]["annotations"]["flowstill.dev/spec"])["work"]
        if result is not None:
            self.work[work] = result
        text = result.model_dump_json(by_alias=True, exclude_none=True) if result is not None and message else ""
        kind = "Complete" if complete else "Failed"
        condition = {"type": kind, "status": "True", "reason": "" if complete else reason, "message": "it ended"}
        job["status"] = {"conditions": [condition], "succeeded": int(complete), "failed": int(not complete)}
        state = {"terminated": {"exitCode": 0 if complete else 1, "message": text}}
        if "backoffLimitPerIndex" in job["spec"]:
            self.end_shards(job, complete=complete, result=result if message else None)
            self.put(job)
            return
        self.pods_by_job[name] = [
            {
                "metadata": {"name": f"{name}-x", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "status": {"containerStatuses": [{"name": "child", "state": state}]},
            }
        ]
        self.put(job)

    def end_shards(self, job, *, complete, result):
        """All pods end well, or the last one fails too often and the others are ended."""
        pods = [pod for pod in self.pods_by_job[job["metadata"]["name"]] if pod["status"]["phase"] != "Failed"]
        for pod in pods:
            bad = not complete and pod is pods[-1]
            end_rank(pod, 1 if bad else 0 if complete else 143, result if complete else None)
        if not complete:
            job["status"]["failedIndexes"] = str(job["spec"]["completions"] - 1)

    def lose_shard(self, job, index):
        """The node under a shard is gone; the Job's controller makes another pod for it."""
        name = job["metadata"]["name"]
        *_, pod = [pod for pod in self.pods_by_job[name] if index_of(pod) == index]
        end_rank(pod, 137)
        pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
        again = rank_pod(job, index)
        again["metadata"]["name"] += f"-{len(self.pods_by_job[name])}"
        self.pods_by_job[name].append(again)
        self.put(job)

    def end_reader(self, job):
        """A reader finds what lies in the work folder, or fails."""
        work = json.loads(job["spec"]["template"]["metadata"]["annotations"]["flowstill.dev/spec"])["work"]
        result = self.work.get(work)
        self.end_job(job, complete=result is not None, result=result)

    def delete_job_object(self, job):
        """The Job and its pods are gone."""
        metadata = job["metadata"]
        self.objects.pop(("Job", metadata["namespace"], metadata["name"]))
        self.pods_by_job.pop(metadata["name"], None)

    def end_ranks(
        self, job, failure=None, *, codes, message="it ended", deleted=(), disrupted=(), result=None, now=None
    ):
        """An Indexed Job ends. ``codes``: exit codes by index, None of a pod that still runs; ``failure``: a reason."""
        name = job["metadata"]["name"]
        kind = "Failed" if failure else "Complete"
        condition = {"type": kind, "status": "True", "reason": failure or "", "message": message}
        if now is not None:
            condition["lastTransitionTime"] = now
            job["status"]["startTime"] = now
        job["status"]["conditions"] = [condition]
        for pod in self.pods_by_job[name]:
            index = int(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"])
            end_rank(pod, codes[index], result if index == 0 else None)
            if index in deleted:
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            if index in disrupted:
                pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
        self.put(job)


def index_of(pod):
    return int(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"])


def rank_pod(job, index):
    """The pod of that index, as its Job makes it."""
    name = job["metadata"]["name"]
    labels = {**job["spec"]["template"]["metadata"]["labels"], "batch.kubernetes.io/job-name": name}
    annotations = {"batch.kubernetes.io/job-completion-index": str(index)}
    return {
        "metadata": {"name": f"{name}-{index}-x", "labels": labels, "annotations": annotations},
        "status": {"phase": "Pending"},
    }


def end_rank(pod, code, result=None):
    """The pod ends with that exit code, or still runs when it is None."""
    if code is None:
        pod["status"] = {"phase": "Running"}
        return
    message = "" if result is None else result.model_dump_json(by_alias=True, exclude_none=True)
    state = {"terminated": {"exitCode": code, "message": message}}
    phase = "Failed" if code else "Succeeded"
    pod["status"] = {"phase": phase, "containerStatuses": [{"name": "child", "state": state}]}
