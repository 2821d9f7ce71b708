"""People approve, abort and retry at any moment, and the operator is killed around any effect.

What must hold: never two generations of one child, no promotion without an approval of this very evidence, each request
acts once, and what was aborted is not served.
"""

import asyncio
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowstill_operator.clusters.interface import Conflict
from flowstill_operator.engine.loop import Reconciler
from flowstill_operator.observation import is_finished
from tests.unit.operator.builders import (
    DISTILL,
    EVIDENCE,
    NOW,
    PLATFORM,
    RESULTS,
    ROLLOUT,
    STUDENT,
    TARGET_SPEC,
    deployment,
    digest,
    distill_spec,
    resource,
    rollout_spec,
)
from tests.unit.operator.fake_cluster import Crash, FakeCluster

KEYS = st.sampled_from([DISTILL, ROLLOUT])
TERMINAL = {"Succeeded", "Completed", "Superseded", "RolledBack", "Failed"}
RUNNER = asyncio.Runner()


class People(RuleBasedStateMachine):
    @initialize(manual=st.booleans())
    def begin(self, manual):
        self.manual, self.now, self.count, self.meddled = manual, NOW, 0, False
        self.cluster = FakeCluster()
        self.cluster.slow_to_end = True
        self.reconciler = Reconciler(self.cluster, PLATFORM, now=lambda: self.now)
        spec = rollout_spec(target=TARGET_SPEC, approval="Manual" if manual else "Automatic")
        self.cluster.put(resource("DistillJob", distill_spec(), name="dj", uid="u-dj"))
        self.cluster.put(resource("StudentRollout", spec, name="sr", uid="u-sr"))
        self.cluster.put({"kind": "Deployment", **deployment()})

    def found(self, key):
        return self.cluster.objects[tuple(key)]

    def phase(self, key):
        return self.found(key).get("status", {}).get("phase")

    def pass_over(self, key, crash_at=None):
        self.cluster.arm(crash_at)
        try:
            RUNNER.run(self.reconciler.reconcile(key))
        except (Crash, Conflict):
            pass
        finally:
            self.cluster.arm(None)

    @rule(key=KEYS, crash_at=st.none() | st.integers(0, 7), times=st.integers(1, 3))
    def look(self, key, crash_at, times):
        for _ in range(times):
            self.pass_over(key, crash_at)
            self.now += timedelta(seconds=5)

    def ask(self, key, action, value):
        found = self.found(key)
        found["metadata"].setdefault("annotations", {})[f"flowstill.dev/{action}"] = value
        self.cluster.put(found)

    @rule(key=KEYS, action=st.sampled_from(["abort", "retry", "retry"]))
    def somebody_asks(self, key, action):
        self.count += 1
        self.ask(key, action, f"t{self.count} alice: because")

    @rule(right=st.booleans())
    def somebody_approves(self, right):
        self.count += 1
        self.ask(ROLLOUT, "approve", f"{EVIDENCE.digest if right else digest('0')} bob: reason {self.count}")

    def unfinished(self):
        return [j for j in self.cluster.jobs() if not is_finished(j) and "deletionTimestamp" not in j["metadata"]]

    def end(self, job, well=True):
        role = job["metadata"]["labels"]["flowstill.dev/role"]
        if "-read-" in job["metadata"]["name"]:
            self.cluster.end_reader(job)
        else:
            self.cluster.end_job(job, complete=well, result=RESULTS[role]() if well else None)

    @precondition(lambda self: self.unfinished())
    @rule(index=st.integers(0, 9), well=st.sampled_from([True, True, False]))
    def a_job_ends(self, index, well):
        jobs = self.unfinished()
        self.end(jobs[index % len(jobs)], well)

    @rule()
    def pods_are_gone(self):
        self.cluster.let_go()

    @rule()
    def the_deployment_becomes_available(self):
        target = self.cluster.objects["Deployment", "robots", "robot"]
        target["status"]["availableReplicas"] = 2
        self.cluster.put(target)

    @invariant()
    def each_request_is_recorded_once(self):
        for key in (DISTILL, ROLLOUT):
            actions = self.found(key).get("status", {}).get("actions", [])
            seen = [(a["action"], a.get("token"), a["reason"]) for a in actions]
            assert len(set(seen)) == len(seen)

    @invariant()
    def only_an_approved_student_is_put(self):
        approved = [
            action
            for status in self.cluster.statuses.get(tuple(ROLLOUT), [])
            for action in status.get("actions", [])
            if action["action"] == "approve"
        ]
        assert all(action["digest"] == EVIDENCE.digest for action in approved)
        put = [m for m in self.cluster.applied if STUDENT.uri in str(m.get("spec"))]
        if self.manual and put:
            assert approved

    @invariant()
    def what_ended_badly_is_not_served(self):
        container = self.cluster.objects["Deployment", "robots", "robot"]["spec"]["template"]["spec"]["containers"][0]
        if self.phase(ROLLOUT) == "RolledBack":
            assert STUDENT.uri not in str(container["env"])

    @invariant()
    def no_job_of_a_resource_that_was_aborted_goes_on(self):
        for key in (DISTILL, ROLLOUT):
            status = self.found(key).get("status", {})
            aborted = {c["type"]: c["reason"] for c in status.get("conditions", [])}.get("Failed") == "Aborted"
            if aborted and status["phase"] == "Failed":
                owners = [j["metadata"]["labels"]["flowstill.dev/owner-name"] for j in self.unfinished()]
                assert key.name not in owners

    def teardown(self):
        """Left alone, everything ends; then a retry of what failed brings it to its good end."""
        if not hasattr(self, "cluster"):
            return
        for round_ in range(2):
            for _ in range(40):
                for key in (DISTILL, ROLLOUT):
                    self.pass_over(key)
                for job in self.unfinished():
                    self.end(job)
                self.cluster.let_go()
                self.the_deployment_becomes_available()
                if self.phase(ROLLOUT) == "AwaitingApproval":
                    self.count += 1
                    self.ask(ROLLOUT, "approve", f"{EVIDENCE.digest} bob: reason {self.count}")
                self.now += timedelta(seconds=5)
            assert {self.phase(DISTILL), self.phase(ROLLOUT)} <= TERMINAL
            if round_ == 0:
                for key in (DISTILL, ROLLOUT):
                    self.ask(key, "retry", "the-last mender: mended")
        assert (self.phase(DISTILL), self.phase(ROLLOUT)) == ("Succeeded", "Completed")


People.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestPeople = People.TestCase
