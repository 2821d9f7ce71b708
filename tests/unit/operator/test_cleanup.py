"""Time to live: after the end of a resource its Jobs are deleted, and nothing else changes."""

import copy

import pytest

from flowstill.api.distilljob import DistillJobStatus
from flowstill.api.runtime import Runtime
from flowstill_operator.cleanup import clean_up
from flowstill_operator.engine.loop import Key, Reconciler
from flowstill_operator.jobs import Owner, owner_labels
from flowstill_operator.steps import ChildJob, timestamp
from tests.unit.operator.builders import NOW, PLATFORM, RESULTS, distill_spec, later, resource, rollout_spec
from tests.unit.operator.fake_cluster import FakeCluster

ENDED = DistillJobStatus(phase="Succeeded", completion_time=timestamp(NOW))
JOB, ENDING = ChildJob("a", "1", "train", finished=True), ChildJob("b", "2", "train", ending=True)


@pytest.mark.parametrize(
    ("ttl", "jobs", "seconds", "deleted", "again"),
    [
        (None, (JOB,), 10_000, (), None),
        (60, (JOB,), 0, (), 60),
        (60, (JOB,), 59, (), 1),
        (60, (JOB, ENDING), 60, (JOB,), None),
        (0, (JOB,), 0, (JOB,), None),
        (60, (ENDING,), 90, (), None),
        (60, (), 0, (), None),
    ],
)
def test_when_what_is_deleted(ttl, jobs, seconds, deleted, again):
    made = clean_up(ENDED, Runtime(ttl_seconds_after_finished=ttl), jobs, later(seconds))
    assert (made.status, made.delete, made.requeue_after) == (ENDED, deleted, again)
    assert (made.create, made.events) == ((), ())


def test_without_a_spec_or_an_end_nothing_is():
    assert clean_up(ENDED, None, (JOB,), later(99)).delete == ()
    unended = ENDED.model_copy(update={"completion_time": None})
    assert clean_up(unended, Runtime(ttl_seconds_after_finished=0), (JOB,), later(99)).delete == ()


@pytest.mark.parametrize(
    ("kind", "spec", "made"), [("DistillJob", distill_spec, 1), ("StudentRollout", rollout_spec, 3)]
)
async def test_the_jobs_of_what_has_ended_go_when_their_time_has_come(kind, spec, made):
    cluster, key, clock = FakeCluster(), Key(kind, "robots", "one"), [NOW]
    reconciler = Reconciler(cluster, PLATFORM, now=lambda: clock[0])
    cluster.put(resource(kind, spec(runtime={"ttlSecondsAfterFinished": 60}), name="one", uid="u"))
    other = resource(kind, spec(), name="other", uid="v")
    cluster.put(other)
    await reconciler.reconcile(Key(kind, "robots", "other"))
    [others] = cluster.jobs()
    for _ in range(8):
        outcome = await reconciler.reconcile(key)
        for job in cluster.jobs():
            if job is not others and not job["status"].get("conditions"):
                role = job["metadata"]["labels"]["flowstill.dev/role"]
                cluster.end_job(job, complete=True, result=RESULTS[role]())
    assert outcome.requeue_after == 60
    assert len(cluster.jobs()) == made + 1
    ended = copy.deepcopy(cluster.objects[tuple(key)])
    clock[0] = later(61)
    for _ in range(2):
        outcome = await reconciler.reconcile(key)
    assert cluster.jobs() == [others]
    assert cluster.objects[tuple(key)] == ended
    assert outcome.requeue_after is None


async def test_a_job_of_the_same_name_before_is_not_ours():
    cluster, key = FakeCluster(), Key("DistillJob", "robots", "one")
    spec = distill_spec(runtime={"ttlSecondsAfterFinished": 0})
    status = {"phase": "Succeeded", "completionTime": timestamp(NOW)}
    cluster.put(resource("DistillJob", spec, status, name="one", uid="u"))
    metadata = {
        "name": "theirs",
        "namespace": "robots",
        "uid": "x",
        "labels": owner_labels(Owner("DistillJob", "robots", "one", "u")),
        "ownerReferences": [{"uid": "another", "controller": True}],
    }
    cluster.put({"kind": "Job", "metadata": metadata, "spec": {}, "status": {}})
    await Reconciler(cluster, PLATFORM, now=lambda: later(99)).reconcile(key)
    assert cluster.deleted == []
