"""An evaluation in shards: its Job, what the pods say together, and what is read when they say nothing."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from flowstill.api.children import JudgeRoundsTask, ProgressReport, Result, RolloutsTask
from flowstill_operator.children import FEWEST_PODS, Child
from flowstill_operator.clusters.processes import Attempt, command_of, environment_of
from flowstill_operator.jobs import READER_PROGRAM, Owner, child_name, work_uri
from flowstill_operator.platform import local_platform
from flowstill_operator.rollout import manifests
from flowstill_operator.rollout.observe import read_resource
from flowstill_operator.rollout.plan import plan
from flowstill_operator.shards import read_job, talker
from tests.unit.operator.builders import (
    NOW,
    PLATFORM,
    conditions,
    judged,
    later,
    parity,
    records,
    resource,
    rollout_spec,
)
from tests.unit.operator.fake_cluster import end_rank, rank_pod

OWNER = Owner("StudentRollout", "robots", "sample", "uid-1")


def spec(shards=4, runtime=None, **evaluation):
    evaluation = {"suite": "metaworld", "tasks": ["reach", "push"], "shards": shards, **evaluation}
    return rollout_spec(evaluation=evaluation, runtime=runtime or {})


def observed(status=None, child=None, role="rollouts", reader=None, **changes):
    found = read_resource(resource("StudentRollout", spec(**changes), status), PLATFORM)
    children = {} if child is None else {role: child}
    return replace(found, children=children, readers={} if reader is None else {role: reader})


def dump(status):
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def after(*results, **changes):
    """The status after those children ended so, each a role and its result."""
    status = dump(plan(observed(**changes), NOW).status)
    for role, result in results:
        child = Child("Succeeded", result=result)
        status = dump(plan(observed(status, child, role, **changes), later(5)).status)
    return status


def wanted_job(status=None, platform=PLATFORM, **changes):
    status = after(("parity", parity()), **changes) if status is None else status
    seen = observed({**status, "conditions": status["conditions"][:1]}, **changes)
    [wanted] = plan(seen, NOW).create
    return manifests.manifest(seen, wanted, platform), wanted


def test_a_pod_for_each_shard_each_tried_again_by_itself():
    job, _ = wanted_job()
    made = job["spec"]
    assert job["metadata"]["name"] == f"sample-rollouts-{OWNER.hash}"
    assert (made["completionMode"], made["completions"], made["parallelism"]) == ("Indexed", 4, 4)
    assert (made["backoffLimitPerIndex"], made["maxFailedIndexes"]) == (3, 0)
    assert "backoffLimit" not in made, "it would end the Job before a shard's own limit does"
    fail, disrupted = made["podFailurePolicy"]["rules"]
    assert (fail["action"], disrupted["action"]) == ("FailJob", "Ignore")
    [container] = made["template"]["spec"]["containers"]
    assert container["command"][-2:] == [
        "--output",
        f"/var/run/flowstill/volumes/claim/flowstill/work/uid-1/rollouts/{'$'}(JOB_COMPLETION_INDEX)",
    ]
    task = RolloutsTask.model_validate_json(made["template"]["metadata"]["annotations"]["flowstill.dev/spec"])
    assert (task.shards, task.first_episode, task.episodes) == (4, 0, 50)


def test_a_queue_may_run_them_one_after_another():
    job, _ = wanted_job()
    assert FEWEST_PODS not in job["metadata"].get("annotations", {})
    queued, _ = wanted_job(runtime={"queueName": "robots"})
    assert queued["metadata"]["annotations"][FEWEST_PODS] == "1"
    one, _ = wanted_job(shards=1, runtime={"queueName": "robots"})
    assert FEWEST_PODS not in one["metadata"].get("annotations", {}), "it has one pod anyway"


def test_one_shard_is_a_job_as_ever():
    job, wanted = wanted_job(shards=1)
    assert wanted.shards == 1
    assert "completionMode" not in job["spec"]
    assert job["spec"]["backoffLimit"] == 3
    assert job["spec"]["template"]["spec"]["containers"][0]["command"][-1].endswith("/work/uid-1/rollouts")


def test_no_pod_is_without_an_episode():
    assert wanted_job(shards=64, episodesPerTask=3)[0]["spec"]["completions"] == 6


LONG = "a-very-long-name-of-a-rollout.with.dots-x"


@pytest.mark.parametrize("number", [1, 2, 10, 99])
@pytest.mark.parametrize(("reader", "indexed"), [(False, False), (True, False), (False, True)])
def test_names_are_labels_and_differ(number, reader, indexed):
    owner = replace(OWNER, name=LONG)
    name = child_name(owner, "rollouts", reader=reader, number=number, indexed=indexed)
    assert len(f"{name}-63" if indexed else name) <= 63
    assert "." not in name or not indexed
    assert name.startswith("a-very-long-name")
    assert name.endswith(f"{'-' + str(number) if number > 1 else ''}{'-read' if reader else ''}-{owner.hash}")


def test_names_of_the_first_round_are_those_from_before_there_were_rounds():
    assert child_name(OWNER, "rollouts") == f"sample-rollouts-{OWNER.hash}"
    assert child_name(OWNER, "rollouts", reader=True) == f"sample-rollouts-read-{OWNER.hash}"
    assert child_name(replace(OWNER, name=LONG), "rollouts") == f"{LONG[:40].rstrip('-')}-rollouts-{OWNER.hash}"
    assert child_name(OWNER, "train", attempt=2) == f"sample-train-2-{OWNER.hash}"
    assert work_uri(OWNER, "rollouts") == "store://work/uid-1/rollouts"
    assert work_uri(OWNER, "rollouts", 2) == "store://work/uid-1/rollouts-2"


def job_and_pods(phases=(None,) * 4, **status):
    job, _ = wanted_job()
    pods = [rank_pod(job, index) for index in range(4)]
    for pod, code in zip(pods, phases, strict=True):
        if code != "Pending":
            end_rank(pod, code, records() if code == 0 else None)
    return {**job, "status": status}, pods


def ended(kind, reason="", message=""):
    return [{"type": kind, "status": "True", "reason": reason, "message": message}]


def test_all_shards_done_is_done_in_the_words_of_any():
    job, pods = job_and_pods((0,) * 4, conditions=ended("Complete"), succeeded=4)
    child = read_job(job, pods[2:3], "uid-1")
    assert (child.state, child.result.outcome, child.result.rollouts) == ("Succeeded", "Succeeded", None)
    assert read_job(job, [], "uid-1").result is None


def test_while_they_run_it_is_said_how_many_are_done():
    job, pods = job_and_pods((0, None, "Pending", None), succeeded=1)
    child = read_job(job, pods, "uid-1")
    assert (child.state, child.message) == ("Running", "1 of 4 shards are done")
    assert talker(job, pods) is pods[1]
    job, pods = job_and_pods(("Pending",) * 4)
    pods[3]["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}
    ]
    child = read_job(job, pods, "uid-1")
    assert (child.state, child.reason, child.message) == ("Queued", "Unschedulable", "no GPU")
    assert talker(job, pods) is None
    assert read_job({**job, "spec": {**job["spec"], "suspend": True}}, [], "uid-1").reason == "WaitingForQuota"


def test_progress_says_how_many_are_done_and_how_far_one_is():
    report = ProgressReport(activity="running student", step=8, total_steps=12)
    child = Child("Running", message="1 of 4 shards are done", progress=report)
    made = plan(observed(after(("parity", parity())), child), later(5))
    assert made.status.message == "1 of 4 shards are done; running student: 8 of 12"
    assert made.status.conditions[-1].message == "1 of 4 shards are done"


def test_a_lost_shard_is_no_failure():
    job, pods = job_and_pods((0, None, 137, None), succeeded=1, failed=1)
    pods[2]["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
    child = read_job(job, [*pods, rank_pod(job, 2)], "uid-1")
    assert (child.state, child.message) == ("Running", "1 of 4 shards are done")


def failed_child(pods_say, reason="MaxFailedIndexesExceeded", indexes="2", codes=(143, 0, 1, 143)):
    job, pods = job_and_pods(codes, conditions=ended("Failed", reason, "Job has exceeded"), failedIndexes=indexes)
    for index, result in pods_say.items():
        end_rank(pods[index], codes[index], result)
    return read_job(job, pods, "uid-1")


def test_a_shard_that_fails_too_often_is_named_with_its_words():
    error = records(outcome="Error", reason="RuntimeError", message="no simulator starts", rollouts=None)
    child = failed_child({2: error})
    assert (child.state, child.result.reason) == ("Failed", "RuntimeError")
    assert child.result.message == "shard 3 of 4: no simulator starts"
    status = after(("parity", parity()))
    made = plan(observed(status, child), later(5))
    assert made.status.phase == "Failed"
    assert made.status.message == "rollouts: shard 3 of 4: no simulator starts"
    crashed = failed_child({}, indexes="1-2")
    assert crashed.result is None
    assert crashed.message == "shard 2, 3 of 4 failed 4 times, the last with exit code 1; Job has exceeded"
    assert plan(observed(status, crashed), later(5)).status.message == f"rollouts: {crashed.message}"


def test_a_users_error_of_any_shard_is_final_in_its_words():
    words = records(outcome="UserError", reason="NoGraphics", message="install libegl1", rollouts=None)
    child = failed_child({0: words}, "PodFailurePolicy", "", codes=(65, 143, 143, 143))
    assert (child.result.outcome, child.result.message) == ("UserError", "shard 1 of 4: install libegl1")
    mute = failed_child({}, "PodFailurePolicy", "", codes=(65, 143, 143, 143))
    assert mute.speechless
    status = after(("parity", parity()))
    made = plan(observed(status, mute), later(5))
    [wanted] = made.create
    assert (wanted.role, wanted.reader, wanted.shards) == ("rollouts", True, 4)
    job = manifests.manifest(observed(status), wanted, PLATFORM)
    assert "completionMode" not in job["spec"]
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert [part.rpartition("/")[2] for part in command[3:]] == ["0", "1", "2", "3"]


def said(outcome, **more):
    return Result(kind="Rollouts", outcome=outcome, reason="R", **more).model_dump_json(
        by_alias=True, exclude_none=True
    )


@pytest.mark.parametrize(
    ("left", "outcome"),
    [
        ([said("Succeeded"), said("Succeeded")], "Succeeded"),
        ([said("Succeeded"), said("Error")], "Error"),
        ([said("Interrupted"), said("UserError"), None], "UserError"),
        ([said("Succeeded"), None], None),
        ([None, None], None),
        ([said("Succeeded")], "Succeeded"),
        ([None], None),
    ],
)
def test_the_reader_says_the_worst_and_nothing_when_a_shard_is_missing(tmp_path, left, outcome):
    folders = [tmp_path / str(index) for index in range(len(left))]
    for folder, text in zip(folders, left, strict=True):
        folder.mkdir()
        if text is not None:
            (folder / "result.json").write_text(text)
    message = tmp_path / "message"
    done = subprocess.run(
        [sys.executable, "-c", READER_PROGRAM, *map(str, folders)],
        env={"FLOWSTILL_TERMINATION_LOG": str(message)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) == (outcome is not None)
    if outcome is None:
        assert f"of {len(left)} folders hold a result.json" in done.stderr
        assert not message.exists()
    else:
        assert Result.model_validate_json(message.read_text()).outcome == outcome


def test_the_judge_is_told_where_every_part_lies():
    whole = records(rollouts=None)
    status = after(("parity", parity()), ("rollouts", whole))
    assert "rollouts" not in status
    made = plan(observed({**status, "conditions": status["conditions"][:2]}), NOW)
    task = made.create[0].task
    assert isinstance(task, JudgeRoundsTask)
    assert [(part.work, part.shards) for part in task.rounds] == [("store://work/uid-1/rollouts", 4)]
    assert task.episodes == 50
    merged = records().rollouts
    made = plan(observed(status, Child("Succeeded", result=judged(rollouts=merged)), "judge"), later(9))
    assert (made.status.phase, made.status.rollouts) == ("Completed", merged)
    assert conditions(made.status)["GatesPassed"] == ("True", "GatesPassed")


def test_a_process_of_this_machine_is_told_its_index(tmp_path):
    job, _ = wanted_job(platform=local_platform("file:///tmp/store"))
    assert command_of(job, tmp_path / "s", 3)[-1].endswith("/work/uid-1/rollouts/3")
    assert environment_of(job, Attempt(tmp_path, 1), 3)["JOB_COMPLETION_INDEX"] == "3"
    assert "JOB_COMPLETION_INDEX" not in environment_of(job, Attempt(tmp_path, 1))
    assert json.loads(json.dumps(job)) == job
