"""A student is watched while pods restart and go, Prometheus fails, others meddle, and the operator is killed.

What must hold: no window is cut short or ended well by what was not seen, what breached is not served, and no effect
or status write comes between two checks.
"""

import asyncio
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowstill_operator.clusters.interface import Conflict, Sample
from flowstill_operator.engine.loop import Key, Reconciler
from flowstill_operator.observation import is_finished
from flowstill_operator.steps import parse_timestamp
from tests.unit.operator.builders import NOW, PLATFORM, RESULTS, STUDENT, deployment, resource
from tests.unit.operator.fake_cluster import Crash, FakeCluster
from tests.unit.operator.watching import STUDENT_TEXT, pod, spec

ROLLOUT = Key("StudentRollout", "robots", "sr")
TERMINAL = {"Completed", "RolledBack", "Superseded", "Inconclusive", "Failed"}
OTHER = "store://students/other@sha256:" + "7" * 64
QUERY, WINDOW, INTERVAL, MOST = "sum(errors)", 600, 60, 2
VALUES = {"good": Sample(0.1), "bad": Sample(0.9), "none": Sample(None, "no series")}
RUNNER = asyncio.Runner()


class Watched(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.cluster, self.now = FakeCluster(), NOW
        self.reconciler = Reconciler(self.cluster, PLATFORM, now=lambda: self.now)
        self.cluster.put(resource("StudentRollout", spec(), name="sr", uid="u-sr"))
        self.cluster.put({"kind": "Deployment", **deployment()})
        self.pods = {"robot-abc-0": 1}
        self.born, self.restarts, self.meddled, self.aborted, self.clean = 1, 0, False, False, True
        self.say("good")
        self.show_pods()
        while self.status().get("phase") != "Monitoring":
            self.pass_over()
            for job in [job for job in self.cluster.jobs() if not is_finished(job)]:
                role = job["metadata"]["labels"]["flowstill.dev/role"]
                self.cluster.end_job(job, complete=True, result=RESULTS[role]())
            target = self.target()
            target["status"]["availableReplicas"] = 2
            self.cluster.put(target)
        self.since = self.status()["monitoring"]["startTime"]
        self.writes = len(self.cluster.statuses[tuple(ROLLOUT)])

    def status(self):
        return self.cluster.objects[tuple(ROLLOUT)].get("status", {})

    def target(self):
        return self.cluster.objects["Deployment", "robots", "robot"]

    def served(self):
        env = self.target()["spec"]["template"]["spec"]["containers"][0]["env"]
        return env[0]["value"] if env else None

    def condition(self, kind):
        return next((c for c in self.status().get("conditions", []) if c["type"] == kind), {})

    def signals(self):
        return {signal["name"]: signal for signal in self.status()["monitoring"]["signals"]}

    def say(self, which):
        self.cluster.samples[QUERY] = VALUES[which]

    def show_pods(self):
        self.cluster.pods_by_job["robot"] = [pod(name, count) for name, count in self.pods.items()]

    def pass_over(self, crash_at=None):
        self.cluster.arm(crash_at)
        try:
            RUNNER.run(self.reconciler.reconcile(ROLLOUT))
        except (Crash, Conflict):
            pass
        finally:
            self.cluster.arm(None)

    @rule(crash_at=st.none() | st.integers(0, 3), times=st.integers(1, 3))
    def look(self, crash_at, times):
        for _ in range(times):
            self.pass_over(crash_at)

    @rule(seconds=st.sampled_from([5, 30, 60, 60, 60, 200]))
    def time_passes(self, seconds):
        self.now += timedelta(seconds=seconds)
        self.pass_over()

    @rule(which=st.sampled_from([*VALUES, "good"]))
    def the_query_says(self, which):
        self.clean = self.clean and which == "good"
        self.say(which)

    @precondition(lambda self: self.pods)
    @rule(index=st.integers(0, 3), times=st.integers(1, 3))
    def a_container_is_restarted(self, index, times):
        name = sorted(self.pods)[index % len(self.pods)]
        self.pods[name] += times
        self.restarts += times * (self.status()["phase"] == "Monitoring")
        self.show_pods()

    @rule(keep=st.booleans())
    def a_pod_is_replaced(self, keep):
        if self.pods and not keep:
            self.pods.pop(min(self.pods))
        self.pods[f"robot-abc-{self.born}"] = 0
        self.born += 1
        self.show_pods()

    @rule()
    def somebody_writes_meanwhile(self):
        self.cluster.conflicts = 1

    @rule(other=st.booleans())
    def somebody_else_changes_the_deployment(self, other):
        target = self.target()
        env = [{"name": "FLOWSTILL_POLICY", "value": OTHER}] if other else []
        target["spec"]["template"]["spec"]["containers"][0]["env"] = env
        self.cluster.put(target)
        self.meddled = True

    @rule()
    def somebody_aborts(self):
        found = self.cluster.objects[tuple(ROLLOUT)]
        found["metadata"].setdefault("annotations", {})["flowstill.dev/abort"] = "t1 alice: it stutters"
        self.cluster.put(found)
        self.aborted = True

    @invariant()
    def restarts_are_never_more_than_there_were(self):
        value = self.signals()["restarts"]["value"]
        history = [
            next(s["value"] for s in status["monitoring"]["signals"] if s["name"] == "restarts")
            for status in self.cluster.statuses[tuple(ROLLOUT)]
            if "monitoring" in status
        ]
        assert history == sorted(history)
        assert value <= self.restarts

    @invariant()
    def checks_and_writes_are_as_few_as_the_interval_says(self):
        elapsed = (self.now - parse_timestamp(self.since)).total_seconds()
        for signal in self.signals().values():
            assert signal["samples"] + signal["missing"] <= elapsed / INTERVAL + 2
        # Besides the checks: the end, an action, drift, and what a crash made to be done again.
        assert len(self.cluster.statuses[tuple(ROLLOUT)]) - self.writes <= elapsed / INTERVAL + 8

    @invariant()
    def a_window_ends_well_only_when_everything_was_seen_and_is_good(self):
        status = self.status()
        if self.condition("Monitored").get("status") == "True":
            assert all(signal["samples"] >= 1 and not signal["breaches"] for signal in self.signals().values())
            assert self.signals()["restarts"]["value"] <= MOST
        if status["phase"] == "Completed":
            end = parse_timestamp(status["completionTime"])
            assert (end - parse_timestamp(self.since)).total_seconds() >= WINDOW
        completed = self.target()["metadata"]["annotations"].get("flowstill.dev/last-completed")
        if completed == STUDENT_TEXT:
            assert any(
                (c["type"], c["status"]) == ("Monitored", "True")
                for written in self.cluster.statuses[tuple(ROLLOUT)]
                for c in written["conditions"]
            )

    @invariant()
    def what_was_taken_back_is_not_served_and_had_a_reason(self):
        if self.status()["phase"] == "RolledBack":
            assert self.served() != STUDENT_TEXT or self.meddled
            errors = self.signals()["errors"]
            assert self.aborted or self.restarts > MOST or errors["breaches"] >= 2

    @invariant()
    def what_breached_once_never_ends_well(self):
        breached = any(
            (c["type"], c["reason"]) == ("Monitored", "SignalBreached")
            for status in self.cluster.statuses[tuple(ROLLOUT)]
            for c in status["conditions"]
        )
        assert not (breached and self.status()["phase"] in ("Monitoring", "Completed", "Inconclusive"))

    @invariant()
    def what_others_put_stays(self):
        if self.meddled:
            assert self.served() in (OTHER, None)
            assert STUDENT.uri not in str([m.get("spec") for m in self.cluster.applied[1:]])

    @invariant()
    def only_what_others_did_is_drift(self):
        drifted = self.condition("Drifted").get("status") == "True"
        assert self.meddled or not drifted

    def teardown(self):
        """Left alone, with a good answer and no more restarts, it comes to an end."""
        if not hasattr(self, "since"):
            return
        self.cluster.conflicts = 0
        self.say("good")
        for _ in range(40):
            self.pass_over()
            self.now += timedelta(seconds=20)
        for check in (
            self.restarts_are_never_more_than_there_were,
            self.checks_and_writes_are_as_few_as_the_interval_says,
            self.a_window_ends_well_only_when_everything_was_seen_and_is_good,
            self.what_was_taken_back_is_not_served_and_had_a_reason,
            self.what_breached_once_never_ends_well,
            self.what_others_put_stays,
            self.only_what_others_did_is_drift,
        ):
            check()
        phase = self.status()["phase"]
        assert phase in TERMINAL
        if self.meddled and self.condition("Promoted")["status"] == "True":
            assert self.condition("Drifted")["status"] == "True"
        if not (self.meddled or self.aborted or self.restarts > MOST) and self.clean:
            assert phase == "Completed"


Watched.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestWatched = Watched.TestCase
