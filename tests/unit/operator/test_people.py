"""Approve, abort and retry: what each means in every phase, as tables."""

from dataclasses import replace

import pytest

from flowstill.api.actions import Request
from flowstill_operator.children import Child
from flowstill_operator.distilljob import plan as distilljob_plan
from flowstill_operator.distilljob.observe import read_resource as read_distilljob
from flowstill_operator.platform import local_platform
from flowstill_operator.rollout.observe import read_resource as read_rollout
from flowstill_operator.rollout.plan import plan
from flowstill_operator.rollout.promote import read_target
from flowstill_operator.steps import ChildJob
from tests.unit.operator.builders import (
    EVIDENCE,
    NOW,
    PLATFORM,
    RESULTS,
    STUDENT,
    TARGET_SPEC,
    conditions,
    deployment,
    digest,
    distill_spec,
    judged,
    later,
    resource,
    rollout_spec,
)

STUDENT_TEXT = f"{STUDENT.uri}@{STUDENT.digest}"
OLD = f"store://students/old@{digest('9')}"
ABORT = Request("abort", "t1", "alice", "it stutters")
RETRY = Request("retry", "t2", "bob", "the node is mended")
APPROVE = Request("approve", EVIDENCE.digest, "carol", "saw the videos")
MANUAL = rollout_spec(target=TARGET_SPEC, approval="Manual")
SERVED = rollout_spec(target=TARGET_SPEC)
ROLLOUT_ENDS = ("Completed", "Rejected", "Inconclusive", "Superseded", "RolledBack", "Failed")
RUNNING = ChildJob("sample-train-x", "j1", "train")
ENDED = replace(RUNNING, finished=True)


def dump(status):
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def rollout(status=None, spec=None, *requests, target=None, **changes):
    found = read_rollout(resource("StudentRollout", spec or rollout_spec(), status), PLATFORM)
    if target is not None:
        changes["target"] = read_target(target, found.spec.target.deployment)
    return replace(found, requests=requests, **changes)


def after(*roles, spec, target=None):
    """The status once those children were started and ended well."""
    status = dump(plan(rollout(None, spec, target=target), NOW).status)
    for role in roles:
        child = {role: Child("Succeeded", result=RESULTS[role]())}
        status = dump(plan(rollout(status, spec, children=child, target=target), NOW).status)
    return status


def awaiting(target=None):
    return after("parity", "rollouts", "judge", spec=MANUAL, target=target or deployment())


def job(status=None, *requests, spec=None, **changes):
    found = read_distilljob(resource("DistillJob", spec or distill_spec(), status), PLATFORM)
    return replace(found, requests=requests, **changes)


def plan_job(*arguments, now=NOW, **changes):
    return distilljob_plan.plan(job(*arguments, **changes), now)


def test_passed_gates_wait_for_an_approval():
    status = awaiting()
    assert (status["phase"], status["evidence"]["digest"]) == ("AwaitingApproval", EVIDENCE.digest)
    made = plan(rollout(status, MANUAL, target=deployment()), later(60))
    assert (made.target, made.create, made.events) == (None, (), ())
    assert conditions(made.status)["Approved"] == ("Unknown", "AwaitingApproval")
    assert EVIDENCE.digest in made.status.message
    assert "Promoted" not in conditions(made.status)


def test_who_approves_is_told_what_did_not_pass():
    override = {"gate": "P1", "by": "ann", "reason": "a pilot line", "expires": "2027-01-01T00:00:00Z"}
    spec = rollout_spec(approval="Manual", overrides=[override])
    status = after("parity", "rollouts", spec=spec)
    ended = {"judge": Child("Succeeded", result=judged("Fail"))}
    made = plan(rollout(status, spec, children=ended), NOW)
    assert made.status.phase == "AwaitingApproval"
    for words in ("passed but for P1", "ann", EVIDENCE.digest):
        assert words in made.status.message


def test_an_approval_is_recorded_and_the_promotion_begins():
    made = plan(rollout(awaiting(), MANUAL, APPROVE, target=deployment()), later(60))
    assert (made.target, made.requeue_after) == (None, 0.0)
    assert conditions(made.status)["Approved"] == ("True", "Approved")
    assert [dump(action) for action in made.status.actions] == [
        {
            "action": "approve",
            "by": "carol",
            "reason": "saw the videos",
            "token": EVIDENCE.digest,
            "digest": EVIDENCE.digest,
            "time": "2026-01-02T03:05:05Z",
        }
    ]
    assert ("Normal", "Approved", "Approved: carol: saw the videos") in [
        (note.type, note.reason, note.message) for note in made.events
    ]
    made = plan(rollout(dump(made.status), MANUAL, APPROVE, target=deployment()), later(61))
    assert (made.status.phase, made.target) == ("Promoting", None)
    made = plan(rollout(dump(made.status), MANUAL, APPROVE, target=deployment()), later(62))
    assert made.target.value == STUDENT_TEXT


@pytest.mark.parametrize(
    ("request_", "reason", "words"),
    [
        (replace(APPROVE, token=digest("0")), "OtherEvidence", f"the evidence is {EVIDENCE.digest}"),
        (replace(APPROVE, token=""), "OtherEvidence", "approves nothing"),
        (replace(APPROVE, by=""), "ApprovalUnsigned", "neither who nor why"),
        (replace(APPROVE, reason=""), "ApprovalUnsigned", "WHO: WHY"),
    ],
)
def test_other_approvals_are_none(request_, reason, words):
    made = plan(rollout(awaiting(), MANUAL, request_, target=deployment()), later(60))
    assert (made.status.phase, made.target, made.status.actions) == ("AwaitingApproval", None, [])
    assert conditions(made.status)["Approved"] == ("Unknown", reason)
    assert words in made.status.message
    assert [note.reason for note in made.events] == [reason]


def test_an_approval_counts_only_once_there_is_evidence():
    status = after("parity", spec=MANUAL, target=deployment())
    made = plan(rollout(status, MANUAL, APPROVE, target=deployment()), later(1))
    assert "Approved" not in conditions(made.status)
    assert made.status.actions == []


def test_without_a_target_the_verdict_is_approved():
    spec = rollout_spec(approval="Manual")
    status = after("parity", "rollouts", "judge", spec=spec)
    assert status["phase"] == "AwaitingApproval"
    approved = dump(plan(rollout(status, spec, APPROVE), later(1)).status)
    assert plan(rollout(approved, spec, APPROVE), later(2)).status.phase == "Completed"


def test_a_spec_that_no_longer_asks_for_it_goes_on():
    made = plan(rollout(awaiting(), SERVED, target=deployment()), later(1))
    assert made.target is None
    made = plan(rollout(dump(made.status), SERVED, target=deployment()), later(2))
    assert made.status.phase == "Promoting"
    assert conditions(made.status)["Approved"] == ("True", "Automatic")


def test_a_promotion_under_way_does_not_ask_for_an_approval():
    begun = after("parity", "rollouts", "judge", spec=SERVED, target=deployment())
    ours = deployment(STUDENT_TEXT, rollout="uid-1", available=False)
    made = plan(rollout(begun, MANUAL, target=ours), later(1))
    assert (made.status.phase, conditions(made.status).get("Approved")) == ("Promoting", None)


def test_a_target_that_changes_while_it_waits_supersedes_it():
    made = plan(rollout(awaiting(), MANUAL, APPROVE, target=deployment(OLD)), later(1))
    assert (made.status.phase, made.target) == ("Superseded", None)
    assert "the initial policy" in made.status.message


def test_local_mode_refuses_manual_approval():
    document = resource("StudentRollout", rollout_spec(approval="Manual"))
    assert "spec.approval" in read_rollout(document, local_platform("file:///s")).problem.message


def test_abort_deletes_what_runs_and_ends_the_resource():
    begun = dump(plan_job().status)
    jobs = (RUNNING, replace(RUNNING, name="gone", ending=True), ENDED)
    made = plan_job(begun, ABORT, jobs=jobs, children={"train": Child("Running")}, now=later(5))
    assert (made.delete, made.create, made.requeue_after) == ((RUNNING,), (), None)
    assert made.status.phase == "Failed"
    found = conditions(made.status)
    assert (found["Failed"], found["Trained"]) == (("True", "Aborted"), ("False", "Aborted"))
    assert made.status.message == "aborted by alice: it stutters"
    assert made.status.completion_time == "2026-01-02T03:04:10Z"
    again = plan_job(dump(made.status), ABORT, jobs=jobs, now=later(6))
    assert (again.status, again.delete, again.events) == (made.status, (), ())


@pytest.mark.parametrize("done", [(), ("parity",), ("parity", "rollouts"), ("parity", "rollouts", "judge")])
def test_abort_before_the_promotion_touches_no_target(done):
    status = after(*done, spec=MANUAL, target=deployment(OLD))
    running = (replace(RUNNING, role="judge"),)
    made = plan(rollout(status, MANUAL, ABORT, target=deployment(OLD), jobs=running), later(5))
    assert (made.target, made.delete, made.status.phase) == (None, running, "Failed")
    assert conditions(made.status)["Failed"] == ("True", "Aborted")
    assert made.status.actions[0].action == "abort"


@pytest.mark.parametrize("old", [None, OLD])
@pytest.mark.parametrize("written", [True, False])
def test_abort_of_a_promotion_puts_the_previous_policy_back(old, written):
    passed = after("parity", "rollouts", "judge", spec=SERVED, target=deployment(old))
    promoted = dump(plan(rollout(passed, SERVED, target=deployment(old)), NOW).status)
    ours = deployment(STUDENT_TEXT, rollout="uid-1", available=False)
    made = plan(rollout(promoted if written else passed, SERVED, ABORT, target=ours), later(5))
    assert (made.target, made.status.phase) == (None, "Promoting")
    assert conditions(made.status)["Promoted"] == ("False", "Aborted")
    back = plan(rollout(dump(made.status), SERVED, ABORT, target=ours), later(6))
    assert back.target.value == old
    done = plan(rollout(dump(back.status), SERVED, ABORT, target=deployment(old)), later(7))
    assert (done.target, done.status.phase) == (None, "RolledBack")
    assert "aborted by alice: it stutters" in done.status.message


@pytest.mark.parametrize("phase", ROLLOUT_ENDS)
def test_abort_of_what_has_ended_is_refused_once(phase):
    status = {**after("parity", spec=SERVED, target=deployment()), "phase": phase}
    made = plan(rollout(status, SERVED, ABORT), later(5))
    assert (made.status.phase, made.status.conditions) == (phase, plan(rollout(status, SERVED), NOW).status.conditions)
    assert made.status.actions[0].refused == f"it has ended: {phase}"
    assert [(note.type, note.reason) for note in made.events] == [("Warning", "ActionRefused")]
    again = plan(rollout(dump(made.status), SERVED, ABORT), later(6))
    assert (dump(again.status), again.events) == (dump(made.status), ())


@pytest.mark.parametrize(
    ("phase", "carried_out"),
    [(phase, phase in ("Failed", "RolledBack")) for phase in ROLLOUT_ENDS],
)
def test_what_a_retry_may_follow(phase, carried_out):
    status = {
        **after("parity", spec=SERVED, target=deployment()),
        "phase": phase,
        "completionTime": "2026-01-02T03:04:05Z",
        "activeSeconds": 30,
    }
    made = plan(rollout(status, SERVED, RETRY, target=deployment()), later(5))
    assert (made.status.phase == "Pending") == carried_out
    assert (made.status.completion_time is None) == carried_out
    assert (made.status.active_seconds is None) == carried_out
    assert (made.status.actions[0].refused is None) == carried_out


def test_a_retry_of_what_runs_is_refused_and_the_plan_goes_on():
    begun = dump(plan_job().status)
    made = plan_job(begun, RETRY, children={"train": Child("Running")}, now=later(5))
    assert made.status.phase == "Running"
    assert "it is Queued" in made.status.actions[0].refused
    failed = plan_job(dump(made.status), RETRY, children={"train": Child("Failed", reason="X")}, now=later(6))
    assert failed.status.phase == "Failed"
    assert plan_job(dump(failed.status), RETRY, now=later(7)).status == failed.status


def failed_job(**changes):
    return dump(plan_job(dump(plan_job().status), children={"train": Child("Failed", attempts=4)}, **changes).status)


def test_a_retry_waits_for_the_pods_of_before_and_begins_anew():
    status = failed_job()
    ending = replace(RUNNING, ending=True)
    waits = plan_job(status, RETRY, jobs=(ENDED, ending), now=later(5))
    assert (waits.delete, waits.create, waits.status.phase, waits.status.actions) == ((ENDED,), (), "Failed", [])
    assert "waiting until the Jobs" in waits.status.message
    assert waits.requeue_after > 0
    made = plan_job(dump(waits.status), RETRY, now=later(6))
    assert (made.status.phase, made.status.attempts, made.status.image) == ("Pending", 0, None)
    assert made.status.completion_time is None
    assert conditions(made.status) == {
        "Validated": ("True", "Valid"),
        "Trained": ("Unknown", "Pending"),
        "Failed": ("False", "Retried"),
    }
    assert ("Normal", "Retried", "Failed: tried again by bob: the node is mended") in [
        (note.type, note.reason, note.message) for note in made.events
    ]
    begun = plan_job(dump(made.status), RETRY, now=later(7))
    assert [(wanted.role, wanted.reader) for wanted in begun.create] == [("train", False)]
    assert begun.status.actions == made.status.actions


def test_a_retry_of_a_failed_validation_keeps_the_training():
    spec = distill_spec(validation={"after": True})
    trained = {"train": Child("Succeeded", result=RESULTS["train"]())}
    status = dump(plan_job(dump(plan_job(spec=spec).status), spec=spec, children=trained).status)
    status = dump(plan_job(status, spec=spec, children={"parity": Child("Failed", reason="OOMKilled")}).status)
    assert status["phase"] == "Failed"
    jobs = (replace(ENDED, role="train"), replace(ENDED, role="parity"))
    assert plan_job(status, RETRY, spec=spec, jobs=jobs).delete == jobs[1:]
    made = plan_job(status, RETRY, spec=spec, jobs=jobs[:1])
    assert (made.delete, made.status.student, made.status.image) == ((), STUDENT, "trainer:1")
    assert conditions(made.status)["Trained"][0] == "True"
    (wanted,) = plan_job(dump(made.status), RETRY, spec=spec).create
    assert wanted.role == "parity"


def test_an_approval_is_for_one_promotion():
    approved = dump(plan(rollout(awaiting(), MANUAL, APPROVE, target=deployment()), NOW).status)
    approved = dump(plan(rollout(approved, MANUAL, APPROVE, target=deployment()), NOW).status)
    promoted = dump(plan(rollout(approved, MANUAL, APPROVE, target=deployment()), NOW).status)
    ours = deployment(STUDENT_TEXT, rollout="uid-1", available=False)
    late = dump(plan(rollout(promoted, MANUAL, APPROVE, target=ours), later(60)).status)
    late = dump(plan(rollout(late, MANUAL, APPROVE, target=deployment()), later(61)).status)
    assert late["phase"] == "RolledBack"
    again = dump(plan(rollout(late, MANUAL, APPROVE, RETRY, target=deployment()), later(62)).status)
    waits = plan(rollout(again, MANUAL, APPROVE, RETRY, target=deployment()), later(63))
    assert (waits.status.phase, waits.target) == ("AwaitingApproval", None)
    assert conditions(waits.status)["Approved"] == ("Unknown", "ApprovalUsed")
    anew = replace(APPROVE, reason="the node was mended")
    made = plan(rollout(dump(waits.status), MANUAL, anew, RETRY, target=deployment()), later(64))
    made = plan(rollout(dump(made.status), MANUAL, anew, RETRY, target=deployment()), later(65))
    assert made.target.value == STUDENT_TEXT
    assert made.status.promotion_time == "2026-01-02T03:05:10Z"
