"""The loop over a cluster in memory, killed at any effect, with lost, doubled and reordered events.

What must hold whatever happens: at most one Job per role, no lost decision, a terminal status is final, and the
target changes only after a judged pass.
"""

import asyncio
import copy
import json
import re
from collections import Counter
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowstill_operator.clusters.heard import Hearsay
from flowstill_operator.clusters.interface import Conflict
from flowstill_operator.engine.loop import Reconciler
from flowstill_operator.observation import is_finished
from tests.unit.operator.builders import (
    DISTILL,
    NOW,
    PLATFORM,
    RESULTS,
    ROLLOUT,
    STUDENT,
    TARGET_SPEC,
    TERMINAL,
    deployment,
    distill_spec,
    gates,
    judged,
    parity,
    records,
    resource,
    rollout_spec,
)
from tests.unit.operator.fake_cluster import Crash, FakeCluster, end_rank, index_of
from tests.unit.operator.gossip import Gossip

CONDITIONS = {
    ("DistillJob", "train"): "Trained",
    ("DistillJob", "parity"): "ParityVerified",
    ("StudentRollout", "parity"): "Validated",
    ("StudentRollout", "rollouts"): "Evaluated",
    ("StudentRollout", "judge"): "GatesPassed",
}
ENDS = {"Pass": {"Completed", "RolledBack", "Superseded"}, "Fail": {"Rejected"}, "Inconclusive": {"Inconclusive"}}
RUNNER = asyncio.Runner()
EPISODES = [10, 10, 20]
"""Of every task in each round."""
crashes = st.none() | st.integers(0, 7)


def task_of(job):
    return json.loads(job["spec"]["template"]["metadata"]["annotations"]["flowstill.dev/spec"])


def number_of(job):
    """Which round it is of."""
    found = re.search(r"-(\d+)(-read)?-[0-9a-f]{8}$", job["metadata"]["name"])
    return int(found[1]) if found else 1


class Chain(RuleBasedStateMachine):
    @initialize(
        verdict=st.sampled_from(sorted(ENDS)),
        with_target=st.booleans(),
        healthy=st.booleans(),
        after=st.booleans(),
        export=st.sampled_from(["same", "same", "other", "other without the child noticing"]),
        rounds=st.integers(1, 3),
        shards=st.sampled_from([1, 3]),
        known=st.sampled_from([False, False, False, True]),
    )
    def begin(self, verdict, with_target, healthy, after, export, rounds, shards, known):
        self.rounds, self.shards, self.known = rounds, shards, known
        self.after, self.export = after, export
        self.cluster, self.now = FakeCluster(), NOW
        self.cluster.slow_to_end = True
        self.verdict, self.with_target, self.healthy = verdict, with_target, healthy
        self.frozen, self.user_failed, self.meddled = {}, False, False
        self.gossip = Gossip(self.cluster)
        hearsay = Hearsay(self.gossip.heard, {})
        self.reconciler = Reconciler(self.cluster, PLATFORM, now=lambda: self.now, hearsay=hearsay)
        extra = {"target": TARGET_SPEC} if with_target else {}
        limits = {"episodesPerTask": EPISODES[0], "maxEpisodesPerTask": sum(EPISODES), "shards": shards}
        extra["evaluation"] = {"suite": "metaworld", "tasks": ["reach", "push"], **limits}
        self.cluster.put(resource("DistillJob", distill_spec(validation={"after": after}), name="dj", uid="u-dj"))
        self.cluster.put(
            resource("StudentRollout", rollout_spec(student={"distillJob": "dj"}, **extra), name="sr", uid="u-sr")
        )
        self.cluster.put({"kind": "Deployment", **deployment()})

    def pass_over(self, key, crash_at=None, doubted=False):
        self.cluster.arm(crash_at)
        try:
            RUNNER.run(self.reconciler.reconcile(key, doubted=doubted))
            self.what_says_that_it_is_suspended_has_no_child_at_work(key)
        except (Crash, Conflict):
            pass
        finally:
            self.cluster.arm(None)

    def what_says_that_it_is_suspended_has_no_child_at_work(self, key):
        status = self.cluster.objects[tuple(key)]["status"]
        if status["phase"] == "Suspended":
            jobs = [job for job in self.cluster.jobs() if not is_finished(job)]
            assert key.name not in [job["metadata"]["labels"]["flowstill.dev/owner-name"] for job in jobs]
            assert {c["type"]: c["status"] for c in status["conditions"]}["Suspended"] == "True"

    @rule(key=st.sampled_from([DISTILL, ROLLOUT]), crash_at=crashes, times=st.integers(1, 3), doubted=st.booleans())
    def look(self, key, crash_at, times, doubted):
        for _ in range(times):
            self.pass_over(key, crash_at, doubted)

    @rule(index=st.integers(0, 9))
    def news_of_something_arrives(self, index):
        self.gossip.tell(index)

    @rule()
    def somebody_writes_meanwhile(self):
        self.cluster.conflicts = 1

    @rule(seconds=st.one_of(st.integers(0, 90), st.sampled_from([-3600, -3 * 86_400, 3 * 86_400])))
    def time_passes(self, seconds):
        """And clocks are set, back too."""
        self.now += timedelta(seconds=seconds)

    def unfinished(self):
        return [job for job in self.cluster.jobs() if not is_finished(job) and job not in self.cluster.ending()]

    def asked(self, key, suspend):
        resource = self.cluster.objects[tuple(key)]
        resource["spec"]["suspend"] = suspend
        self.cluster.put(resource)

    @rule(key=st.sampled_from([DISTILL, ROLLOUT]), suspend=st.booleans())
    def somebody_suspends_or_resumes(self, key, suspend):
        self.asked(key, suspend)

    @precondition(lambda self: self.cluster.ending())
    @rule(index=st.integers(0, 9))
    def the_pods_of_a_deleted_job_are_gone(self, index):
        jobs = self.cluster.ending()
        self.cluster.delete_job_object(jobs[index % len(jobs)])

    def end(self, job, message=True):
        labels = job["metadata"]["labels"]
        role = labels["flowstill.dev/role"]
        if "-read-" in job["metadata"]["name"]:
            self.cluster.end_reader(job)
            return
        result = self.judgement(job) if role == "judge" else RESULTS[role]()
        if (labels["flowstill.dev/owner-kind"], role) == ("DistillJob", "parity") and self.export != "same":
            noticed = self.export == "other"
            result = parity(difference=0.5, **({"outcome": "UserError", "reason": "ParityFailed"} if noticed else {}))
            self.cluster.end_job(job, complete=not noticed, result=result, message=message)
            return
        if self.known and (labels["flowstill.dev/owner-kind"], role) == ("StudentRollout", "parity"):
            found = judged(self.verdict)
            facts = {name: getattr(found, name) for name in ("verdict", "gates", "arms", "evidence")}
            result = parity(reason="Reused", reused=True, **facts)
        self.cluster.end_job(job, complete=True, result=result, message=message)

    def judgement(self, job):
        """Undecided until the last round, whose verdict is the only one."""
        task = task_of(job)
        run = task.get("episodes", EPISODES[0])
        assert len(task.get("rounds", [1])) == number_of(job)
        if number_of(job) == self.rounds:
            return judged(self.verdict)
        return judged(
            None, wanted_episodes=run + EPISODES[number_of(job)], evidence=None, gates=gates(S3="Inconclusive")
        )

    def sharded(self):
        return [job for job in self.unfinished() if "backoffLimitPerIndex" in job["spec"]]

    @precondition(lambda self: self.sharded())
    @rule(index=st.integers(0, 9), shard=st.integers(0, 2), what=st.sampled_from(["run", "end", "lose"]))
    def a_shard_goes_its_own_way(self, index, shard, what):
        jobs = self.sharded()
        job = jobs[index % len(jobs)]
        pods = [pod for pod in self.cluster.pods_by_job[job["metadata"]["name"]] if index_of(pod) == shard]
        if what == "lose":
            self.cluster.lose_shard(job, shard)
        else:
            end_rank(pods[-1], None if what == "run" else 0, records())

    @precondition(lambda self: self.unfinished())
    @rule(index=st.integers(0, 9), message=st.booleans())
    def a_job_succeeds(self, index, message):
        jobs = self.unfinished()
        self.end(jobs[index % len(jobs)], message)

    @precondition(lambda self: self.unfinished())
    @rule(index=st.integers(0, 9))
    def a_job_fails(self, index):
        jobs = [job for job in self.unfinished() if "-read-" not in job["metadata"]["name"]]
        if jobs:
            self.cluster.end_job(jobs[index % len(jobs)], complete=False)
            self.user_failed = True

    @precondition(lambda self: self.cluster.jobs())
    @rule(index=st.integers(0, 9))
    def a_finished_job_is_collected(self, index):
        """Only a Job whose start is in a status: one that nobody ever saw cannot be known."""
        jobs = [
            job
            for job in self.cluster.jobs()
            if is_finished(job) and self.seen(job) and "-read-" not in job["metadata"]["name"]
        ]
        if jobs:
            self.cluster.delete_job_object(jobs[index % len(jobs)])

    def seen(self, job):
        labels = job["metadata"]["labels"]
        owner = self.cluster.objects[labels["flowstill.dev/owner-kind"], "robots", labels["flowstill.dev/owner-name"]]
        status = owner.get("status", {})
        if labels["flowstill.dev/role"] in ("rollouts", "judge") and number_of(job) < status.get("round", 1):
            return True
        reasons = {c["type"]: c["reason"] for c in status.get("conditions", [])}
        kind = CONDITIONS[labels["flowstill.dev/owner-kind"], labels["flowstill.dev/role"]]
        begun_again = ("MoreEpisodes", "Undecided", "Suspending", "Suspended")
        return reasons.get(kind) not in (None, "Pending", "WaitingForDistillJob", *begun_again)

    @rule()
    def the_deployment_becomes_available(self):
        if self.healthy:
            target = self.cluster.objects["Deployment", "robots", "robot"]
            target["status"]["availableReplicas"] = 2
            self.cluster.put(target)

    @precondition(lambda self: self.with_target)
    @rule()
    def somebody_else_changes_the_deployment(self):
        other = "store://students/other@sha256:" + "7" * 64
        target = self.cluster.objects["Deployment", "robots", "robot"]
        target["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "FLOWSTILL_POLICY", "value": other}]
        self.cluster.put(target)
        self.meddled = True

    @invariant()
    def one_job_per_role(self):
        """It is made again only after suspension has deleted it."""
        assert Counter(self.cluster.created) <= Counter([*set(self.cluster.created), *self.cluster.deleted])

    @invariant()
    def no_episode_is_run_twice_or_left_out(self):
        jobs = [job for job in self.cluster.jobs() if job["metadata"]["labels"]["flowstill.dev/role"] == "rollouts"]
        jobs = [job for job in jobs if "-read-" not in job["metadata"]["name"]]
        for job in jobs:
            task, number = task_of(job), number_of(job)
            assert (task.get("firstEpisode", 0), task["episodes"]) == (
                sum(EPISODES[: number - 1]),
                EPISODES[number - 1],
            )
            assert job["spec"].get("completions", 1) == min(self.shards, 2 * EPISODES[number - 1])
            assert number <= self.rounds

    @invariant()
    def there_is_one_verdict_and_it_is_the_last_rounds(self):
        status = self.cluster.objects[tuple(ROLLOUT)].get("status", {})
        found = {c["type"]: c["status"] for c in status.get("conditions", [])}
        if self.known:
            roles = {job["metadata"]["labels"]["flowstill.dev/role"] for job in self.cluster.jobs()}
            assert not roles & {"rollouts", "judge"}, "what was judged before is not evaluated again"
            assert status.get("rounds", []) == []
        elif status.get("phase") in {"Completed", "Rejected", "Inconclusive"} or found.get("GatesPassed") == "True":
            assert (status["round"], status["episodes"]) == (self.rounds, sum(EPISODES[: self.rounds]))
            assert status["rounds"] == EPISODES[: self.rounds]

    @invariant()
    def a_terminal_status_is_final(self):
        for key in (DISTILL, ROLLOUT):
            status = self.cluster.objects[tuple(key)].get("status", {})
            # What others do to the target afterwards is said, and nothing else changes.
            status = {**status, "conditions": [c for c in status.get("conditions", []) if c["type"] != "Drifted"]}
            if key in self.frozen:
                assert status == self.frozen[key]
            elif status.get("phase") in TERMINAL:
                self.frozen[key] = copy.deepcopy(status)

    @invariant()
    def no_success_without_the_parity_that_was_asked_for(self):
        status = self.cluster.objects[tuple(DISTILL)].get("status", {})
        found = {c["type"]: c["status"] for c in status.get("conditions", [])}
        if status.get("phase") == "Succeeded":
            assert found.get("ParityVerified") == ("True" if self.after else None)
            assert not self.after or self.export == "same"
        if found.get("Published") == "True":
            assert status["student"]["uri"] == STUDENT.uri
        roles = [job["metadata"]["labels"] for job in self.cluster.jobs()]
        asked = any((r["flowstill.dev/owner-name"], r["flowstill.dev/role"]) == ("dj", "parity") for r in roles)
        assert self.after or not asked

    @invariant()
    def the_target_changes_only_after_a_written_pass(self):
        if not self.cluster.applied:
            return
        assert self.verdict == "Pass"
        history = self.cluster.statuses[tuple(ROLLOUT)]
        written = [c for status in history for c in status["conditions"] if c["type"] == "GatesPassed"]
        assert any(c["status"] == "True" for c in written)

    def teardown(self):
        """Nothing was lost: left alone, everything comes to the end that its results say."""
        if not hasattr(self, "cluster"):
            return
        self.cluster.conflicts = 0
        for key in (DISTILL, ROLLOUT):
            self.asked(key, False)
        for _ in range(60):
            for job in self.cluster.ending():
                self.cluster.delete_job_object(job)
            for key in (DISTILL, ROLLOUT):
                self.gossip.tell_all()
                self.pass_over(key)
            for job in self.unfinished():
                self.end(job)
            self.the_deployment_becomes_available()
            self.now += timedelta(seconds=20)
            if all(self.cluster.objects[tuple(key)]["status"]["phase"] in TERMINAL for key in (DISTILL, ROLLOUT)):
                break
        self.one_job_per_role()
        self.no_episode_is_run_twice_or_left_out()
        self.there_is_one_verdict_and_it_is_the_last_rounds()
        self.a_terminal_status_is_final()
        self.the_target_changes_only_after_a_written_pass()
        self.no_success_without_the_parity_that_was_asked_for()
        distilled = self.cluster.objects[tuple(DISTILL)]["status"]["phase"]
        assert self.user_failed or distilled == ("Failed" if self.after and self.export != "same" else "Succeeded")
        end = self.cluster.objects[tuple(ROLLOUT)]["status"]["phase"]
        if self.user_failed:
            assert end in TERMINAL
        elif distilled == "Failed":
            assert end == "Failed"
            assert self.cluster.objects[tuple(ROLLOUT)].get("status", {}).get("student") is None
        elif not self.with_target:
            assert end == {"Pass": "Completed"}.get(self.verdict) or end in ENDS[self.verdict] - {"Completed"}
        elif not self.meddled:
            expected = ENDS[self.verdict] - {"Superseded"}
            assert end in expected
            assert self.healthy or end != "Completed"
        else:
            assert end in ENDS[self.verdict] | {"Superseded"}
        if end == "RolledBack":
            container = self.cluster.objects["Deployment", "robots", "robot"]["spec"]["template"]["spec"]["containers"][
                0
            ]
            assert STUDENT.uri not in str(container["env"])


Chain.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestChain = Chain.TestCase
