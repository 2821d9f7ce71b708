"""A question that was judged before: its verdict, and nothing that is run; and a rollout that is created again."""

import pytest

from flowstill.api.conditions import find_condition
from flowstill_operator.children import Child
from flowstill_operator.rollout.plan import plan
from tests.unit.operator.builders import (
    EVIDENCE,
    NOW,
    RECORDS,
    conditions,
    deployment,
    digest,
    gates,
    later,
    reused,
    rollout_spec,
)
from tests.unit.operator.test_rollout_plan import OLD, SERVED, STUDENT_TEXT, after, dump, observed, step, with_child


@pytest.mark.parametrize("verdict", ["Pass", "Fail", "Inconclusive"])
def test_what_was_judged_before_is_not_evaluated_again(verdict):
    made = with_child("parity", Child("Succeeded", result=reused(verdict)), status=after())
    assert (made.create, made.target, made.requeue_after) == ((), None, None)
    assert made.status.phase == {"Pass": "Completed", "Fail": "Rejected"}.get(verdict, "Inconclusive")
    assert conditions(made.status)["Evaluated"] == ("True", "Reused")
    assert "judged before as robots/first" in find_condition(made.status.conditions, "Evaluated").message
    assert (made.status.evidence, made.status.rollouts, made.status.success) == (EVIDENCE, RECORDS, "199/200")
    assert len(made.status.gates) == 9
    assert made.status.rounds == []


def test_an_override_counts_for_a_verdict_from_before():
    override = {"gate": "P1", "by": "ann", "reason": "a faster arm comes", "expires": "2026-12-31T23:59:59Z"}
    spec = rollout_spec(overrides=[override])
    child = {"parity": Child("Succeeded", result=reused("Fail"))}
    assert plan(observed(after(spec=spec), spec, children=child), NOW).status.phase == "Completed"


@pytest.mark.parametrize(
    "changes", [{"verdict": None}, {"evidence": None}, {"gates": gates()[:8]}, {"gates": gates(S1="Fail")}]
)
def test_a_verdict_from_before_that_is_not_whole_is_none(changes):
    made = with_child("parity", Child("Succeeded", result=reused(**changes)), status=after())
    assert (made.create, made.status.phase) == ((), "Failed")
    assert made.status.gates == []


def test_a_graph_that_is_another_is_rejected_whatever_was_judged_before():
    made = with_child("parity", Child("Succeeded", result=reused(difference=0.5)), status=after())
    assert (made.status.phase, conditions(made.status)["Validated"]) == ("Rejected", ("False", "ParityFailed"))
    assert "Evaluated" not in conditions(made.status)


def test_a_rollout_that_is_created_again_asks_the_same_and_takes_its_student_over():
    """It was deleted, the target left as it was: what the student replaced is the baseline still."""
    record = {"policy": STUDENT_TEXT, "previous": OLD, "last-completed": STUDENT_TEXT, "rollout": "uid-before"}
    left = deployment(STUDENT_TEXT)
    left["metadata"]["annotations"] = {f"flowstill.dev/{key}": value for key, value in record.items()}
    made = plan(observed(spec=SERVED, target=left), NOW)
    assert (made.status.baseline.digest, made.status.previous) == (digest("9"), STUDENT_TEXT)
    first = plan(observed(spec=SERVED, target=deployment(OLD)), NOW)
    same = {"parity", "evaluation", "gates", "student", "teacher", "baseline", "overrides", "image"}
    assert made.create[0].task.model_dump(include=same) == first.create[0].task.model_dump(include=same)
    again = {"parity": Child("Succeeded", result=reused())}
    chosen = plan(observed(dump(made.status), SERVED, target=left, children=again), NOW)
    assert (chosen.create, chosen.status.phase, chosen.status.roll_back_to) == ((), "Promoting", OLD)
    put = step(dump(chosen.status), left)
    assert put.target.value == STUDENT_TEXT
    assert dict(put.target.annotations) == {f"flowstill.dev/{k}": v for k, v in {**record, "rollout": "uid-1"}.items()}
    # Taken back now, it is not what completed last any more.
    left["metadata"]["annotations"]["flowstill.dev/rollout"] = "uid-1"
    left["status"]["availableReplicas"] = 0
    late = step(dump(put.status), left, later(90))
    back = step(dump(late.status), left, later(91))
    assert (back.target.value, dict(back.target.annotations)) == (OLD, {"flowstill.dev/policy": OLD})
