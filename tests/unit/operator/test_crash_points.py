"""Every story of a DistillJob and its rollout, told again with the operator killed around each of its effects in turn.

An effect is a Job made or deleted, the Deployment changed, a status written, an event posted; the operator is killed
before it or after it, with the effect done and nothing else. The story ends as if it had not been killed.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowstill_operator.children import is_finished
from flowstill_operator.clusters.interface import Conflict, Sample
from flowstill_operator.engine.loop import Key, Reconciler
from tests.unit.operator.builders import (
    DISTILL,
    EVIDENCE,
    NOW,
    PLATFORM,
    RESULTS,
    ROLLOUT,
    TARGET_SPEC,
    TERMINAL,
    deployment,
    distill_spec,
    gates,
    judged,
    resource,
    rollout_spec,
)
from tests.unit.operator.fake_cluster import Crash, FakeCluster
from tests.unit.operator.watching import ERRORS, pod

RUNNER = asyncio.Runner()
ROUNDS = 60
EPISODES = (10, 10)
WATCH = {"window": "1m", "interval": "20s", "queries": [ERRORS]}


@dataclass(frozen=True)
class Story:
    """What happens, whoever is killed.

    Attributes:
        ends: phases of the DistillJob and the rollout.
        verdict: of the last of ``rounds``.
        fails: the child that ends with a user's error.
        mute: the child whose words are lost with its pod.
        says: what Prometheus says of the promoted student while it is watched; without it nobody watches.
        suspend: the resource that is suspended when it is in that phase, and resumed when it is at rest.
        asks: what somebody asks for when a resource is in a phase: (that, its phase, of which, action).
    """

    ends: tuple[str, str] = ("Succeeded", "Completed")
    verdict: str = "Pass"
    rounds: int = 1
    shards: int = 1
    target: bool = True
    healthy: bool = True
    after: bool = False
    nodes: int = 1
    manual: bool = False
    fails: str = ""
    mute: str = ""
    says: float | None = None
    suspend: tuple[str, Key] | None = None
    ttl: int | None = None
    asks: tuple[tuple[Key, str, Key, str], ...] = ()


ABORT, RETRY = (DISTILL, "Queued", DISTILL, "abort"), (ROLLOUT, "Failed", DISTILL, "retry")
STORIES = {
    "served": Story(),
    "no target": Story(target=False),
    "rejected": Story(ends=("Succeeded", "Rejected"), verdict="Fail"),
    "inconclusive": Story(ends=("Succeeded", "Inconclusive"), verdict="Inconclusive"),
    "two rounds": Story(rounds=2),
    "two rounds in shards": Story(rounds=2, shards=3),
    "in shards": Story(shards=3),
    "rolled back": Story(ends=("Succeeded", "RolledBack"), healthy=False),
    "watched": Story(says=0.1),
    "watched and rolled back": Story(ends=("Succeeded", "RolledBack"), says=0.9),
    "watched and aborted": Story(
        ends=("Succeeded", "RolledBack"), says=0.1, asks=((ROLLOUT, "Monitoring", ROLLOUT, "abort"),)
    ),
    "parity of the export": Story(after=True),
    "trainer's words lost": Story(mute="train"),
    "judge's words lost": Story(mute="judge"),
    "parity's words lost": Story(mute="parity", after=True),
    "records lost": Story(mute="rollouts", rounds=2),
    "training fails": Story(ends=("Failed", "Failed"), fails="train"),
    "parity fails": Story(ends=("Succeeded", "Failed"), fails="parity"),
    "episodes fail": Story(ends=("Succeeded", "Failed"), fails="rollouts"),
    "judge fails": Story(ends=("Succeeded", "Failed"), fails="judge"),
    "suspended at once": Story(suspend=("", DISTILL)),
    "suspended while it trains": Story(suspend=("Queued", DISTILL)),
    "suspended while it is judged": Story(suspend=("Judging", ROLLOUT)),
    "approved": Story(manual=True, asks=((ROLLOUT, "AwaitingApproval", ROLLOUT, "approve"),)),
    "training aborted": Story(ends=("Failed", "Failed"), asks=(ABORT,)),
    "training retried": Story(ends=("Succeeded", "Failed"), asks=(ABORT, RETRY)),
    "both retried": Story(asks=(ABORT, RETRY, (DISTILL, "Succeeded", ROLLOUT, "retry"))),
    "rollout aborted": Story(ends=("Succeeded", "Failed"), asks=((ROLLOUT, "Evaluating", ROLLOUT, "abort"),)),
    "a time to live": Story(ttl=5),
    "two nodes": Story(nodes=2),
}


@dataclass
class Told:
    """One telling: the cluster at its end, and how many effects there were."""

    cluster: FakeCluster
    effects: int
    crashes: int = 0
    created: Counter[str] = field(default_factory=Counter)


class Teller:
    def __init__(self, story: Story, crash_at: list[int]):
        self.story, self.crash_at = story, sorted(crash_at, reverse=True)
        self.cluster, self.now, self.crashes, self.effects = FakeCluster(), NOW, 0, 0
        self.cluster.slow_to_end = True
        self.suspended: list[bool] = []
        runtime: dict[str, Any] = {} if story.ttl is None else {"ttlSecondsAfterFinished": story.ttl}
        distill = distill_spec(validation={"after": story.after}, runtime={**runtime, "nodes": story.nodes})
        evaluation = {"suite": "metaworld", "tasks": ["reach", "push"], "shards": story.shards}
        evaluation |= {"episodesPerTask": EPISODES[0], "maxEpisodesPerTask": sum(EPISODES)}
        extra: dict[str, Any] = {"target": TARGET_SPEC} if story.target else {}
        if story.says is not None:
            extra["monitoring"] = WATCH
            self.cluster.samples[ERRORS["query"]] = Sample(story.says)
            self.cluster.pods_by_job["robot"] = [pod("robot-abc-1")]
        extra["approval"] = "Manual" if story.manual else "Automatic"
        rollout = rollout_spec(student={"distillJob": "dj"}, evaluation=evaluation, runtime=runtime, **extra)
        self.cluster.put(resource("DistillJob", distill, name="dj", uid="u-dj"))
        self.cluster.put(resource("StudentRollout", rollout, name="sr", uid="u-sr"))
        self.cluster.put({"kind": "Deployment", **deployment()})
        if story.suspend is not None and not story.suspend[0]:
            self.set_suspend(story.suspend[1], True)
        self.arm()

    def arm(self):
        """Be killed at the next point; points are counted from the last crash on."""
        self.cluster.arm(self.crash_at.pop() if self.crash_at else None)

    def found(self, key):
        return self.cluster.objects[tuple(key)]

    def tell(self) -> Told:
        """Until both have ended, and nothing more happens."""
        rest = 0
        for _ in range(ROUNDS):
            crashes = self.crashes
            for key in (DISTILL, ROLLOUT):
                self.look(key)
            self.now += timedelta(seconds=20)
            if self.crashes > crashes and (self.story.asks or self.story.suspend):
                # Else it would be a race between people and children.
                continue
            self.people_act()
            self.cluster.let_go()
            if not self.unanswered():
                self.children_end()
            rest = rest + 1 if self.ended() else 0
            if rest == 3:
                break
        self.effects += self.cluster.count
        return Told(self.cluster, self.effects, self.crashes, Counter(self.cluster.created))

    def look(self, key):
        try:
            RUNNER.run(Reconciler(self.cluster, PLATFORM, now=lambda: self.now).reconcile(key))
        except Crash:
            self.crashes += 1
            self.effects += self.cluster.count
            self.arm()
        except Conflict:
            pass

    def phase(self, key):
        return self.found(key).get("status", {}).get("phase", "")

    def people_act(self):
        if self.story.suspend is not None:
            phase, key = self.story.suspend
            if not self.suspended and self.phase(key) == phase:
                self.set_suspend(key, True)
            elif self.suspended == [True] and self.phase(key) == "Suspended":
                self.set_suspend(key, False)
        for watched, phase, key, action in self.story.asks:
            annotations = self.found(key)["metadata"].setdefault("annotations", {})
            if self.phase(watched) == phase and f"flowstill.dev/{action}" not in annotations:
                token = EVIDENCE.digest if action == "approve" else "t1"
                annotations[f"flowstill.dev/{action}"] = f"{token} alice: because"
                self.cluster.put(self.found(key))

    def set_suspend(self, key, value):
        self.suspended.append(value)
        self.found(key)["spec"]["suspend"] = value
        self.cluster.put(self.found(key))

    def unanswered(self):
        """Somebody wants something, and the operator has not done it yet: else it would be a race with the children."""
        if self.story.suspend is not None and self.suspended == [True]:
            return True
        for _, _, key, action in self.story.asks:
            done = {one["action"] for one in self.found(key).get("status", {}).get("actions", [])}
            if f"flowstill.dev/{action}" in self.found(key)["metadata"].get("annotations", {}) and action not in done:
                return True
        return False

    def ended(self):
        return all(self.found(key).get("status", {}).get("phase") in TERMINAL for key in (DISTILL, ROLLOUT))

    def children_end(self):
        for job in [job for job in self.cluster.jobs() if not is_finished(job)]:
            self.end(job)
        if self.story.healthy:
            target = self.cluster.objects["Deployment", "robots", "robot"]
            target["status"]["availableReplicas"] = 2
            self.cluster.put(target)

    def end(self, job):
        if "-read-" in job["metadata"]["name"]:
            self.cluster.end_reader(job)
            return
        role = job["metadata"]["labels"]["flowstill.dev/role"]
        owner = job["metadata"]["labels"]["flowstill.dev/owner-kind"]
        if role == self.story.fails and (role != "parity" or owner == "StudentRollout"):
            self.cluster.end_job(job, complete=False)
            return
        result = RESULTS[role]()
        if role == "judge":
            last = (2 if "-judge-2-" in job["metadata"]["name"] else 1) == self.story.rounds
            undecided = {"wanted_episodes": sum(EPISODES), "evidence": None, "gates": gates(S3="Inconclusive")}
            result = judged(self.story.verdict) if last else judged(None, **undecided)
        if self.story.nodes > 1 and role == "train":
            self.cluster.end_ranks(job, codes=[0, 0], result=result)
            return
        self.cluster.end_job(job, complete=True, result=result, message=role != self.story.mute)


def outcome(told: Told) -> dict[str, Any]:
    """All that may not depend on who was killed when: the moments may."""
    found: dict[str, Any] = {}
    for key in (DISTILL, ROLLOUT):
        status = told.cluster.objects[tuple(key)]["status"]
        conditions = {c["type"]: (c["status"], c["reason"], c.get("message")) for c in status["conditions"]}
        times = ("startTime", "completionTime", "promotionTime", "activeSeconds", "monitoring")
        moments = (*times, "conditions", "actions", "message")
        found[key.kind] = {k: v for k, v in status.items() if k not in moments} | {"conditions": conditions}
    target = told.cluster.objects["Deployment", "robots", "robot"]
    env = target["spec"]["template"]["spec"]["containers"][0]["env"]
    found["target"] = (env, target["metadata"]["annotations"])
    found["created"] = told.created
    return found


PLAIN = {name: Teller(story, []).tell() for name, story in STORIES.items()}


def test_there_are_more_than_a_thousand_points_to_be_killed_at() -> None:
    assert sum(2 * told.effects for told in PLAIN.values()) >= 1000


@pytest.mark.parametrize("name", STORIES)
def test_the_story_ends_the_same_wherever_the_operator_is_killed(name: str) -> None:
    story, plain = STORIES[name], PLAIN[name]
    phases = tuple(plain.cluster.objects[tuple(key)]["status"]["phase"] for key in (DISTILL, ROLLOUT))
    assert phases == story.ends
    for point in range(2 * plain.effects):
        told = Teller(story, [point]).tell()
        assert told.crashes == 1, point
        assert outcome(told) == outcome(plain), point


@given(name=st.sampled_from(sorted(STORIES)), points=st.lists(st.integers(0, 9), min_size=2, max_size=30))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_story_ends_the_same_however_often_the_operator_is_killed(name: str, points: list[int]) -> None:
    told = Teller(STORIES[name], points).tell()
    assert outcome(told) == outcome(PLAIN[name])
