"""What was heard of: the newest counts, whatever arrives when, and it is never mistaken for what is not there."""

import pytest

from flowstill.api.children import ProgressReport
from flowstill_operator.clusters.heard import JOB_UID_LABEL, MAX_GONE, Heard, Hearsay, Unheard
from flowstill_operator.clusters.interface import JOB_NAME_LABEL
from flowstill_operator.clusters.progress import ASKED_PER_SECOND, PERIOD_SECONDS, Poller
from flowstill_operator.jobs import OWNER_KIND, OWNER_NAME
from flowstill_operator.ranks import INDEX_ANNOTATION
from tests.unit.operator.builders import distill_spec, resource

OWNER = {OWNER_KIND: "DistillJob", OWNER_NAME: "dj"}


def job(version, name="j", uid="job-1", **status):
    containers = [{"name": "child", "image": "trainer:1", "env": ["much"]}]
    template = {"metadata": {"annotations": {"flowstill.dev/spec": "much"}}, "spec": {"containers": containers}}
    metadata = {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": str(version), "labels": OWNER}
    return {"metadata": metadata, "spec": {"template": template, "parallelism": 1}, "status": status}


def pod(version, name="p", uid="job-1", phase="Running"):
    labels = {**OWNER, JOB_NAME_LABEL: "j", JOB_UID_LABEL: uid, "app": "mine"}
    metadata = {"name": name, "namespace": "ns", "resourceVersion": str(version), "labels": labels}
    metadata["annotations"] = {INDEX_ANNOTATION: "0", "other": "much"}
    return {"metadata": metadata, "spec": {"much": True}, "status": {"phase": phase, "podIP": "10.0.0.1"}}


def phase_of(heard):
    return [p["status"]["phase"] for p in heard.pods(job(0))]


@pytest.mark.parametrize(
    ("news", "new", "last"),
    [
        ([pod(5), pod(5)], [True, False], ["Running"]),
        ([pod(7, phase="Succeeded"), pod(6)], [True, False], ["Succeeded"]),
        ([pod(6), pod(7, phase="Succeeded")], [True, True], ["Succeeded"]),
        ([pod(9), pod(10)], [True, True], ["Running"]),
    ],
)
def test_twice_late_or_overtaken(news, new, last):
    heard = Heard()
    assert [heard.note("Pod", one) for one in news] == new
    assert phase_of(heard) == last


def test_late_news_of_what_was_deleted_does_not_bring_it_back():
    heard = Heard()
    assert heard.note("Pod", pod(5))
    assert heard.note("Pod", pod(8), deleted=True)
    assert not heard.note("Pod", pod(7))
    assert not heard.note("Pod", pod(8), deleted=True)
    assert phase_of(heard) == []
    assert heard.note("Pod", pod(9))
    assert phase_of(heard) == ["Running"]


def test_deletions_are_not_remembered_without_end():
    heard = Heard()
    for number in range(MAX_GONE + 5):
        heard.note("Pod", pod(number + 1, name=f"p{number}"), deleted=True)
    assert len(heard._gone["Pod"]) == MAX_GONE
    assert heard.note("Pod", pod(1, name="p0"))


def test_an_answer_is_known_at_once_and_is_news_when_the_watch_says_it():
    heard = Heard()
    heard.note("Job", job(5, active=1), told=False)
    found = heard.find("Job", "ns", "j")
    assert found is not None
    assert found["status"] == {"active": 1}
    assert heard.note("Job", job(5, active=1))
    assert not heard.note("Job", job(5, active=1))
    assert not heard.note("Job", job(4))


def test_a_list_says_what_is_gone_and_not_what_came_later():
    heard = Heard()
    for name, version in (("a", 1), ("b", 2), ("late", 30)):
        heard.note("Job", job(version, name=name))
    assert heard.keep_only("Job", "other", set(), 20) == []
    assert heard.keep_only("Job", "ns", {("ns", "a")}, 20) == [("ns", "b")]
    assert [one["metadata"]["name"] for one in heard.jobs("ns", OWNER)] == ["a", "late"]
    assert not heard.note("Job", job(19, name="b"))
    assert heard.keep_only("Job", "", set(), 40) == [("ns", "a"), ("ns", "late")]
    assert heard.jobs("ns", OWNER) == []


def test_what_was_asked_for_and_is_not_there_is_forgotten():
    heard = Heard()
    heard.note("Job", job(5))
    heard.absent("Job", "ns", "j")
    heard.absent("Job", "ns", "never")
    assert heard.find("Job", "ns", "j") is None
    assert not heard.note("Job", job(5))


def test_pods_are_those_of_that_very_job():
    heard = Heard()
    heard.note("Pod", pod(1, name="old", uid="job-0"))
    heard.note("Pod", pod(2, name="new"))
    assert [one["metadata"]["name"] for one in heard.pods(job(3))] == ["new"]


def test_only_what_decides_is_kept():
    heard = Heard()
    manifest = resource("DistillJob", distill_spec(), name="dj", uid="u")
    kept = {"flowstill.dev/abort": "1 me: why"}
    annotations = {**kept, "kubectl.kubernetes.io/last-applied-configuration": "much"}
    manifest["metadata"] |= {"resourceVersion": "1", "managedFields": ["much"], "annotations": annotations}
    heard.note("DistillJob", manifest)
    heard.note("Job", job(2))
    heard.note("Pod", pod(3))
    found = heard.find("DistillJob", manifest["metadata"]["namespace"], "dj")
    assert found is not None
    assert (found["spec"], found["metadata"]["annotations"]) == (manifest["spec"], kept)
    texts = [entry.text for known in heard._known.values() for entry in known.values()]
    assert len(texts) == 3
    assert not any(b"much" in text for text in texts)
    [known] = heard.jobs("ns", OWNER)
    assert known["spec"]["template"]["spec"]["containers"] == [{"name": "child", "image": "trainer:1"}]


async def test_hearsay_never_says_that_something_is_not_there():
    heard = Heard()
    heard.note("Job", job(1))
    heard.note("Pod", pod(2))
    said = {("ns", "p"): ProgressReport(activity="training", step=1, total_steps=2)}
    hearsay = Hearsay(heard, said)
    assert await hearsay.get("Job", "ns", "j") is not None
    assert [one["metadata"]["name"] for one in await hearsay.pods(job(1))] == ["p"]
    assert await hearsay.progress(pod(2)) == said["ns", "p"]
    assert await hearsay.progress(pod(2, name="other")) is None
    ended = job(3, conditions=[{"type": "Complete", "status": "True"}])
    for question in (
        hearsay.get("Job", "ns", "other"),
        hearsay.get("Deployment", "ns", "robot"),
        hearsay.pods(ended),
        hearsay.find_pods("ns", OWNER),
        hearsay.find_jobs("ns", OWNER),
    ):
        with pytest.raises(Unheard):
            await question


def test_running_pods_are_asked_in_turn_and_not_too_many_at_once():
    heard = Heard()
    for number in range(ASKED_PER_SECOND + 5):
        heard.note("Pod", pod(number + 1, name=f"p{number:02}"))
    heard.note("Pod", pod(99, name="waits", phase="Pending"))
    poller = Poller(heard, lambda pod: None)

    def asked(now):
        return [one["metadata"]["name"] for one in poller.due(now)]

    first, second = asked(0.0), asked(1.0)
    assert (len(first), len(second)) == (ASKED_PER_SECOND, 5)
    assert not set(first) & set(second)
    assert asked(2.0) == []
    poller.reports["ns", first[0]] = poller.reports["ns", second[0]] = ProgressReport(
        activity="training", step=1, total_steps=2
    )
    assert asked(PERIOD_SECONDS) == first
    assert list(poller.reports) == [("ns", second[0])]
    for name in first:
        heard.note("Pod", pod(200, name=name, phase="Succeeded"))
    assert asked(PERIOD_SECONDS + 1.0) == second
    assert poller.reports == {}
