"""Overrides in the plan of a rollout: what they let through, when they lapse, and what the status says of them."""

import pytest

from flowstill.api.children import JudgeTask
from flowstill.api.studentrollout import StudentRolloutStatus
from flowstill_operator.children import Child
from flowstill_operator.rollout.plan import plan
from tests.unit.operator.builders import (
    GATES,
    NOW,
    STUDENT,
    TARGET_SPEC,
    conditions,
    deployment,
    gates,
    judged,
    later,
    records,
    rollout_spec,
)
from tests.unit.operator.test_rollout_plan import after, dump, observed

HOUR = "2026-01-02T04:04:05Z"
PAST = "2026-01-02T03:04:05Z"


def override(gate="P2", expires=HOUR, by="ann"):
    return {"gate": gate, "by": by, "reason": "the robots get a faster arm", "expires": expires}


def with_overrides(*overrides, **changes):
    return rollout_spec(overrides=list(overrides), **changes)


def result(**verdicts):
    together = "Fail" if "Fail" in verdicts.values() else "Inconclusive" if verdicts else "Pass"
    return judged(gates=gates(**verdicts), verdict=together)


def judge(spec, now=NOW, target=None, **verdicts):
    status = after("parity", "rollouts", spec=spec, target=target, now=NOW)
    return plan(observed(status, spec, children={"judge": Child("Succeeded", result=result(**verdicts))},
                         target=target), now)  # fmt: skip


def overrides_of(status):
    return {gate.name: gate.override for gate in status.gates if gate.override is not None}


def test_an_overridden_gate_keeps_its_verdict_and_lets_the_rollout_complete():
    made = judge(with_overrides(override()), P2="Fail")
    assert made.status.phase == "Completed"
    assert conditions(made.status)["GatesPassed"] == ("True", "GatesOverridden")
    assert {gate.name: gate.verdict for gate in made.status.gates} == {**dict.fromkeys(GATES, "Pass"), "P2": "Fail"}
    assert made.status.gates_summary == "8/9 Pass, 1 overridden"
    found = overrides_of(made.status)["P2"]
    assert (found.by, found.reason, found.expires, found.lapsed) == ("ann", "the robots get a faster arm", HOUR, False)
    assert "P2 Fail (overridden by ann" in made.status.message
    assert [(note.type, note.reason) for note in made.events][:1] == [("Warning", "GatesOverridden")]


@pytest.mark.parametrize(
    ("overrides", "verdicts", "phase", "truth", "reason"),
    [
        ([override()], {"P2": "Fail"}, "Completed", "True", "GatesOverridden"),
        ([override()], {"P2": "Inconclusive"}, "Completed", "True", "GatesOverridden"),
        ([override(), override("P3")], {"P2": "Fail", "P3": "Inconclusive"}, "Completed", "True", "GatesOverridden"),
        ([override()], {}, "Completed", "True", "GatesPassed"),
        ([override(expires=PAST)], {}, "Completed", "True", "GatesPassed"),
        ([override(expires=PAST)], {"P2": "Fail"}, "Rejected", "False", "OverrideLapsed"),
        ([override(expires=PAST)], {"P2": "Inconclusive"}, "Inconclusive", "Unknown", "OverrideLapsed"),
        ([override("P3")], {"P2": "Fail"}, "Rejected", "False", "GatesFailed"),
        ([override(expires=PAST)], {"P2": "Fail", "P3": "Fail"}, "Rejected", "False", "GatesFailed"),
        ([override()], {"P2": "Fail", "S1": "Fail"}, "Rejected", "False", "GatesFailed"),
        ([override()], {"P2": "Fail", "S1": "Inconclusive"}, "Inconclusive", "Unknown", "Inconclusive"),
        ([override()], {"P2": "Fail", "P4": "Inconclusive"}, "Inconclusive", "Unknown", "Inconclusive"),
    ],
)
def test_what_overrides_let_through(overrides, verdicts, phase, truth, reason):
    made = judge(with_overrides(*overrides), **verdicts)
    assert made.status.phase == phase
    assert conditions(made.status)["GatesPassed"] == (truth, reason)
    assert overrides_of(made.status).keys() == {one["gate"] for one in overrides}
    assert made.requeue_after is None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (judged("Fail", gates=gates()), "a verdict that agrees with its gates"),
        (judged("Inconclusive", gates=gates(P2="Fail")), "a verdict that agrees with its gates"),
        (judged("Pass", gates=gates(P2="Fail")), "a verdict that agrees with its gates"),
    ],
)
def test_an_override_mends_no_judge_that_contradicts_itself(found, words):
    spec = with_overrides(override())
    child = {"judge": Child("Succeeded", result=found)}
    made = plan(observed(after("parity", "rollouts", spec=spec), spec, children=child), NOW)
    assert made.status.phase == "Failed"
    assert words in made.status.message


def test_a_safety_gates_override_is_refused_before_anything_runs():
    made = plan(observed(spec=with_overrides(override("S1"))), NOW)
    assert (made.create, made.status.phase) == ((), "Failed")
    assert "a safety gate can never be overridden" in made.status.message
    assert conditions(made.status)["Validated"] == ("False", "InvalidSpec")


def test_the_judge_is_told_for_the_record():
    spec = with_overrides(override())
    status = after("parity", spec=spec)
    made = plan(observed(status, spec, children={"rollouts": Child("Succeeded", result=records())}), NOW)
    task = made.create[0].task
    assert isinstance(task, JudgeTask)
    assert (task.overrides[0].gate, task.overrides[0].by, task.asked) == ("P2", "ann", "2026-01-02T03:04:05Z")


SERVED = {"target": TARGET_SPEC}


def promoting(*overrides, **verdicts):
    """The status of a rollout whose verdict is written, and whose target is not changed yet."""
    made = judge(with_overrides(*overrides, **SERVED), target=deployment(), **verdicts)
    assert (made.status.phase, made.target) == ("Promoting", None)
    return dump(made.status)


def look(status, now, *overrides, target=None):
    return plan(observed(status, with_overrides(*overrides, **SERVED), target=target or deployment()), now)


def test_an_override_that_holds_promotes():
    made = look(promoting(override(), P2="Fail"), later(3599), override())
    assert made.target.value == f"{STUDENT.uri}@{STUDENT.digest}"
    assert made.status.promotion_time is not None


@pytest.mark.parametrize(("verdict", "phase"), [("Fail", "Rejected"), ("Inconclusive", "Inconclusive")])
def test_an_override_that_lapses_before_promotion_does_not_count(verdict, phase):
    made = look(promoting(override(), P2=verdict), later(3600), override())
    assert (made.target, made.status.phase) == (None, phase)
    found = conditions(made.status)
    assert (found["GatesPassed"][1], found["Promoted"], found["Completed"]) == (
        "OverrideLapsed",
        ("False", "OverrideLapsed"),
        ("False", "OverrideLapsed"),
    )
    assert overrides_of(made.status)["P2"].lapsed
    assert "expired" in made.status.message


def test_an_override_that_is_taken_back_before_promotion_does_not_count():
    made = look(promoting(override(), P2="Fail"), later(1))
    assert (made.target, made.status.phase) == (None, "Rejected")
    assert conditions(made.status)["GatesPassed"] == ("False", "GatesFailed")


def test_an_override_that_is_prolonged_counts_longer():
    made = look(promoting(override(), P2="Fail"), later(3600), override(expires="2026-01-02T06:00:00Z"))
    assert made.target is not None


def test_what_is_served_stays_served_when_an_override_lapses():
    status = dump(look(promoting(override(), P2="Fail"), later(1), override()).status)
    ours = deployment(f"{STUDENT.uri}@{STUDENT.digest}", rollout="uid-1")
    made = look(status, later(4000), override(), target=ours)
    assert conditions(made.status)["GatesPassed"] == ("True", "GatesOverridden")
    assert conditions(made.status)["Promoted"] == ("True", "Available")


def test_once_promoted_it_is_the_target_that_counts_and_no_expiry():
    status = dump(look(promoting(override(), P2="Fail"), later(1), override()).status)
    made = look(status, later(4000), override(), target=deployment("store://x@sha256:" + "9" * 64))
    assert made.status.phase == "Superseded"
    assert conditions(made.status)["GatesPassed"] == ("True", "GatesOverridden")


def test_a_promotion_whose_status_was_lost_does_not_lapse():
    """The target was changed while the override held; only the note of it was lost."""
    ours = deployment(f"{STUDENT.uri}@{STUDENT.digest}", rollout="uid-1", available=False)
    made = look(promoting(override(), P2="Fail"), later(4000), override(), target=ours)
    assert made.status.phase == "Promoting"
    assert conditions(made.status)["GatesPassed"] == ("True", "GatesOverridden")


def awaiting(expires, seconds):
    """A look at a rollout that waits for somebody's approval, so many seconds after its verdict."""
    spec = {"approval": "Manual", **SERVED}
    made = judge(with_overrides(override(), **spec), target=deployment(), P2="Fail")
    assert made.status.phase == "AwaitingApproval"
    assert "passed but for P2 Fail (overridden by ann" in made.status.message
    again = with_overrides(override(expires=expires), **spec)
    return plan(observed(dump(made.status), again, target=deployment()), later(seconds))


@pytest.mark.parametrize(
    ("seconds", "expires", "phase", "requeue"),
    [
        (10, HOUR, "AwaitingApproval", 60.0),
        (3590, HOUR, "AwaitingApproval", 11.0),
        (3600, HOUR, "Rejected", None),
        (3600, "2026-01-02T06:00:00Z", "AwaitingApproval", 60.0),
    ],
)
def test_it_lapses_while_somebody_is_waited_for_and_is_looked_at_when_it_does(seconds, expires, phase, requeue):
    made = awaiting(expires, seconds)
    assert (made.status.phase, made.requeue_after) == (phase, requeue)
    assert conditions(made.status)["GatesPassed"][1] == ("OverrideLapsed" if phase == "Rejected" else "GatesOverridden")


def test_long_reasons_leave_room_in_every_message():
    """The API server refuses a status whose message is longer than 1,024 characters."""
    long = [{**override(f"P{n}"), "by": "b" * 256, "reason": "r" * 512} for n in range(1, 7)]
    verdicts = {f"P{n}": "Fail" for n in range(1, 7)}
    for changes in ({}, SERVED, {"approval": "Manual", **SERVED}):
        made = judge(with_overrides(*long, **changes), target=deployment() if changes else None, **verdicts)
        assert made.status.phase in ("Completed", "Promoting", "AwaitingApproval")
        StudentRolloutStatus.model_validate(dump(made.status))


def test_a_look_changes_nothing_while_nothing_changes():
    status = promoting(override(), P2="Fail")
    refused = look(status, later(5), override(), target=deployment("store://x@sha256:" + "9" * 64))
    assert refused.status.phase == "Superseded"
    assert dump(refused.status)["gates"] == status["gates"]
