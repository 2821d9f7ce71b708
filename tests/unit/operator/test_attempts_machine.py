"""A training on two nodes over a cluster in memory: attempts fail in every way, the operator is killed at any effect.

What must hold whatever happens: never two generations of ranks at work, a Job for every number once, failures counted
and disruptions not, a user's error and a terminal status final.
"""

import asyncio
import copy
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowstill_operator.children import is_finished
from flowstill_operator.clusters.interface import Conflict
from flowstill_operator.distilljob.attempts import MAX_BACK_OFF_SECONDS
from flowstill_operator.engine.loop import Key, Reconciler
from flowstill_operator.ranks import is_ended
from flowstill_operator.steps import timestamp
from tests.unit.operator.builders import NOW, PLATFORM, distill_spec, resource, trained
from tests.unit.operator.fake_cluster import Crash, FakeCluster, end_rank

KEY = Key("DistillJob", "robots", "dj")
TERMINAL = {"Succeeded", "Failed"}
RUNNER = asyncio.Runner()
SPENT, POLICY = "BackoffLimitExceeded", "PodFailurePolicy"
USER = trained(outcome="UserError", reason="TeacherRejected", student=None)
WAYS = {
    "crash": (SPENT, (137, 143), {"deleted": (1,)}),
    "error": (SPENT, (1, 1), {}),
    "drained": (
        POLICY,
        (143, 143),
        {"message": "Pod x has condition DisruptionTarget matching FailJob rule at index 1"},
    ),
    "interrupted": (SPENT, (143, 143), {}),
    "user": (POLICY, (65, 65), {"message": "exit code 65 matching FailJob rule at index 0", "result": USER}),
}
FREE = {"drained", "interrupted"}


class Watched(FakeCluster):
    """Says what is wrong at the moment when a Job is made."""

    def __init__(self):
        super().__init__()
        self.wrong = []

    async def create(self, manifest):
        before = set(self.created)
        try:
            await super().create(manifest)
        finally:
            made = set(self.created) - before
            left = [
                pod["metadata"]["name"]
                for job, pods in self.pods_by_job.items()
                for pod in pods
                if job not in made and "-read-" not in job and not is_ended(pod)
            ]
            ranks = made and manifest["spec"].get("completionMode") == "Indexed"
            if ranks and left:
                self.wrong.append(f"{made} began while {left} were at work")
            service = manifest["spec"].get("template", {}).get("spec", {}).get("subdomain")
            if ranks and ("Service", "robots", service) not in self.objects:
                self.wrong.append(f"{made} began without its Service")


class Attempts(RuleBasedStateMachine):
    @initialize(limit=st.integers(0, 2))
    def begin(self, limit):
        self.cluster, self.now, self.limit = Watched(), NOW, limit
        self.cluster.slow_to_end = True
        self.failures, self.ends_badly, self.frozen, self.done, self.suspend = 0, False, None, False, False
        self.reconciler = Reconciler(self.cluster, PLATFORM, now=lambda: self.now)
        spec = distill_spec(runtime={"nodes": 2, "backoffLimit": limit})
        self.cluster.put(resource("DistillJob", spec, name="dj", uid="u-dj"))

    def pass_over(self, crash_at=None):
        self.cluster.arm(crash_at)
        try:
            RUNNER.run(self.reconciler.reconcile(KEY))
            if self.suspend and self.status()["phase"] == "Suspended":
                assert self.at_work() == []
                assert self.left() == []
        except (Crash, Conflict):
            pass
        finally:
            self.cluster.arm(None)

    def status(self):
        return self.cluster.objects[tuple(KEY)].get("status", {})

    def attempts(self):
        return [job for job in self.cluster.jobs() if job["spec"].get("completionMode") == "Indexed"]

    def at_work(self):
        return [job for job in self.attempts() if not is_finished(job) and job not in self.cluster.ending()]

    def seen(self, job):
        """Whether a status says that this attempt was begun: one that nobody ever saw cannot be known."""
        number = int(job["metadata"]["name"].split("-")[-2])
        reasons = {c["type"]: c["reason"] for c in self.status().get("conditions", [])}
        begun = reasons.get("Trained") not in (None, "Pending", "Restarting", "Suspending", "Suspended")
        return number < self.status().get("attempts", 0) or (number == self.status().get("attempts") and begun)

    @rule(crash_at=st.none() | st.integers(0, 7), times=st.integers(1, 3), seconds=st.sampled_from([0, 15, 300]))
    def look(self, crash_at, times, seconds):
        self.now += timedelta(seconds=seconds)
        for _ in range(times):
            self.pass_over(crash_at)

    @rule(suspend=st.booleans())
    def somebody_suspends_or_resumes(self, suspend):
        resource = self.cluster.objects[tuple(KEY)]
        resource["spec"]["suspend"] = self.suspend = suspend
        self.cluster.put(resource)

    @rule(at_once=st.booleans())
    def a_deleted_job_is_gone(self, at_once):
        """``at_once``: somebody else deleted it in the background, and its pods are left for a while."""
        for job in self.cluster.ending():
            pods = self.cluster.pods_by_job[job["metadata"]["name"]]
            self.cluster.delete_job_object(job)
            if at_once:
                self.cluster.pods_by_job[job["metadata"]["name"]] = [pod for pod in pods if not is_ended(pod)]

    @rule()
    def somebody_writes_meanwhile(self):
        self.cluster.conflicts = 1

    @precondition(lambda self: self.at_work())
    @rule()
    def the_ranks_run(self):
        for pod in self.cluster.pods_by_job[self.at_work()[0]["metadata"]["name"]]:
            pod["status"] = {"phase": "Running"}

    @precondition(lambda self: self.at_work())
    @rule(way=st.sampled_from(sorted(WAYS)), left=st.sampled_from(["both", "one at work", "none"]))
    def an_attempt_fails(self, way, left):
        """``left``: its pods when the Job says so; the Job alone knows of an interruption by them."""
        [job] = self.at_work()
        failure, codes, more = WAYS[way]
        if left == "one at work":
            codes, more = (codes[0], None), {**more, "deleted": (*more.get("deleted", ()), 1)}
        self.cluster.end_ranks(job, failure, codes=codes, now=timestamp(self.now), **more)
        if left == "none" and way != "interrupted":
            self.cluster.pods_by_job[job["metadata"]["name"]] = []
            self.cluster.work["store://work/u-dj/train"] = more.get("result")
        self.failures += way not in FREE
        self.ends_badly |= way == "user" or self.failures > self.limit

    @precondition(lambda self: self.left())
    @rule()
    def pods_that_were_left_end(self):
        for pod in self.left():
            end_rank(pod, 143)

    def left(self):
        """Ranks that are at work though their Job has ended, or is gone."""
        working = {job["metadata"]["name"] for job in self.at_work()}
        every = self.cluster.pods_by_job.items()
        others = [pods for name, pods in every if name not in working and "-read-" not in name]
        return [pod for pods in others for pod in pods if not is_ended(pod)]

    @precondition(lambda self: self.at_work())
    @rule(message=st.booleans())
    def an_attempt_succeeds(self, message):
        self.succeed(message)

    def succeed(self, message=True):
        [job] = self.at_work()
        self.cluster.work["store://work/u-dj/train"] = trained()
        self.cluster.end_ranks(job, codes=(0, 0), result=trained() if message else None)
        self.done = True

    @precondition(lambda self: self.attempts())
    @rule(index=st.integers(0, 9))
    def a_job_is_collected(self, index):
        """By its time to live, or by somebody: its pods outlive it for a while."""
        jobs = [job for job in self.attempts() if self.seen(job)]
        if not jobs:
            return
        job = jobs[index % len(jobs)]
        name = job["metadata"]["name"]
        number = int(name.split("-")[-2])
        # Before its failure was seen nobody knows it: the attempt is missing, and never begins again.
        self.ends_badly |= number == self.status()["attempts"] and not self.done
        self.cluster.objects.pop(("Job", "robots", name))
        self.cluster.pods_by_job[name] = [pod for pod in self.cluster.pods_by_job[name] if not is_ended(pod)]

    @rule()
    def the_reader_ends(self):
        for job in self.cluster.jobs():
            if "-read-" in job["metadata"]["name"] and not is_finished(job):
                self.cluster.end_reader(job)

    @invariant()
    def nothing_wrong_was_made(self):
        if hasattr(self, "cluster"):
            assert self.cluster.wrong == []
            assert len(self.at_work()) <= 1
            assert len(set(self.cluster.created)) == len(self.cluster.created)

    @invariant()
    def numbers_follow_each_other(self):
        if hasattr(self, "cluster"):
            made = [name for name in self.cluster.created if "-read-" not in name]
            assert [int(name.split("-")[-2]) for name in made] == list(range(1, len(made) + 1))
            # That attempt 1 began may not be written yet.
            written = max(self.status().get("attempts", 0), min(1, len(made)))
            assert written - len(made) in (0, 1)

    @invariant()
    def a_terminal_status_is_final(self):
        if not hasattr(self, "cluster"):
            return
        if self.frozen is not None:
            assert self.status() == self.frozen
        elif self.status().get("phase") in TERMINAL:
            self.frozen = copy.deepcopy(self.status())

    def teardown(self):
        """Left alone it ends: trained, unless it failed as often as it may, for good, or unseen."""
        if not hasattr(self, "cluster"):
            return
        self.cluster.conflicts = 0
        self.somebody_suspends_or_resumes(False)
        for _ in range(40):
            self.a_deleted_job_is_gone(at_once=False)
            self.pods_that_were_left_end()
            self.pass_over()
            self.the_reader_ends()
            if self.at_work():
                self.succeed()
            self.now += timedelta(seconds=MAX_BACK_OFF_SECONDS)
            self.nothing_wrong_was_made()
            self.a_terminal_status_is_final()
            if self.status()["phase"] in TERMINAL:
                break
        assert self.status()["phase"] == ("Failed" if self.ends_badly else "Succeeded"), self.status()
        if self.status()["phase"] == "Succeeded":
            made = len([name for name in self.cluster.created if "-read-" not in name])
            assert self.status()["attempts"] == made
            assert made - self.status().get("disruptions", 0) == self.failures + 1


Attempts.TestCase.settings = settings(
    max_examples=50, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAttempts = Attempts.TestCase
