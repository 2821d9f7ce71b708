"""The loop's edges: adoption, refusals, one status write, events only after it, back-off."""

import json

import pytest

from flowstill_operator.clusters.interface import Conflict, Refused
from flowstill_operator.engine.index import Dependents
from flowstill_operator.engine.loop import Key, Reconciler, Worker
from flowstill_operator.engine.queue import KeyQueue
from flowstill_operator.engine.status import same_status, status_document
from tests.unit.operator.builders import (
    NOW,
    PLATFORM,
    TARGET_SPEC,
    deployment,
    distill_spec,
    judged,
    parity,
    records,
    resource,
    rollout_spec,
    trained,
)
from tests.unit.operator.fake_cluster import Crash, FakeCluster

KEY = Key("DistillJob", "robots", "sample")
ROLLOUT = Key("StudentRollout", "robots", "sample")


def setup(spec=None, kind="DistillJob"):
    cluster = FakeCluster()
    cluster.put(resource(kind, distill_spec() if spec is None else spec))
    return cluster, Reconciler(cluster, PLATFORM, now=lambda: NOW)


def status(cluster, key=KEY):
    return cluster.objects[tuple(key)]["status"]


async def test_one_write_then_events():
    cluster, loop = setup()
    await loop.reconcile(KEY)
    assert len(cluster.statuses[tuple(KEY)]) == 1
    assert [reason for _, _, reason in cluster.events] == ["Valid", "Queued"]
    await loop.reconcile(KEY)
    assert len(cluster.statuses[tuple(KEY)]) == 1
    assert len(cluster.events) == 2


async def test_a_conflict_says_nothing_and_the_next_pass_adopts_the_job():
    cluster, loop = setup()
    cluster.conflicts = 1
    with pytest.raises(Conflict):
        await loop.reconcile(KEY)
    assert cluster.events == []
    await loop.reconcile(KEY)
    assert len(cluster.created) == 1
    assert status(cluster)["phase"] == "Queued"


async def test_a_kill_after_the_create_starts_nothing_twice():
    cluster, loop = setup()
    cluster.arm(1)
    with pytest.raises(Crash):
        await loop.reconcile(KEY)
    cluster.arm(None)
    assert "status" not in cluster.objects[tuple(KEY)]
    await loop.reconcile(KEY)
    assert len(cluster.created) == 1


async def test_a_job_of_somebody_else_is_left_alone():
    cluster, loop = setup()
    await loop.reconcile(KEY)
    [job] = cluster.jobs()
    job["metadata"]["ownerReferences"][0]["uid"] = "another"
    del cluster.objects[tuple(KEY)]["status"]
    await loop.reconcile(KEY)
    assert {c["type"]: c["reason"] for c in status(cluster)["conditions"]}["Failed"] == "NameTaken"


async def test_a_refused_job_is_the_users_error():
    cluster, loop = setup()
    cluster.refuse_create = Refused("spec.template.labels: Invalid value: x y")
    outcome = await loop.reconcile(KEY)
    assert outcome.requeue_after is None
    assert status(cluster)["phase"] == "Failed"
    assert "Invalid value" in status(cluster)["message"]


async def test_a_missing_or_deleted_resource_is_forgotten():
    cluster, loop = setup()
    cluster.objects[tuple(KEY)]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not (await loop.reconcile(KEY)).exists
    assert cluster.created == []
    assert not (await loop.reconcile(Key("DistillJob", "robots", "none"))).exists


async def test_the_whole_chain_to_the_deployment():
    cluster, loop = setup(rollout_spec(target=TARGET_SPEC), "StudentRollout")
    cluster.put({"kind": "Deployment", **deployment()})
    for result in (parity(), records(), judged()):
        await loop.reconcile(ROLLOUT)
        cluster.end_job(cluster.objects["Job", "robots", cluster.created[-1]], complete=True, result=result)
    for _ in range(4):
        await loop.reconcile(ROLLOUT)
    assert len(cluster.applied) == 1
    target = cluster.objects["Deployment", "robots", "robot"]
    target["status"]["availableReplicas"] = 2
    for _ in range(2):
        assert "flowstill.dev/last-completed" not in target["metadata"]["annotations"]
        await loop.reconcile(ROLLOUT)
    assert status(cluster, ROLLOUT)["phase"] == "Completed"
    assert target["metadata"]["annotations"]["flowstill.dev/last-completed"].startswith("store://students/a@")
    assert len(cluster.applied) == 2
    assert len(cluster.created) == 3


async def test_somebody_elses_field_ends_the_promotion():
    cluster, loop = setup(rollout_spec(target=TARGET_SPEC), "StudentRollout")
    cluster.put({"kind": "Deployment", **deployment()})
    cluster.field_owner = "kubectl"
    for result in (parity(), records(), judged()):
        await loop.reconcile(ROLLOUT)
        cluster.end_job(cluster.objects["Job", "robots", cluster.created[-1]], complete=True, result=result)
    for _ in range(3):
        await loop.reconcile(ROLLOUT)
    assert status(cluster, ROLLOUT)["phase"] == "Failed"
    assert cluster.applied == []


async def test_the_spec_in_the_pod_is_the_task():
    cluster, loop = setup()
    await loop.reconcile(KEY)
    [job] = cluster.jobs()
    task = json.loads(job["spec"]["template"]["metadata"]["annotations"]["flowstill.dev/spec"])
    assert (task["kind"], task["uid"], task["spec"]["teacher"]["uri"]) == ("Train", "uid-1", "store://teachers/t")


class Broken(FakeCluster):
    async def get(self, kind, namespace, name):
        raise OSError("the API server is away")


async def test_errors_back_off_and_conflicts_do_not():
    queue = KeyQueue(lambda: 0.0)
    worker = Worker(Reconciler(Broken(), PLATFORM), queue, lambda key: None)
    await worker.work(KEY)
    assert queue.failed(KEY) == 2.0
    cluster, loop = setup()
    cluster.conflicts = 1
    queue = KeyQueue(lambda: 0.0)
    await Worker(loop, queue, lambda key: None).work(KEY)
    assert len(queue) == 1
    assert queue.failed(KEY) == 1.0


class Sick(FakeCluster):
    """Each status that is written meets the next of these errors, while there are any."""

    def __init__(self, *errors):
        super().__init__()
        self.errors, self.notes = list(errors), []
        self.put(resource("DistillJob", distill_spec()))

    async def write_status(self, resource, status):
        if self.errors:
            raise self.errors.pop(0)
        await super().write_status(resource, status)

    async def record_event(self, resource, note):
        self.notes.append((resource["metadata"]["name"], note.type, note.reason, note.message))

    @property
    def warnings(self):
        return [note for note in self.notes if note[1] == "Warning"]


async def test_an_error_is_an_event_with_its_cause_and_when_it_is_tried_again_and_then_goes_on():
    now = 0.0
    queue = KeyQueue(lambda: now)
    cluster = Sick(OSError("503: etcdserver: no leader"), OSError("500: overloaded"))
    worker = Worker(Reconciler(cluster, PLATFORM, now=lambda: NOW), queue, lambda key: None)
    await worker.work(KEY)
    first = ("sample", "Warning", "ReconcileError", "503: etcdserver: no leader; trying again in 1 s")
    assert cluster.notes == [first]
    # News does not shorten the wait.
    queue.add(KEY)
    now = 0.9
    assert queue._take() is None
    now = 1.1
    assert queue._take() == KEY
    await worker.work(KEY)
    queue.done(KEY)
    second = ("sample", "Warning", "ReconcileError", "500: overloaded; trying again in 2 s")
    assert cluster.warnings == [first, second]
    now = 3.2
    assert queue._take() == KEY
    await worker.work(KEY)
    queue.done(KEY)
    assert cluster.warnings == [first, second]
    assert status(cluster)["phase"] == "Queued"
    assert len(cluster.created) == 1
    assert queue.failed(KEY) == 1.0


@pytest.mark.parametrize(
    ("error", "message"),
    [(TimeoutError(), "TimeoutError; trying again in 1 s"), (OSError("x" * 5000), "x" * 960 + "; trying again in 1 s")],
)
async def test_the_event_names_an_error_without_words_and_cuts_one_with_too_many(error, message):
    cluster = Sick(error)
    await Worker(Reconciler(cluster, PLATFORM, now=lambda: NOW), KeyQueue(lambda: 0.0), lambda key: None).work(KEY)
    assert [note[3] for note in cluster.warnings] == [message]


async def test_a_phase_change_is_told_to_dependents():
    cluster, loop = setup()
    told = []
    worker = Worker(loop, KeyQueue(lambda: 0.0), told.append)
    await worker.work(KEY)
    await worker.work(KEY)
    cluster.end_job(cluster.jobs()[0], complete=True, result=trained())
    await worker.work(KEY)
    assert told == [KEY, KEY]


def test_unknown_status_fields_of_a_newer_version_are_kept():
    from flowstill.api.distilljob import DistillJobStatus

    stored = {"phase": "Running", "fromTheFuture": 1, "message": "old"}
    made = status_document(DistillJobStatus(phase="Succeeded"), stored)
    assert made == {"phase": "Succeeded", "observedGeneration": 0, "attempts": 0, "fromTheFuture": 1}
    assert same_status(made, {**made, "conditions": []})


def test_dependents_follow_the_spec():
    index = Dependents()
    spec = rollout_spec(student={"distillJob": "dj"}, target=TARGET_SPEC)
    index.note(ROLLOUT, resource("StudentRollout", spec))
    assert index.of("DistillJob", "robots", "dj") == [ROLLOUT]
    assert index.of("Deployment", "robots", "robot") == [ROLLOUT]
    assert index.of("Deployment", "other", "robot") == []
    index.note(ROLLOUT, None)
    assert index.all() == index.of("DistillJob", "robots", "dj") == []
