"""Training on several nodes: the Job and its Service, what its ranks say, and what follows a failed attempt."""

import json
from dataclasses import replace

import pytest

from flowstill_operator.children import Child
from flowstill_operator.clusters.interface import AlreadyExists
from flowstill_operator.distilljob import manifests
from flowstill_operator.distilljob.observe import read_resource
from flowstill_operator.distilljob.plan import plan
from flowstill_operator.engine.loop import Key, Reconciler
from flowstill_operator.indexed import rank_service, service_name
from flowstill_operator.jobs import Owner, child_name
from flowstill_operator.platform import local_platform
from flowstill_operator.ranks import read_ranks
from tests.unit.operator.builders import NOW, PLATFORM, conditions, distill_spec, later, resource, trained
from tests.unit.operator.fake_cluster import FakeCluster, end_rank, rank_pod

LOCAL = local_platform("file:///tmp/store")
LAUNCH = ["python3", "-m", "flowstill_trainer.launch", "--nproc-per-node"]


def observed(child=None, status=None, platform=PLATFORM, left=(), name="sample", **runtime):
    spec = distill_spec(runtime={"nodes": 3, "gpusPerNode": 4, **runtime})
    found = read_resource(resource("DistillJob", spec, status, name), platform)
    return replace(found, children={} if child is None else {"train": child}, pods_left=tuple(left))


def made_job(platform=PLATFORM, status=None, name="sample", **runtime):
    seen = observed(status=status, name=name, platform=platform, **runtime)
    [wanted] = plan(seen, NOW).create
    return manifests.manifest(seen, wanted, platform)


def command(job):
    return job["spec"]["template"]["spec"]["containers"][0]["command"]


def dump(status):
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def test_one_pod_a_node_none_tried_again_by_the_job():
    job = made_job()
    spec = job["spec"]
    assert job["metadata"]["name"] == f"sample-train-1-{Owner('', '', '', 'uid-1').hash}"
    assert (spec["completionMode"], spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (
        "Indexed", 3, 3, 0
    )  # fmt: skip
    users, disrupted = spec["podFailurePolicy"]["rules"]
    assert (users["action"], users["onExitCodes"]["values"]) == ("FailJob", list(range(64, 79)))
    assert (disrupted["action"], disrupted["onPodConditions"][0]["type"]) == ("FailJob", "DisruptionTarget")
    [container] = spec["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "4"}


def test_every_rank_is_started_with_the_names_of_the_others():
    job = made_job()
    service = rank_service(job)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert set(service["spec"]["selector"]) == {f"flowstill.dev/{key}" for key in ("owner-kind", "owner-name", "role")}
    assert service["metadata"]["ownerReferences"] == job["metadata"]["ownerReferences"]
    assert service["metadata"]["labels"] == job["metadata"]["labels"]
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    meet, launch, trainer = " ".join(command(job)).split(" -- ")
    name, service = job["metadata"]["name"], service["metadata"]["name"]
    assert meet == f"python3 -m flowstill_trainer.meet --nodes 3 --job {name} --service {service}"
    assert launch.split() == [
        *LAUNCH, "4", "--nnodes", "3", "--node-rank", "$(JOB_COMPLETION_INDEX)",
        "--master-addr", f"{name}-0.{service}", "--master-port", "29500",
    ]  # fmt: skip
    assert trainer.startswith("--spec /etc/flowstill/spec.json --output /var/run/flowstill/volumes/claim")


@pytest.mark.parametrize(
    ("nodes", "gpus", "platform", "start"),
    [
        (1, 0, PLATFORM, ["flowstill-train", "--spec"]),
        (1, 1, PLATFORM, ["flowstill-train", "--spec"]),
        (1, 2, PLATFORM, [*LAUNCH, "2", "--", "--spec"]),
        (1, 2, LOCAL, ["flowstill-train", "--spec"]),
        (2, 0, PLATFORM, ["python3", "-m", "flowstill_trainer.meet", "--nodes", "2"]),
    ],
)
def test_a_launcher_only_for_more_than_one_process(nodes, gpus, platform, start):
    job = made_job(platform, nodes=nodes, gpusPerNode=gpus)
    assert command(job)[: len(start)] == start
    assert (rank_service(job) is None) == (nodes == 1)
    if nodes == 1:
        assert "completionMode" not in job["spec"]
        assert job["spec"]["backoffLimit"] == 3
        assert job["metadata"]["name"].startswith("sample-train-")


def test_names_are_host_names():
    """A pod is called JOB-INDEX; a Service begins with a letter."""
    owner = Owner("DistillJob", "ns", "7." + "x" * 38, "1")
    assert len(f"{child_name(owner, 'train', attempt=999)}-63") <= 63
    for name in (child_name(owner, "train", attempt=2), service_name(owner)):
        assert "." not in name
    assert service_name(owner)[0].isalpha()
    assert len(service_name(owner)) <= 63
    assert child_name(owner, "train", attempt=1) != child_name(owner, "train", attempt=2)


def test_what_is_left_of_the_deadline():
    status = {"attempts": 2, "activeSeconds": 40}
    assert made_job(status=status, activeDeadlineSeconds=100)["spec"]["activeDeadlineSeconds"] == 60


USER = trained(outcome="UserError", reason="TeacherRejected", student=None, message="spec.teacher.uri: no")
ERROR = trained(outcome="Error", reason="RuntimeError", student=None, message="RuntimeError: x")
INTERRUPTED = trained(outcome="Interrupted", reason="Interrupted", student=None)
BY_CODE = "Container child for pod robots/x failed with exit code 65 matching FailJob rule at index 0"
BY_DISRUPTION = "Pod robots/x has condition DisruptionTarget matching FailJob rule at index 1"
SPENT, POLICY = "BackoffLimitExceeded", "PodFailurePolicy"


def ranks(failure=None, codes=(0, 0, 0), gone=(), **more):
    job = made_job()
    cluster = FakeCluster()
    job["status"] = {}
    pods = cluster.pods_by_job[job["metadata"]["name"]] = [rank_pod(job, i) for i in range(3)]
    cluster.end_ranks(job, failure, codes=codes, **more)
    return read_ranks(job, [pod for i, pod in enumerate(pods) if i not in gone], "uid-1")


@pytest.mark.parametrize(
    ("child", "retry", "speechless"),
    [
        (ranks(SPENT, (None, 137, None), deleted=(0, 2)), "counted", False),
        (ranks(SPENT, (143, 1, 143), deleted=(0, 2), result=INTERRUPTED), "counted", False),
        (ranks(SPENT, (1, 1, 1), result=ERROR), "counted", False),
        (ranks(SPENT, (143, 143, 143), result=INTERRUPTED), "free", False),
        (ranks(SPENT, (143, 143, 143), deleted=(1, 2), gone=(1,)), "free", False),
        (ranks(SPENT, (1, 143, 143), disrupted=(1,)), "free", False),
        (ranks(POLICY, (143, 143, 1), message=BY_DISRUPTION, gone=(2,)), "free", False),
        (ranks(SPENT, (1, 1, 1), gone=(0, 1, 2)), "counted", False),
        (ranks(POLICY, (65, 143, 143), message=BY_CODE, result=USER), "never", False),
        (ranks(POLICY, (143, 65, 143), message=BY_CODE, deleted=(0,), gone=(0,)), "never", True),
        (ranks(POLICY, (143, 65, 143), message=BY_CODE, gone=(0, 1, 2)), "never", True),
        (ranks(SPENT, (65, 1, 1), result=USER), "never", False),
        (ranks("DeadlineExceeded", (143, 143, 143), result=INTERRUPTED), "never", False),
        (ranks("DeadlineExceeded", (143, 143, 143), disrupted=(1,)), "never", False),
    ],
)  # fmt: skip
def test_why_an_attempt_failed(child, retry, speechless):
    assert (child.state, child.retry, child.speechless) == ("Failed", retry, speechless)


def test_the_words_are_those_of_rank_0_and_the_crash_is_named():
    child = ranks(SPENT, (143, 137, 143), deleted=(0, 2), message="limit", result=INTERRUPTED)
    assert child.result == INTERRUPTED
    assert "1-x: exit code 137" in child.message
    assert ranks(POLICY, (143, 65, 0), message=BY_CODE).result is None
    assert ranks(result=trained()).result == trained()
    assert ranks().result is None


def test_rank_0_speaks_though_another_pod_is_newer():
    job = made_job()
    pods = [rank_pod(job, i) for i in range(3)]
    for pod in pods:
        end_rank(pod, 0, trained(message=pod["metadata"]["name"]))
    pods[2]["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    assert read_ranks(job, pods, "uid-1").result.message == pods[0]["metadata"]["name"]


def test_it_runs_when_all_ranks_run():
    job = made_job()
    pods = [rank_pod(job, i) for i in range(3)]
    assert read_ranks(job, pods, "uid-1").state == "Queued"
    for pod in pods[:2]:
        pod["status"]["phase"] = "Running"
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    pods[2]["status"]["conditions"] = [unschedulable]
    child = read_ranks(job, pods, "uid-1")
    assert (child.state, child.reason, child.message) == ("Queued", "Unschedulable", "0/1 nodes")
    pods[2]["status"] = {"phase": "Running"}
    assert read_ranks(job, pods, "uid-1").state == "Running"
    assert read_ranks(job, pods[:2], "uid-1").state == "Queued"
    assert read_ranks(job, pods, "other") == Child("Running", ours=False)


def test_before_it_is_admitted_it_has_no_pods_and_waits_for_quota():
    job = made_job()
    job["spec"]["suspend"] = True
    child = read_ranks({**job, "status": {}}, [], "uid-1")
    assert (child.state, child.reason) == ("Queued", "WaitingForQuota")


def test_a_job_that_is_failing_has_not_failed_yet():
    job = made_job()
    pods = [rank_pod(job, i) for i in range(3)]
    for pod in pods:
        pod["status"]["phase"] = "Running"
    job["status"] = {"conditions": [{"type": "FailureTarget", "status": "True", "reason": SPENT, "message": "limit"}]}
    child = read_ranks(job, pods, "uid-1")
    assert (child.state, child.reason, child.retry) == ("Queued", "AttemptFailed", "never")
    assert child.message == "limit; waiting until all its pods have ended"
    made = plan(observed(child, begun()), NOW)
    assert (made.create, made.status.attempts) == ((), 1)


def begun(**changes):
    return {**dump(plan(observed(), NOW).status), **changes}


def crash(**changes):
    return Child("Failed", reason=SPENT, message="exit code 137", retry="counted", **changes)


ENDED = "2026-01-02T03:04:05Z"


def test_a_new_resource_begins_attempt_1():
    made = plan(observed(), NOW)
    assert [wanted.attempt for wanted in made.create] == [1]
    assert made.status.attempts == 1
    assert made.status.disruptions is None


def test_the_next_attempt_is_written_down_before_its_job_is_made():
    status = begun()
    made = plan(observed(crash(seconds=7), status), NOW)
    assert made.create == ()
    assert (made.status.attempts, made.status.disruptions, made.status.active_seconds) == (2, 0, 7)
    assert conditions(made.status)["Trained"] == ("Unknown", "Restarting")
    assert made.requeue_after == 0
    assert made.status.message == "attempt 1 failed: exit code 137"
    again = plan(observed(Child("Missing"), dump(made.status)), NOW)
    assert [(wanted.role, wanted.attempt, wanted.reader) for wanted in again.create] == [("train", 2, False)]
    assert conditions(again.status)["Trained"] == ("Unknown", "Queued")
    assert (again.status.attempts, again.status.image) == (2, "trainer:1")


@pytest.mark.parametrize("attempt", [2, 3])
def test_no_attempt_begins_while_a_pod_of_an_earlier_one_is_left(attempt):
    left = ["p1", "p2", "p3", "p4", "p5"]
    failed = plan(observed(crash(), begun(attempts=attempt - 1), left=left), NOW)
    assert (failed.create, failed.status.attempts) == ((), attempt - 1)
    assert conditions(failed.status)["Trained"] == ("Unknown", "AttemptFailed")
    restarting = dump(plan(observed(crash(), begun(attempts=attempt - 1)), NOW).status)
    made = plan(observed(Child("Missing"), restarting, left=left), NOW)
    assert made.create == ()
    assert conditions(made.status)["Trained"] == ("Unknown", "Restarting")
    [trained_condition] = [c for c in made.status.conditions if c.type == "Trained"]
    assert "p1, p2, p3, p4 and 1 more" in trained_condition.message
    assert made.requeue_after == 60
    assert [w.attempt for w in plan(observed(Child("Missing"), dump(made.status)), NOW).create] == [attempt]


@pytest.mark.parametrize(
    ("attempts", "disruptions", "wait"), [(1, 0, 10), (2, 0, 20), (2, 1, 10), (5, 0, 160), (7, 0, 300), (60, 40, 300)]
)
def test_every_failure_is_waited_for_longer(attempts, disruptions, wait):
    status, child = begun(attempts=attempts, disruptions=disruptions), crash(ended=ENDED)
    early = plan(observed(child, status, backoffLimit=20), later(wait - 1))
    assert (early.status.attempts, early.requeue_after) == (attempts, 1)
    assert conditions(early.status)["Trained"] == ("Unknown", "AttemptFailed")
    assert plan(observed(child, status, backoffLimit=20), later(wait)).status.attempts == attempts + 1


def test_disruptions_do_not_count_and_failures_do():
    free = crash()
    free = replace(free, retry="free")
    made = plan(observed(free, begun(attempts=9, disruptions=7), backoffLimit=2), NOW)
    assert (made.status.attempts, made.status.disruptions) == (10, 8)
    made = plan(observed(crash(), begun(attempts=9, disruptions=7), backoffLimit=2), NOW)
    assert made.status.attempts == 10
    made = plan(observed(crash(), begun(attempts=10, disruptions=7), backoffLimit=2), NOW)
    assert (made.status.phase, made.create, made.requeue_after) == ("Failed", (), None)
    assert conditions(made.status)["Failed"] == ("True", SPENT)
    assert made.status.message == "attempt 10 failed, and spec.runtime.backoffLimit is 2: exit code 137"


@pytest.mark.parametrize(
    ("child", "reason", "words"),
    [
        (Child("Failed", reason=POLICY, result=USER), "TeacherRejected", "spec.teacher.uri: no"),
        (Child("Failed", reason="DeadlineExceeded", message="long"), "DeadlineExceeded", "long"),
        (Child("Failed", reason="Refused", message="no such account"), "Refused", "no such account"),
        (crash(seconds=60), "DeadlineExceeded", "took 100 s of spec.runtime.activeDeadlineSeconds"),
        (Child("Running", ours=False), "NameTaken", "somebody else"),
    ],
)
def test_what_ends_all_attempts(child, reason, words):
    made = plan(observed(child, begun(activeSeconds=40), activeDeadlineSeconds=100), NOW)
    assert conditions(made.status)["Failed"] == ("True", reason)
    assert words in made.status.message
    assert (made.create, made.requeue_after) == ((), None)


def test_lost_words_about_a_users_error_are_read_from_the_work_folder():
    child = Child("Failed", reason=POLICY, message=BY_CODE, speechless=True)
    made = plan(observed(child, begun()), NOW)
    assert [(wanted.reader, wanted.attempt) for wanted in made.create] == [(True, 0)]
    reading = replace(observed(child, dump(made.status)), readers={"train": Child("Succeeded", result=USER)})
    assert plan(reading, NOW).status.message == "spec.teacher.uri: no"
    for reader in (Child("Failed"), Child("Succeeded", result=ERROR), Child("Missing")):
        seen = replace(observed(child, dump(made.status)), readers={"train": reader})
        assert plan(seen, NOW).status.message == BY_CODE
    [wanted] = made.create
    job = manifests.manifest(observed(child, begun()), wanted, PLATFORM)
    assert job["metadata"]["name"] == child_name(Owner("", "", "sample", "uid-1"), "train", reader=True)
    assert "completionMode" not in job["spec"]


async def test_the_loop_waits_for_every_pod_of_a_failed_attempt_and_for_no_other():
    cluster, key = FakeCluster(), Key("DistillJob", "robots", "sample")
    cluster.put(resource("DistillJob", distill_spec(runtime={"nodes": 2})))
    loop = Reconciler(cluster, PLATFORM, now=lambda: NOW)
    await loop.reconcile(key)
    [job] = cluster.jobs()
    cluster.end_ranks(job, SPENT, codes=(1, None), deleted=(1,))
    [_, left] = cluster.pods_by_job[job["metadata"]["name"]]
    for _ in range(3):
        await loop.reconcile(key)
    assert len(cluster.created) == 1
    assert left["metadata"]["name"] in str(cluster.objects[tuple(key)]["status"])
    # Another resource had this name before: it has a work folder of its own.
    left["metadata"]["labels"]["batch.kubernetes.io/job-name"] = "sample-train-1-0f0f0f0f"
    for _ in range(2):
        await loop.reconcile(key)
    assert len(cluster.created) == 2


class Ordered(FakeCluster):
    """Remembers in which order things were made."""

    def __init__(self):
        super().__init__()
        self.order = []

    async def create(self, manifest):
        self.order.append(manifest["kind"])
        await super().create(manifest)


async def test_the_service_is_made_before_the_job_and_kept_for_the_next_attempt():
    cluster, key = Ordered(), Key("DistillJob", "robots", "sample")
    cluster.put(resource("DistillJob", distill_spec(runtime={"nodes": 2})))
    loop = Reconciler(cluster, PLATFORM, now=lambda: NOW)
    await loop.reconcile(key)
    assert cluster.order == ["Service", "Job"]
    [job] = cluster.jobs()
    cluster.end_ranks(job, SPENT, codes=(1, 143))
    for _ in range(2):
        await loop.reconcile(key)
    assert cluster.order == ["Service", "Job", "Service", "Job"]
    names = [job["metadata"]["name"] for job in cluster.jobs()]
    assert [name.rsplit("-", 1)[0] for name in names] == ["sample-train-1", "sample-train-2"]
    [service] = [found for (kind, _, _), found in cluster.objects.items() if kind == "Service"]
    service["metadata"]["ownerReferences"][0]["uid"] = "another"
    cluster.end_ranks(cluster.jobs()[1], SPENT, codes=(1, 143))
    for _ in range(2):
        await loop.reconcile(key)
    assert "Service" in cluster.objects[tuple(key)]["status"]["message"]
    assert len(cluster.jobs()) == 2
    with pytest.raises(AlreadyExists):
        await cluster.create(json.loads(json.dumps(service)))
