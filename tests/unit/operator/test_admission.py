"""Kueue: the queue's label on the Job, and what a Job that waits for quota is to its resource."""

from dataclasses import replace

import pytest

from flowstill_operator.children import Child, read_child
from flowstill_operator.distilljob import manifests
from flowstill_operator.distilljob.observe import read_resource
from flowstill_operator.distilljob.plan import plan
from flowstill_operator.steps import QUOTA_LOOK_SECONDS
from tests.unit.operator.builders import NOW, PLATFORM, conditions, distill_spec, resource

LABEL = "kueue.x-k8s.io/queue-name"
QUEUED = distill_spec(runtime={"queueName": "robots", "labels": {"team": "arms"}})


def step(child=None, status=None, spec=QUEUED):
    seen = read_resource(resource("DistillJob", spec, status), PLATFORM)
    return plan(replace(seen, children={} if child is None else {"train": child}), NOW)


def job(spec=QUEUED, *, suspend=False, **status):
    seen = read_resource(resource("DistillJob", spec), PLATFORM)
    made = manifests.manifest(seen, step(spec=spec).create[0], PLATFORM)
    made["spec"] |= {"suspend": True} if suspend else {}
    return {**made, "status": status}


def begun(child):
    status = step().status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return step(child, status)


def test_the_queue_is_a_label_of_the_job_and_of_no_pod():
    made = job()
    assert made["metadata"]["labels"][LABEL] == "robots"
    assert LABEL not in made["spec"]["template"]["metadata"]["labels"]
    assert made["spec"]["template"]["metadata"]["labels"]["team"] == "arms"
    assert LABEL not in job(distill_spec())["metadata"]["labels"]
    assert "suspend" not in made["spec"]
    both = distill_spec(runtime={"queueName": "robots", "labels": {LABEL: "of-the-user"}})
    assert job(both)["metadata"]["labels"][LABEL] == "robots"


def test_waiting_for_quota_is_a_condition_and_no_busy_wait():
    made = begun(read_child(job(suspend=True), [], "uid-1"))
    assert (made.status.phase, made.requeue_after) == ("Queued", QUOTA_LOOK_SECONDS)
    assert conditions(made.status)["Admitted"] == ("False", "WaitingForQuota")
    assert conditions(made.status)["Trained"] == ("Unknown", "WaitingForQuota")
    [admitted] = [c for c in made.status.conditions if c.type == "Admitted"]
    assert admitted.message.endswith("it waits for quota of queue robots (why: kubectl describe workload)")
    assert {note.type for note in made.events} == {"Normal"}
    admitted = step(
        read_child(job(), [], "uid-1"), made.status.model_dump(mode="json", by_alias=True, exclude_none=True)
    )
    assert conditions(admitted.status)["Admitted"] == ("True", "Admitted")
    assert (admitted.create, admitted.delete) == ((), ())


def test_a_job_that_waited_for_quota_and_vanished_is_not_begun_again():
    made = begun(read_child(job(suspend=True), [], "uid-1"))
    gone = step(status=made.status.model_dump(mode="json", by_alias=True, exclude_none=True))
    assert [wanted.reader for wanted in gone.create] == [True]


def test_its_time_counts_from_its_admission():
    """The API server's startTime, which a Job that is held back does not have; its creation may be days ago."""
    made = job(startTime="2026-01-02T03:04:05Z")
    made["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    assert read_child(made, [], "uid-1").started == "2026-01-02T03:04:05Z"
    held = job(suspend=True)
    held["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    assert read_child(held, [], "uid-1").started is None


def test_a_job_that_its_queue_lets_through_at_once_is_admitted():
    assert conditions(begun(Child("Running")).status)["Admitted"] == ("True", "Admitted")


def test_a_job_that_somebody_else_holds_back_is_admitted_when_it_is_not_any_more():
    """A queue may be everybody's default, and no ``queueName`` says so."""
    plain = distill_spec()
    status = step(spec=plain).status.model_dump(mode="json", by_alias=True, exclude_none=True)
    held = step(read_child(job(plain, suspend=True), [], "uid-1"), status, plain).status
    assert conditions(held)["Admitted"] == ("False", "WaitingForQuota")
    status = held.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert conditions(step(Child("Running"), status, plain).status)["Admitted"] == ("True", "Admitted")


@pytest.mark.parametrize("child", [Child(), Child("Succeeded"), Child("Running", ours=False), Child("Running")])
def test_where_nobody_queues_jobs_nothing_is_said(child):
    assert "Admitted" not in conditions(step(child, spec=distill_spec()).status)
