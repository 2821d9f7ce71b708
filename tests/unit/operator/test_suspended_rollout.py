"""Suspend and resume of a StudentRollout: its children's deadlines, its verdict, its promotion."""

from dataclasses import replace

from flowstill_operator.children import Child
from flowstill_operator.rollout import manifests
from flowstill_operator.rollout.observe import read_resource, read_target
from flowstill_operator.rollout.plan import plan
from flowstill_operator.steps import ChildJob, timestamp
from tests.unit.operator.builders import (
    NOW,
    PLATFORM,
    TARGET_SPEC,
    conditions,
    deployment,
    later,
    parity,
    resource,
    rollout_spec,
)
from tests.unit.operator.test_suspension import dump, job

WIDE = {"evaluation": {"suite": "metaworld", "tasks": ["reach", "push"], "shards": 4}}


def observed(status=None, *, suspend=True, child=None, role="rollouts", **extra):
    seen = read_resource(resource("StudentRollout", rollout_spec(suspend=suspend, **extra), status), PLATFORM)
    if "target" in extra:
        seen = replace(seen, target=read_target(deployment(), seen.spec.target.deployment))
    return replace(seen, children={} if child is None else {role: child})


def step(status=None, now=NOW, **extra):
    return plan(observed(status, **extra), now)


def evaluating(**extra):
    """The status of a rollout whose shards run."""
    status = dump(step(suspend=False, **extra).status)
    status = dump(step(status, suspend=False, child=Child("Succeeded", result=parity()), role="parity", **extra).status)
    return dump(step(status, suspend=False, child=job(), **extra).status)


def held(now=NOW, **extra):
    """The same, suspended at ``now``."""
    stopping = dump(step(evaluating(**extra), now, child=job(), **extra).status)
    return dump(step(stopping, now, **extra).status)


def spec_of(status, *, reader=False, **extra):
    seen = observed(status, suspend=False, **extra)
    [wanted] = plan(seen, NOW).create
    assert (wanted.role, wanted.reader) == ("rollouts", reader)
    return manifests.manifest(seen, wanted, PLATFORM)["spec"]


def test_all_shards_are_told_to_end_in_their_phase_and_have_the_time_that_the_spec_gives_them():
    extra = {**WIDE, "runtime": {"terminationGracePeriodSeconds": 77}}
    first = step(evaluating(**extra), child=job(), **extra)
    assert (first.status.phase, first.delete, first.requeue_after) == ("Evaluating", (), 0)
    assert first.status.message.endswith("up to 77 s")
    found = conditions(first.status)
    assert (found["Suspended"], found["Evaluated"]) == (("Unknown", "Suspending"), ("Unknown", "Suspending"))
    second = step(dump(first.status), child=job(), **extra)
    assert second.delete == (ChildJob("sample-train-1", "job-1", "rollouts"),)
    gone = step(dump(second.status), **extra)
    assert (gone.status.phase, gone.create, gone.requeue_after) == ("Suspended", (), None)
    again = step(dump(gone.status), suspend=False, **extra)
    assert [(wanted.role, wanted.shards, wanted.reader) for wanted in again.create] == [("rollouts", 4, False)]


def test_what_shards_have_spent_is_taken_from_their_deadline_and_from_no_other_childs():
    extra = {**WIDE, "runtime": {"activeDeadlineSeconds": 100}}
    status = held(later(40), **extra)
    assert status["activeSeconds"] == 40
    assert spec_of(status, **extra)["activeDeadlineSeconds"] == 60
    begun = dump(step(status, suspend=False, **extra).status)
    assert spec_of(begun, reader=True, **extra)["activeDeadlineSeconds"] == 100, "who reads has all of it"
    again = dump(step(begun, later(500), child=job(), **extra).status)
    assert again["activeSeconds"] == 540
    assert spec_of(dump(step(again, **extra).status), **extra)["activeDeadlineSeconds"] == 1, "0 would be none"


def test_what_parity_has_spent_is_not_the_shards():
    extra = {**WIDE, "runtime": {"activeDeadlineSeconds": 100}}
    status = dump(step(suspend=False, **extra).status)
    status = dump(step(status, later(40), child=job(), role="parity", **extra).status)
    assert status["activeSeconds"] == 40
    status = dump(step(status, child=Child("Succeeded", result=parity()), role="parity", **extra).status)
    assert "activeSeconds" not in status
    assert status["phase"] == "Suspended"
    assert spec_of(status, **extra)["activeDeadlineSeconds"] == 100


def test_the_next_stage_is_not_begun():
    begun = dump(step(suspend=False).status)
    made = step(begun, child=Child("Succeeded", result=parity()), role="parity")
    assert (made.status.phase, made.create) == ("Suspended", ())
    assert conditions(made.status)["Validated"][0] == "True"


def test_shards_that_vanished_unsuspended_are_read_though_suspend_is_true():
    made = step(evaluating(**WIDE), **WIDE)
    assert [(wanted.role, wanted.reader, wanted.shards) for wanted in made.create] == [("rollouts", True, 4)]


def test_shards_that_ended_are_not_touched():
    failed = step(evaluating(**WIDE), child=Child("Failed", reason="MaxFailedIndexesExceeded"), **WIDE)
    assert (failed.status.phase, failed.delete) == ("Failed", ())
    ended = dump(failed.status)
    assert (dump(step(ended, **WIDE).status), step(ended, **WIDE).delete) == (ended, ())


def test_shards_that_wait_for_quota_are_said_to():
    extra = {**WIDE, "runtime": {"queueName": "robots"}}
    waiting = job("Queued", reason="WaitingForQuota", held_back=True, queue="robots", started=None)
    made = step(evaluating(**extra), suspend=False, child=waiting, **extra)
    assert conditions(made.status)["Admitted"] == ("False", "WaitingForQuota")
    admitted = step(dump(made.status), suspend=False, child=job(), **extra)
    assert conditions(admitted.status)["Admitted"] == ("True", "Admitted")
    suspended = step(dump(made.status), later(50), child=waiting, **extra)
    assert suspended.status.active_seconds is None, "what waits for quota has used no seconds"


def judged_status():
    kinds = ("Validated", "Evaluated", "GatesPassed")
    student = {"uri": "store://students/a", "digest": "sha256:" + "a" * 64}
    passed = [
        {"type": kind, "status": "True", "reason": "Passed", "lastTransitionTime": timestamp(NOW)} for kind in kinds
    ]
    return {"phase": "Judging", "startTime": timestamp(NOW), "student": student, "previous": "", "conditions": passed}


def test_a_rollout_that_is_suspended_pins_nothing():
    made = step(student={"distillJob": "dj"})
    assert (made.status.phase, made.status.student, made.status.start_time) == ("Suspended", None, None)
    waiting = step(dump(made.status), suspend=False, student={"distillJob": "dj"})
    assert waiting.status.phase == "Pending"
    assert conditions(waiting.status)["Suspended"] == ("False", "Resumed")


def test_after_the_verdict_suspension_holds_the_promotion_until_it_began():
    held = step(judged_status(), target=TARGET_SPEC)
    assert (held.status.phase, held.target, held.requeue_after) == ("Suspended", None, None)
    assert "Promoted" not in conditions(held.status)
    going = step(dump(held.status), suspend=False, target=TARGET_SPEC)
    assert (going.status.phase, conditions(going.status)["Suspended"]) == ("Promoting", ("False", "Resumed"))
    late = step(dump(going.status), target=TARGET_SPEC)
    assert late.status.phase == "Promoting"
    assert late.target is not None
    assert conditions(late.status)["Suspended"] == ("False", "Promoting")
    [suspended] = [c for c in late.status.conditions if c.type == "Suspended"]
    assert "no effect" in suspended.message


def test_what_is_watched_goes_on_being_watched():
    status = {**judged_status(), "phase": "Monitoring", "promotionTime": timestamp(NOW)}
    watched = step(status, target=TARGET_SPEC)
    assert watched.status.phase != "Suspended"
    assert conditions(watched.status)["Suspended"] == ("False", "Promoting")


def test_without_a_target_a_judged_rollout_is_complete_unless_somebody_must_approve():
    assert step(judged_status()).status.phase == "Completed"
    evidence = {"evidence": {"uri": "store://evidence/d", "digest": "sha256:" + "d" * 64}}
    asked = step(judged_status() | evidence, approval="Manual")
    assert asked.status.phase == "Suspended"
    assert step(dump(asked.status), suspend=False, approval="Manual").status.phase == "AwaitingApproval"
