"""Every transition of a StudentRollout, as tables."""

from dataclasses import replace

import pytest

from flowstill.api.children import JudgeTask
from flowstill.api.conditions import find_condition
from flowstill_operator.children import Child
from flowstill_operator.platform import local_platform
from flowstill_operator.rollout.observe import Distilled, Observed, current_role, read_resource
from flowstill_operator.rollout.plan import child_refused, plan, target_refused
from flowstill_operator.rollout.promote import read_target
from tests.unit.operator.builders import (
    EVIDENCE,
    NOW,
    PLATFORM,
    RECORDS,
    RESULTS,
    STUDENT,
    TARGET_SPEC,
    TEACHER,
    conditions,
    deployment,
    digest,
    gates,
    judged,
    later,
    parity,
    records,
    resource,
    rollout_spec,
)

STUDENT_TEXT = f"{STUDENT.uri}@{STUDENT.digest}"
OLD = f"store://students/old@{digest('9')}"


def observed(status=None, spec=None, platform=PLATFORM, target=None, **changes) -> Observed:
    found = read_resource(resource("StudentRollout", rollout_spec() if spec is None else spec, status), platform)
    if target is not None:
        changes["target"] = read_target(target, found.spec.target.deployment)
    return replace(found, **changes)


def dump(status):
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def after(*roles, spec=None, target=None, now=NOW):
    """The status once those children were started and ended well."""
    status = dump(plan(observed(spec=spec, target=target), now).status)
    for role in roles:
        child = {role: Child("Succeeded", result=RESULTS[role]())}
        status = dump(plan(observed(status, spec, children=child, target=target), now).status)
    return status


def with_child(role, child, reader=None, status=None):
    readers = {} if reader is None else {role: reader}
    return plan(observed(status, children={role: child}, readers=readers), later(5))


def test_parity_first():
    made = plan(observed(), NOW)
    assert [(w.role, w.image) for w in made.create] == [("parity", "evaluator:1")]
    assert made.status.phase == "Validating"
    assert made.status.student == STUDENT
    assert conditions(made.status) == {"Validated": ("Unknown", "Queued")}


def test_each_result_starts_the_next_child_and_is_kept():
    made = with_child("parity", Child("Succeeded", result=parity()), status=after())
    assert [w.role for w in made.create] == ["rollouts"]
    assert (made.status.parity_difference, made.status.teacher, made.status.baseline) == (1e-6, TEACHER, TEACHER)
    made = with_child("rollouts", Child("Succeeded", result=records()), status=after("parity"))
    assert [w.role for w in made.create] == ["judge"]
    task = made.create[0].task
    assert isinstance(task, JudgeTask)
    assert (task.rollouts.digest, task.parity_difference, task.baseline.digest) == (
        RECORDS.digest,
        1e-6,
        TEACHER.digest,
    )
    made = with_child("judge", Child("Succeeded", result=judged()), status=after("parity", "rollouts"))
    assert made.create == ()
    assert made.status.phase == "Completed"
    assert (made.status.success, made.status.baseline_success, made.status.gates_summary) == (
        "199/200",
        "175/200",
        "9/9 Pass",
    )
    assert made.status.evidence == EVIDENCE
    assert conditions(made.status)["Completed"] == ("True", "Completed")
    assert "Promoted" not in conditions(made.status)


def test_a_graph_that_the_evaluator_refused_is_a_rejection_and_a_student_that_it_cannot_read_is_none():
    for reason, phase in (("ParityFailed", "Rejected"), ("ArtifactUnreadable", "Failed")):
        refused = parity(outcome="UserError", reason=reason, message="no", difference=0.5)
        made = with_child("parity", Child("Failed", result=refused))
        assert (made.status.phase, conditions(made.status)["Validated"][1]) == (phase, reason)
        assert ("Failed" in conditions(made.status)) == (phase == "Failed")


def test_what_the_budget_cannot_decide_is_said_before_the_first_episode():
    child = Child("Succeeded", result=parity(warning="200 episodes are too few for S3"))
    made = with_child("parity", child, status=after())
    assert [w.role for w in made.create] == ["rollouts"]
    assert "200 episodes are too few for S3" in find_condition(made.status.conditions, "Validated").message
    assert any("200 episodes are too few for S3" in note.message for note in made.events)


JUDGED = ("parity", "rollouts")


@pytest.mark.parametrize(
    ("done", "role", "result", "phase", "condition", "reason"),
    [
        ((), "parity", parity(difference=0.5), "Rejected", "Validated", "ParityFailed"),
        ((), "parity", parity(difference=None), "Failed", "Validated", "ResultIncomplete"),
        ((), "parity", parity(baseline=None), "Failed", "Validated", "ResultIncomplete"),
        (("parity",), "rollouts", records(rollouts=None), "Failed", "Evaluated", "ResultIncomplete"),
        (JUDGED, "judge", judged("Fail"), "Rejected", "GatesPassed", "GatesFailed"),
        (JUDGED, "judge", judged("Inconclusive"), "Inconclusive", "GatesPassed", "Inconclusive"),
        (JUDGED, "judge", judged(evidence=None), "Failed", "GatesPassed", "ResultIncomplete"),
        (JUDGED, "judge", judged(verdict=None), "Failed", "GatesPassed", "ResultIncomplete"),
        (JUDGED, "judge", judged(gates=gates()[:8]), "Failed", "GatesPassed", "ResultIncomplete"),
        (JUDGED, "judge", judged(gates=gates(S1="Fail")), "Failed", "GatesPassed", "ResultIncomplete"),
    ],
)  # fmt: skip
def test_results_that_are_no_pass(done, role, result, phase, condition, reason):
    made = with_child(role, Child("Succeeded", result=result), status=after(*done))
    assert made.status.phase == phase
    assert conditions(made.status)[condition][1] == reason
    assert conditions(made.status)[condition][0] != "True"
    assert (made.create, made.target, made.requeue_after) == ((), None, None)
    assert made.status.completion_time is not None


@pytest.mark.parametrize(("done", "role"), [((), "parity"), (("parity",), "rollouts"), (JUDGED, "judge")])
@pytest.mark.parametrize(
    ("child", "reader", "phase", "reason", "creates"),
    [
        (Child("Queued"), None, None, "Queued", 0),
        (Child("Running"), None, None, "Running", 0),
        (Child("Missing"), None, None, "ReadingResult", 1),
        (Child("Succeeded"), None, None, "ReadingResult", 1),
        (Child("Missing"), Child("Failed"), "Failed", "ChildMissing", 0),
        (Child("Succeeded"), Child("Failed"), "Failed", "ResultUnreadable", 0),
        (Child("Failed", reason="BackoffLimitExceeded"), None, "Failed", "BackoffLimitExceeded", 0),
        (Child("Running", ours=False), None, "Failed", "NameTaken", 0),
    ],
)
def test_what_every_started_child_means(done, role, child, reader, phase, reason, creates):
    status = after(*done)
    made = with_child(role, child, reader, status)
    kind = {"parity": "Validated", "rollouts": "Evaluated", "judge": "GatesPassed"}[role]
    assert conditions(made.status)[kind][1] == reason
    assert made.status.phase == (phase or status["phase"])
    assert [(w.role, w.reader) for w in made.create] == [(role, True)] * creates


WAITING = rollout_spec(student={"distillJob": "dj"})


@pytest.mark.parametrize(
    ("distilled", "phase", "validated"),
    [
        (Distilled(), "Pending", ("Unknown", "WaitingForDistillJob")),
        (Distilled(True, "Running"), "Pending", ("Unknown", "WaitingForDistillJob")),
        (Distilled(True, "Failed", "no teacher"), "Failed", ("False", "DistillJobFailed")),
        (Distilled(True, "Succeeded", "", STUDENT), "Validating", ("Unknown", "Queued")),
    ],
)
def test_a_rollout_follows_its_distilljob(distilled, phase, validated):
    made = plan(observed(spec=WAITING, distilled=distilled), NOW)
    assert made.status.phase == phase
    assert conditions(made.status)["Validated"] == validated
    assert len(made.create) == (phase == "Validating")


def test_waiting_is_no_start():
    waiting = dump(plan(observed(spec=WAITING), NOW).status)
    made = plan(observed(waiting, WAITING, distilled=Distilled(True, "Succeeded", "", STUDENT)), NOW)
    assert [(w.role, w.reader) for w in made.create] == [("parity", False)]


def test_the_student_is_pinned_once():
    status = after(spec=rollout_spec())
    other = replace(observed(status, WAITING), distilled=Distilled(True, "Succeeded", "", TEACHER))
    assert plan(other, NOW).status.student == STUDENT


SERVED = rollout_spec(target=TARGET_SPEC)


@pytest.mark.parametrize(
    ("target", "spec", "phase", "reason"),
    [
        (deployment(labelled=False), SERVED, "Pending", "WaitingForTarget"),
        (deployment("hf/pi0"), SERVED, "Failed", "BaselineUnpinned"),
        (deployment(valueFrom={"configMapKeyRef": {}}), SERVED, "Failed", "BaselineUnpinned"),
    ],
)
def test_targets_that_cannot_be_compared(target, spec, phase, reason):
    made = plan(observed(spec=spec, target=target), NOW)
    assert made.create == ()
    assert made.status.phase == phase
    assert conditions(made.status)["Validated"][1] == reason


def test_the_baseline_is_what_the_target_serves():
    made = plan(observed(spec=SERVED, target=deployment(OLD)), NOW)
    assert made.status.baseline.digest == digest("9")
    assert made.status.previous == OLD
    assert made.create[0].task.baseline.uri == "store://students/old"


def test_another_baseline_than_the_served_one_is_superseded_at_once():
    spec = {**SERVED, "baseline": {"uri": "store://students/new", "digest": digest("8")}}
    made = plan(observed(spec=spec, target=deployment(OLD)), NOW)
    assert (made.status.phase, made.create) == ("Superseded", ())
    assert conditions(made.status)["Superseded"] == ("True", "BaselineChanged")


def passed(target):
    return after("parity", "rollouts", "judge", spec=SERVED, target=target)


def step(status, target, now=NOW):
    return plan(observed(status, SERVED, target=target), now)


def test_the_pass_is_written_before_the_target_is_touched():
    judging = after("parity", "rollouts", spec=SERVED, target=deployment())
    ended = {"judge": Child("Succeeded", result=judged())}
    made = plan(observed(judging, SERVED, target=deployment(), children=ended), NOW)
    assert (made.target, made.status.phase, made.requeue_after) == (None, "Promoting", 0.0)
    made = step(dump(made.status), deployment())
    assert made.target.value == STUDENT_TEXT
    assert dict(made.target.annotations) == {
        "flowstill.dev/policy": STUDENT_TEXT,
        "flowstill.dev/previous": "",
        "flowstill.dev/rollout": "uid-1",
    }
    assert made.target.resource_version == "7"


def promoted(old=None):
    return dump(step(passed(deployment(old)), deployment(old)).status)


def ours(**changes):
    return deployment(STUDENT_TEXT, rollout="uid-1", **changes)


def test_an_available_target_completes_once_that_is_written():
    made = step(promoted(), ours())
    assert (made.target, made.status.phase, made.requeue_after) == (None, "Promoting", 0.0)
    assert conditions(made.status)["Promoted"] == ("True", "Available")
    done = step(dump(made.status), ours(available=False))
    assert done.status.phase == "Completed"
    assert dict(done.target.annotations)["flowstill.dev/last-completed"] == STUDENT_TEXT
    again = step(dump(made.status), ours(completed=STUDENT_TEXT))
    assert (again.target, again.status.phase) == (None, "Completed")


@pytest.mark.parametrize(
    "target",
    [deployment(OLD, rollout="uid-1"), deployment(STUDENT_TEXT, rollout="uid-2"), deployment()],
)
def test_a_target_that_changed_after_it_was_available_is_left_alone(target):
    made = step(dump(step(promoted(), ours()).status), target)
    assert (made.target, made.status.phase) == (None, "Completed")
    assert "changed since" in made.status.message


def test_a_record_that_is_refused_changes_no_decision():
    available = observed(dump(step(promoted(), ours()).status), SERVED, target=ours())
    made = plan(target_refused(available, "FieldOwned", "kubectl owns it"), NOW)
    assert (made.target, made.status.phase) == (None, "Completed")
    assert "kubectl owns it" in made.status.message


@pytest.mark.parametrize(
    "target",
    [deployment(OLD, rollout="uid-1"), deployment(OLD, rollout="uid-2"), deployment(STUDENT_TEXT, rollout="2")],
)
def test_what_somebody_else_serves_by_now_is_not_put_back(target):
    late = step(promoted(), ours(available=False), later(60))
    made = step(dump(late.status), target, later(61))
    assert (made.target, made.status.phase) == (None, "Superseded")
    assert conditions(made.status)["Promoted"] == ("False", "TargetChanged")
    assert "not available after 60 s" in made.status.message


def test_a_missing_target_says_what_to_do():
    found = observed(spec=SERVED)
    made = plan(replace(found, target=read_target(None, found.spec.target.deployment)), NOW)
    assert made.status.phase == "Pending"
    for words in ("spec.target.deployment.name", "create it with the label flowstill.dev/target", "without a deadline"):
        assert words in made.status.message


def test_a_promotion_whose_status_was_lost_is_not_repeated():
    made = step(passed(deployment()), ours(available=False))
    assert made.target is None
    assert made.status.promotion_time == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize("old", [None, OLD])
def test_a_target_that_does_not_become_available_gets_its_entry_back(old):
    status = promoted(old)
    assert step(status, ours(available=False), later(59)).status.phase == "Promoting"
    late = step(status, ours(available=False), later(60))
    assert (late.target, late.status.phase) == (None, "Promoting")
    assert conditions(late.status)["Promoted"] == ("False", "NotAvailable")
    back = step(dump(late.status), ours(available=False), later(61))
    assert back.target.value == old
    assert dict(back.target.annotations) == ({"flowstill.dev/policy": old} if old else {})
    done = step(dump(back.status), deployment(old), later(62))
    assert (done.target, done.status.phase) == (None, "RolledBack")


@pytest.mark.parametrize(
    ("target", "phase", "reason"),
    [
        (deployment(OLD), "Superseded", "BaselineChanged"),
        (deployment(labelled=False), "Failed", "TargetUnusable"),
    ],
)
def test_a_target_that_changed_before_promotion(target, phase, reason):
    made = step(passed(deployment()), target)
    assert (made.target, made.status.phase) == (None, phase)
    assert conditions(made.status)["Promoted"] == ("False", reason)


@pytest.mark.parametrize("target", [deployment(OLD), deployment(), deployment(OLD, rollout="uid-1")])
def test_a_target_that_changed_after_promotion_is_left_alone(target):
    made = step(promoted(), target)
    assert (made.target, made.status.phase) == (None, "Superseded")
    assert conditions(made.status)["Promoted"] == ("False", "TargetChanged")


def test_a_field_that_somebody_else_owns_fails_the_promotion():
    refused = target_refused(
        observed(passed(deployment()), SERVED, target=deployment()), "FieldOwned", "kubectl owns it"
    )
    made = plan(refused, NOW)
    assert (made.target, made.status.phase) == (None, "Failed")
    assert conditions(made.status)["Promoted"] == ("False", "FieldOwned")
    assert made.status.message.startswith("kubectl owns it")
    assert "by envFrom" in made.status.message


def test_a_refused_job_fails():
    wanted = plan(observed(), NOW).create[0]
    made = plan(child_refused(observed(), wanted, "Refused", "spec.template: Invalid value"), NOW)
    assert (made.create, made.status.phase) == ((), "Failed")
    assert "spec.template" in made.status.message


def test_a_refused_job_leaves_the_other_children_as_they_were():
    parity_done = Child("Succeeded", result=parity())
    before = observed(children={"parity": parity_done}, readers={"parity": parity_done})
    (wanted,) = plan(before, NOW).create
    assert wanted.role == "rollouts"
    for one in (wanted, replace(wanted, reader=True)):
        after_refusal = child_refused(before, one, "Refused", "no")
        assert (after_refusal.child("parity"), after_refusal.reader("parity")) == (parity_done, parity_done)


@pytest.mark.parametrize("phase", ["Completed", "Rejected", "Inconclusive", "Superseded", "RolledBack", "Failed"])
def test_a_terminal_status_is_final(phase):
    status = {**after("parity"), "phase": phase}
    made = plan(observed(status, spec={"nonsense": 1}), NOW)
    assert dump(made.status) == status
    assert (made.create, made.target, made.events, made.requeue_after) == ((), None, (), None)


@pytest.mark.parametrize(
    ("spec", "platform", "words"),
    [
        (rollout_spec(target=TARGET_SPEC), local_platform("file:///s"), "spec.target"),
        (rollout_spec(student={"distillJob": "x", "uri": "store://a"}), PLATFORM, "exactly one of"),
        (rollout_spec(gates={"S3": {"margin": 0.2}}), PLATFORM, "spec.gates.S3.margin"),
        (rollout_spec(teacher={"uri": "file:///x"}), PLATFORM, "spec.teacher.uri"),
    ],
)
def test_specs_that_cannot_work(spec, platform, words):
    made = plan(observed(spec=spec, platform=platform), NOW)
    assert (made.create, made.status.phase) == ((), "Failed")
    assert words in made.status.message
    assert conditions(made.status)["Validated"][0] == "False"


def test_trials_of_ones_own_are_judged_once():
    """The same three children; nobody can run more of them, so an open gate ends it."""
    evidence = {"uri": "store://evidence/arm", "digest": digest("f")}
    spec = rollout_spec(evaluation={"suite": "custom", "tasks": ["pick"], "episodesPerTask": 12, "evidence": evidence})
    made = plan(observed(after(spec=spec), spec, children={"parity": Child("Succeeded", result=parity())}), NOW)
    (wanted,) = made.create
    assert (wanted.role, wanted.task.evaluation.evidence.digest) == ("rollouts", digest("f"))
    ended = {"judge": Child("Succeeded", result=judged("Inconclusive"))}
    made = plan(observed(after("parity", "rollouts", spec=spec), spec, children=ended), NOW)
    assert (made.create, made.status.phase) == ((), "Inconclusive")
    assert "a new rollout with more recorded trials may decide" in made.status.message


def test_the_first_undecided_child_is_the_one_to_look_at():
    roles = [current_role(read_resource(resource("StudentRollout", rollout_spec(), after(*done)), PLATFORM).status)
             for done in ((), ("parity",), JUDGED, (*JUDGED, "judge"))]  # fmt: skip
    assert roles == ["parity", "rollouts", "judge", None]
