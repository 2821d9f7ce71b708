"""Suspend and resume of both kinds, at every moment, and killed around every effect."""

import json
from dataclasses import replace

import pytest

from flowstill_operator.children import Child, is_finished
from flowstill_operator.clusters.interface import Conflict
from flowstill_operator.distilljob import manifests
from flowstill_operator.distilljob.observe import read_resource
from flowstill_operator.distilljob.plan import plan
from flowstill_operator.engine.loop import Reconciler
from flowstill_operator.steps import ChildJob, timestamp
from tests.unit.operator.builders import (
    DISTILL,
    NOW,
    PLATFORM,
    RESULTS,
    ROLLOUT,
    conditions,
    distill_spec,
    later,
    resource,
    rollout_spec,
    trained,
)
from tests.unit.operator.fake_cluster import Crash, FakeCluster, rank_pod

SUSPENDED = ("True", "Suspended")


def job(state="Running", **more):
    return Child(state, **{"name": "sample-train-1", "uid": "job-1", "started": timestamp(NOW), "attempts": 1, **more})


def dump(status):
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def step(child=None, status=None, now=NOW, left=(), suspend=True, role="train", **spec):
    """The plan of a DistillJob that sees that child."""
    document = resource("DistillJob", distill_spec(suspend=suspend, **spec), status)
    seen = replace(read_resource(document, PLATFORM), children={role: child or Child()}, pods_left=tuple(left))
    return plan(seen, now)


def running(**more):
    status = dump(step(suspend=False, **more).status)
    return dump(step(job(), status, suspend=False, **more).status)


def stopping(child=None, now=NOW, **more):
    return dump(step(child or job(), running(**more), now, **more).status)


def test_a_resource_that_is_suspended_from_the_start_begins_nothing_until_it_is_resumed():
    made = step()
    assert (made.status.phase, made.create, made.delete, made.requeue_after) == ("Suspended", (), (), None)
    assert conditions(made.status)["Suspended"] == SUSPENDED
    assert made.status.start_time is None
    assert {note.type for note in made.events} == {"Normal"}
    again = step(status=dump(made.status), suspend=False)
    assert [wanted.role for wanted in again.create] == ["train"]
    assert (again.status.phase, conditions(again.status)["Suspended"]) == ("Queued", ("False", "Resumed"))
    assert {note.type for note in again.events} == {"Normal"}


@pytest.mark.parametrize("state", ["Queued", "Running"])
def test_that_a_job_shall_be_deleted_is_written_before_it_is(state):
    first = step(job(state), running())
    assert (first.delete, first.requeue_after) == ((), 0)
    found = conditions(first.status)
    assert (found["Suspended"], found["Trained"]) == (("Unknown", "Suspending"), ("Unknown", "Suspending"))
    second = step(job(state), dump(first.status))
    assert second.delete == (ChildJob("sample-train-1", "job-1", "train"),)
    third = step(job(state, ending=True), dump(second.status))
    assert (third.delete, third.create) == ((), ())
    assert "save a checkpoint first: up to 120 s" in third.status.message
    spec = {"runtime": {"terminationGracePeriodSeconds": 77}}
    assert step(job(state), running(**spec), **spec).status.message.endswith("up to 77 s")


def test_when_it_is_gone_the_resource_is_suspended_and_stays_so_without_a_look():
    made = step(status=stopping())
    assert (made.status.phase, made.requeue_after) == ("Suspended", None)
    assert (conditions(made.status)["Suspended"], conditions(made.status)["Trained"]) == (
        SUSPENDED,
        ("Unknown", "Suspended"),
    )
    assert step(status=dump(made.status)).status == made.status


@pytest.mark.parametrize("suspend", [True, False])
def test_a_deletion_that_was_begun_is_carried_through(suspend):
    assert step(job(), stopping(), suspend=suspend).delete
    made = step(status=stopping(), suspend=suspend)
    assert made.create == ()
    assert conditions(made.status)["Trained"] == ("Unknown", "Suspended")
    assert conditions(made.status)["Suspended"][0] == ("True" if suspend else "False")
    again = step(status=dump(made.status), suspend=False)
    assert [(wanted.role, wanted.reader) for wanted in again.create] == [("train", False)]


def test_it_waits_for_pods_that_a_deleted_job_left():
    made = step(status=stopping(), left=["p1", "p2"])
    assert conditions(made.status)["Trained"] == ("Unknown", "Suspending")
    assert "p1, p2" in made.status.message
    resumed = step(status=dump(step(status=stopping()).status), left=["p1"], suspend=False)
    assert resumed.create == ()
    assert "p1" in str(resumed.status.conditions)


@pytest.mark.parametrize(
    ("child", "phase"),
    [
        (Child("Succeeded", result=trained()), "Succeeded"),
        (Child("Failed", reason="BackoffLimitExceeded"), "Failed"),
        (Child("Running", ours=False), "Failed"),
    ],
)
@pytest.mark.parametrize(
    ("status", "said"),
    [(running(), None), (stopping(), ("False", "ChildEnded"))],
    ids=["before", "while stopping"],
)
def test_a_child_that_ended_counts_though_suspend_is_true(child, phase, status, said):
    made = step(child, status)
    assert (made.status.phase, made.delete) == (phase, ())
    assert conditions(made.status).get("Suspended") == said
    taken_back = step(child, status, suspend=False)
    assert taken_back.status.phase == phase
    assert conditions(taken_back.status).get("Suspended") == (said and ("False", "Resumed"))
    ended = dump(made.status)
    for suspend in (True, False):
        final = step(status=ended, suspend=suspend)
        assert (dump(final.status), final.create, final.delete, final.events) == (ended, (), (), ())


def test_a_child_that_vanished_unsuspended_is_read_and_never_begun_again():
    made = step(status=running())
    assert [wanted.reader for wanted in made.create] == [True]
    assert conditions(made.status)["Trained"] == ("Unknown", "ReadingResult")


def test_the_next_stage_is_not_begun():
    spec = {"validation": {"after": True}}
    made = step(Child("Succeeded", result=trained()), running(**spec), **spec)
    assert (made.status.phase, made.create) == ("Suspended", ())
    assert conditions(made.status)["Trained"][0] == "True"
    again = step(status=dump(made.status), suspend=False, role="parity", **spec)
    assert ([wanted.role for wanted in again.create], again.status.phase) == (["parity"], "Validating")
    parity = dump(again.status)
    first = step(job(), parity, role="parity", **spec)
    assert step(job(), dump(first.status), role="parity", **spec).delete == (
        ChildJob("sample-train-1", "job-1", "parity"),
    )


def manifest_of(status, **spec):
    seen = read_resource(resource("DistillJob", distill_spec(**spec), status), PLATFORM)
    [wanted] = plan(seen, NOW).create
    return manifests.manifest(seen, wanted, PLATFORM)["spec"]


def test_failures_and_seconds_of_a_suspended_job_are_spent():
    runtime = {"backoffLimit": 3, "activeDeadlineSeconds": 100}
    spec = {"runtime": runtime}
    child = job(attempts=3, failures=2)
    status = stopping(child, later(40), **spec)
    assert (status["attempts"], status["disruptions"], status["activeSeconds"]) == (3, 1, 40)
    seen_again = step(child, status, later(50), **spec).status
    assert (seen_again.attempts, seen_again.disruptions, seen_again.active_seconds) == (3, 1, 40), "counted once"
    held = dump(step(status=status, **spec).status)
    assert held["earlierAttempts"] == 3
    made = manifest_of(held, **spec)
    assert (made["backoffLimit"], made["activeDeadlineSeconds"]) == (1, 60)
    begun = dump(step(status=held, suspend=False, **spec).status)
    going = step(job(attempts=2, failures=1), begun, suspend=False, **spec)
    assert going.status.attempts == 5
    again = dump(step(job(attempts=2, failures=1), dump(going.status), later(7), **spec).status)
    assert (again["attempts"], again["disruptions"], again["activeSeconds"]) == (5, 2, 47)
    made = manifest_of(dump(step(status=again, **spec).status), **spec)
    assert (made["backoffLimit"], made["activeDeadlineSeconds"]) == (0, 53)


def test_what_training_has_spent_is_not_taken_from_the_next_child():
    spec = {"runtime": {"backoffLimit": 3, "activeDeadlineSeconds": 100}, "validation": {"after": True}}
    held = dump(step(status=stopping(job(attempts=3, failures=2), later(40), **spec), **spec).status)
    begun = dump(step(status=held, suspend=False, **spec).status)
    ended = step(Child("Succeeded", result=trained()), begun, later(50), suspend=True, **spec)
    assert ended.status.active_seconds is None
    made = manifest_of(dump(ended.status), **spec)
    assert (made["backoffLimit"], made["activeDeadlineSeconds"]) == (3, 100)
    queued = dump(step(status=dump(ended.status), suspend=False, role="parity", **spec).status)
    stopped = dump(step(job(), queued, later(30), role="parity", **spec).status)
    assert manifest_of(dump(step(status=stopped, role="parity", **spec).status), **spec)["activeDeadlineSeconds"] == 70


def test_who_reads_a_result_has_the_whole_deadline():
    spec = {"runtime": {"backoffLimit": 3, "activeDeadlineSeconds": 100}}
    held = dump(step(status=stopping(job(attempts=3, failures=2), later(99), **spec), **spec).status)
    begun = dump(step(status=held, suspend=False, **spec).status)
    made = manifest_of(begun, **spec)  # its Job is gone
    assert made["activeDeadlineSeconds"] == 100


def test_a_job_that_never_ran_has_used_no_seconds():
    status = stopping(Child("Queued", name="n", uid="u", reason="Suspended"), later(40))
    assert (status.get("activeSeconds"), status["attempts"], status["disruptions"]) == (None, 1, 1)


def test_a_clock_that_was_set_back_gives_no_seconds():
    assert stopping(now=later(-60))["activeSeconds"] == 0


def test_a_job_whose_pod_is_not_there_yet_is_an_attempt():
    queued = dump(step(suspend=False).status)
    assert queued["attempts"] == 0
    held = dump(step(job("Queued", attempts=0), queued).status)
    assert (held["attempts"], held["disruptions"]) == (1, 1)


def test_a_job_that_was_never_admitted_is_no_attempt():
    waiting = Child("Queued", name="n", uid="u", reason="WaitingForQuota", held_back=True)
    queued = dump(step(waiting, dump(step(suspend=False).status), suspend=False).status)
    held = dump(step(waiting, queued).status)
    assert (held["attempts"], held["disruptions"]) == (0, 0)
    # One that ran and was preempted is one, though its Job has no pod.
    preempted = dump(step(waiting, running(), suspend=False).status)
    held = dump(step(waiting, preempted).status)
    assert (held["attempts"], held["disruptions"]) == (1, 1)


def test_on_several_nodes_the_next_attempt_has_the_next_number_and_suspension_is_no_failure():
    spec = {"runtime": {"nodes": 2}}
    held = step(status=stopping(**spec), **spec).status
    assert (held.attempts, held.disruptions, held.phase) == (2, 1, "Suspended")
    made = step(status=dump(held), suspend=False, **spec)
    assert [wanted.attempt for wanted in made.create] == [2]


def test_progress_says_no_remaining_time_while_nothing_runs():
    status = running() | {"progress": {"step": 5, "totalSteps": 10, "estimatedRemainingSeconds": 60}}
    held = step(status=dump(step(job(), status).status)).status
    assert (held.progress.step, held.progress.estimated_remaining_seconds) == (5, None)


class World:
    """One resource over a cluster in memory."""

    def __init__(self, key, spec):
        self.cluster, self.key = FakeCluster(), key
        self.cluster.slow_to_end = True
        self.reconciler = Reconciler(self.cluster, PLATFORM, now=lambda: NOW)
        self.cluster.put(resource(key.kind, spec, name=key.name, uid="u"))

    @property
    def document(self):
        return self.cluster.objects[tuple(self.key)]

    @property
    def status(self):
        return self.document.get("status", {})

    def ask(self, suspend):
        self.document["spec"]["suspend"] = suspend
        self.cluster.put(self.document)

    async def look(self, crash_at=None):
        self.cluster.arm(crash_at)
        try:
            await self.reconciler.reconcile(self.key)
        except (Crash, Conflict):
            pass
        finally:
            self.cluster.arm(None)

    async def look_until(self, phase, crash_at=None):
        """Passes, each killed around that effect and followed by a whole one; pods of deleted Jobs end meanwhile."""
        for _ in range(12):
            await self.look(crash_at)
            await self.look()
            for ending in self.cluster.ending():
                self.cluster.delete_job_object(ending)
            if self.status.get("phase") == phase:
                return
        raise AssertionError(f"it is never {phase}: {json.dumps(self.status, indent=1)}")

    def working(self):
        return [job for job in self.cluster.jobs() if not is_finished(job)]

    def end_all(self):
        for found in self.working():
            role = found["metadata"]["labels"]["flowstill.dev/role"]
            self.cluster.end_job(found, complete=True, result=RESULTS[role]())


@pytest.mark.parametrize("crash_at", range(5))
@pytest.mark.parametrize(("kind", "stages"), [*(("dj", n) for n in range(2)), *(("sr", n) for n in range(3))])
async def test_suspended_and_resumed_at_every_stage_it_comes_to_its_end(kind, stages, crash_at):
    """``stages``: how many children have ended before."""
    key, spec, end, made = {
        "dj": (DISTILL, distill_spec(validation={"after": True}), "Succeeded", 2),
        "sr": (ROLLOUT, rollout_spec(), "Completed", 3),
    }[kind]
    world = World(key, spec)
    for _ in range(stages):
        await world.look()
        world.end_all()
    await world.look()
    before = len(world.cluster.created)
    world.ask(True)
    await world.look_until("Suspended", crash_at)
    assert world.working() == []
    assert len(world.cluster.deleted) == 1
    await world.look()
    assert len(world.cluster.created) == before
    world.ask(False)
    await world.look(crash_at)
    for _ in range(6):
        await world.look()
        world.end_all()
    assert world.status["phase"] == end
    assert len(world.cluster.created) == made + 1
    assert world.cluster.created[before - 1] == world.cluster.created[before]


async def test_while_a_job_is_being_deleted_no_other_is_made_in_its_place():
    world = World(DISTILL, distill_spec())
    await world.look()
    world.ask(True)
    await world.look()
    world.ask(False)
    for _ in range(4):
        await world.look()
    assert (len(world.cluster.created), len(world.cluster.deleted)) == (1, 1)
    [ending] = world.cluster.ending()
    world.cluster.delete_job_object(ending)
    for _ in range(2):
        await world.look()
    assert len(world.cluster.created) == 2


async def test_pods_that_are_left_of_a_job_that_vanished_are_waited_for():
    world = World(DISTILL, distill_spec())
    await world.look()
    world.ask(True)
    await world.look()
    [made] = world.working()
    pod = rank_pod(made, 0)
    world.cluster.delete_job_object(made)
    world.cluster.pods_by_job["left"] = [pod]
    world.ask(False)
    for _ in range(3):
        await world.look()
    assert len(world.cluster.created) == 1
    assert pod["metadata"]["name"] in world.status["message"]
    world.cluster.pods_by_job.clear()
    for _ in range(2):
        await world.look()
    assert len(world.cluster.created) == 2
