"""Looks by what was heard: nobody is asked when nothing is decided, and whoever decides asks first."""

import asyncio
import copy

import pytest

from flowstill_operator.clusters.heard import Heard, Hearsay
from flowstill_operator.clusters.interface import Unavailable
from flowstill_operator.clusters.kubernetes import KubernetesCluster
from flowstill_operator.engine.index import Dependents
from flowstill_operator.engine.listing import Listing
from flowstill_operator.engine.loop import Key, Reconciler, Worker
from flowstill_operator.engine.queue import KeyQueue
from flowstill_operator.handlers import Ear
from tests.unit.operator.builders import NOW, PLATFORM, TARGET_SPEC, distill_spec, resource, rollout_spec, trained
from tests.unit.operator.fake_cluster import FakeCluster
from tests.unit.operator.gossip import Gossip

KEY = Key("DistillJob", "robots", "sample")


class Counted(FakeCluster):
    """Counts the questions."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    async def get(self, kind, namespace, name):
        self.asked += 1
        return await super().get(kind, namespace, name)

    async def pods(self, job):
        self.asked += 1
        return await super().pods(job)


@pytest.fixture
def world():
    cluster = Counted()
    cluster.put(resource("DistillJob", distill_spec()))
    gossip = Gossip(cluster)
    return cluster, gossip, Reconciler(cluster, PLATFORM, now=lambda: NOW, hearsay=Hearsay(gossip.heard, {}))


def run(cluster, job):
    """Its pod runs."""
    name = job["metadata"]["name"]
    labels = {"batch.kubernetes.io/job-name": name}
    cluster.pods_by_job[name] = [{"metadata": {"name": "p", "labels": labels}, "status": {"phase": "Running"}}]
    cluster.put(job)


async def questions(cluster, loop, **how):
    before = cluster.asked
    await loop.reconcile(KEY, **how)
    return cluster.asked - before


def reasons(cluster):
    return {c["type"]: c["reason"] for c in cluster.objects[tuple(KEY)]["status"]["conditions"]}


async def test_who_is_asked_how_often_from_the_start_to_the_end(world):
    cluster, gossip, loop = world
    gossip.tell_all()
    assert await questions(cluster, loop) == 2
    gossip.tell_all()
    assert await questions(cluster, loop) == 0
    [job] = cluster.jobs()
    job["spec"]["suspend"] = True
    cluster.put(job)
    gossip.tell_all()
    # That it waits for quota is a condition of its own, and so a decision; the reason of one is not.
    assert await questions(cluster, loop) == 3
    assert reasons(cluster)["Trained"] == "WaitingForQuota"
    job["spec"]["suspend"] = False
    cluster.put(job)
    gossip.tell_all()
    assert await questions(cluster, loop) == 3
    assert reasons(cluster)["Trained"] == "Queued"
    run(cluster, job)
    gossip.tell_all()
    assert await questions(cluster, loop) == 0
    assert reasons(cluster)["Trained"] == "Running"
    cluster.end_job(job, complete=True, result=trained())
    gossip.tell_all()
    assert await questions(cluster, loop) == 3
    assert reasons(cluster)["Complete"] == "Succeeded"
    gossip.tell_all()
    assert await questions(cluster, loop) == 0


async def test_what_is_only_not_heard_of_is_asked_for(world):
    cluster, gossip, loop = world
    assert await questions(cluster, loop) == 2
    gossip.tell(0)
    assert await questions(cluster, loop) == 3
    assert len(cluster.created) == 1


async def test_old_news_decides_nothing(world):
    cluster, gossip, loop = world
    gossip.tell_all()
    await loop.reconcile(KEY)
    [job] = cluster.jobs()
    cluster.end_job(job, complete=True, result=trained())
    # The operator has heard neither of its own status nor of the Job: it asks, and finds the end.
    assert await questions(cluster, loop) == 3
    assert reasons(cluster)["Complete"] == "Succeeded"
    end = copy.deepcopy(cluster.objects[tuple(KEY)]["status"])
    assert await questions(cluster, loop) == 1
    assert cluster.objects[tuple(KEY)]["status"] == end
    assert len(cluster.created) == 1


async def test_who_doubts_asks(world):
    cluster, gossip, loop = world
    await loop.reconcile(KEY)
    gossip.tell_all()
    assert await questions(cluster, loop) == 0
    assert await questions(cluster, loop, doubted=True) == 3


async def test_after_a_conflict_it_asks(world):
    cluster, gossip, loop = world
    await loop.reconcile(KEY)
    queue = KeyQueue(lambda: 0.0)
    worker = Worker(loop, queue, lambda key: None)
    run(cluster, cluster.jobs()[0])
    gossip.tell_all()
    cluster.conflicts = 1
    before = cluster.asked
    await worker.work(KEY)
    assert cluster.asked == before
    await worker.work(KEY)
    assert cluster.asked == before + 3
    assert reasons(cluster)["Trained"] == "Running"


class Busy(FakeCluster):
    async def get(self, kind, namespace, name):
        raise Asked


class Asked(Unavailable):
    retry_after = 9.0


async def test_a_server_that_asks_to_be_left_alone_gets_no_event_either():
    cluster, queue = Busy(), KeyQueue(lambda: 0.0)
    worker = Worker(Reconciler(cluster, PLATFORM), queue, lambda key: None)
    await worker.work(KEY)
    assert queue._not_before[KEY] == 9.0
    assert cluster.events == []


@pytest.fixture
def ear():
    return Ear(KeyQueue(lambda: 0.0), Dependents(), Heard(), lambda: None)


def versioned(version, name="a"):
    thing = resource("DistillJob", distill_spec(), name=name)
    thing["metadata"]["resourceVersion"] = str(version)
    return thing


def test_what_is_no_news_wakes_nobody(ear):
    ear.news("DistillJob", versioned(5))
    assert len(ear.queue) == 1
    ear.queue.forget(Key("DistillJob", "robots", "a"))
    ear.news("DistillJob", versioned(5))
    ear.news("DistillJob", versioned(4))
    assert len(ear.queue) == 0
    ear.news("DistillJob", versioned(6), deleted=True)
    assert (len(ear.queue), ear.dependents.all()) == (1, [])


def test_a_deleted_rollout_wakes_those_of_its_target(ear):
    """One of them may wait until it has watched its student."""
    for name, target in (("watcher", TARGET_SPEC), ("candidate", TARGET_SPEC), ("elsewhere", None)):
        thing = resource("StudentRollout", rollout_spec(**({"target": target} if target else {})), name=name)
        ear.news("StudentRollout", thing)
        ear.queue.forget(Key("StudentRollout", "robots", name))
    thing = resource("StudentRollout", rollout_spec(target=TARGET_SPEC), name="watcher")
    thing["metadata"]["resourceVersion"] = "9"
    ear.news("StudentRollout", thing, deleted=True)
    assert {key.name for key in ear.queue._entries} == {"watcher", "candidate"}


class Rollouts(KubernetesCluster):
    """An API server with some StudentRollouts, which remembers what it was asked for."""

    def __init__(self, *names):
        super().__init__(None)
        self.there = {name: resource("StudentRollout", rollout_spec(), name=name, uid=f"uid-{name}") for name in names}
        self.asked = []

    async def get(self, kind, namespace, name):
        self.asked.append(name)
        return self.there.get(name)

    async def page(self, kind, namespace, token):
        self.asked.append(f"page {token}")
        first, *rest = self.there.values()
        return {"metadata": {"continue": "" if token else "more"}, "items": rest if token else [first]}


async def test_a_rollout_is_found_by_its_uid():
    cluster = Rollouts("a", "b")
    assert await cluster.find_rollout("robots", "uid-b") == cluster.there["b"]
    assert await cluster.find_rollout("robots", "uid-c") is None
    assert cluster.asked == ["page ", "page more"] * 2
    cluster.asked.clear()
    cluster.heard.note("StudentRollout", cluster.there["b"])
    assert await cluster.find_rollout("robots", "uid-b") == cluster.there["b"]
    # One of the same name took its place, and was not heard of yet.
    cluster.there["b"] = resource("StudentRollout", rollout_spec(), name="b", uid="uid-d")
    assert await cluster.find_rollout("robots", "uid-b") is None
    assert cluster.asked == ["b", "b"]


class Pages:
    """Two pages of two kinds, and an error first."""

    def __init__(self):
        self.broken, self.names = True, ["a", "b", "c"]

    async def page(self, kind, namespace, token):
        if self.broken:
            self.broken = False
            raise Unavailable("not now")
        items = [versioned(5, name) for name in self.names] if kind == "DistillJob" else []
        items, more = (items[2:], "") if token else (items[:2], "more" if len(items) > 2 else "")
        return {"metadata": {"resourceVersion": "9" if token else "8", "continue": more}, "items": items}


async def test_lists_are_read_to_their_end_and_again_after_an_error(ear, monkeypatch):
    monkeypatch.setattr("flowstill_operator.engine.listing.RETRY_SECONDS", 0.0)
    pages, first, again = Pages(), asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(Listing(pages, ear, ()).run(0.0, first, again.set))
    await first.wait()
    assert [key.name for key in ear.dependents.all()] == ["a", "b", "c"]
    pages.names = ["a"]
    again.clear()
    await again.wait()
    assert [key.name for key in ear.dependents.all()] == ["a"]
    task.cancel()
