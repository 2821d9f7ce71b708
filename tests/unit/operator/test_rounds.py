"""Rounds: what stays undecided is run further, and judged again with all that was run before."""

from itertools import pairwise

import pytest

from flowstill_operator.children import Child
from flowstill_operator.engine.metrics import Metrics, is_judged
from flowstill_operator.rollout.plan import plan
from tests.unit.operator.builders import TEACHER, conditions, gates, judged, later, records, rollout_spec
from tests.unit.operator.test_rollout_plan import after, dump, observed


def rounds_spec(**evaluation):
    limits = {"episodesPerTask": 50, "maxEpisodesPerTask": 200, **evaluation}
    return rollout_spec(evaluation={"suite": "metaworld", "tasks": ["reach-around"], **limits})


def undecided(wanted, **changes):
    return judged(None, wanted_episodes=wanted, evidence=None, gates=gates(P1="Inconclusive"), **changes)


def ended(status, role, result, spec, seconds=5):
    return plan(observed(status, spec, children={role: Child("Succeeded", result=result)}), later(seconds))


def test_what_stays_undecided_is_run_again_only_further():
    spec = rounds_spec()
    status = after("parity", "rollouts", spec=spec) | {"activeSeconds": 40}
    assert (status["round"], status["episodes"], status["rounds"]) == (1, 50, [50])
    made = ended(status, "judge", undecided(100), spec)
    assert (made.create, made.target, made.requeue_after) == ((), None, 0.0)
    assert (made.status.phase, made.status.round, made.status.episodes) == ("Evaluating", 2, 100)
    assert made.status.rounds == [50, 50]
    assert made.status.active_seconds is None, "what a child has spent is not the next one's"
    found = conditions(made.status)
    assert found["Evaluated"] == ("Unknown", "MoreEpisodes")
    assert found["GatesPassed"] == ("Unknown", "Undecided")
    assert "Completed" not in found
    notes = {note.reason: note for note in made.events}
    assert notes["MoreEpisodes"].type == "Normal"
    assert notes["MoreEpisodes"].message == (
        "Evaluated: 50 episodes of every task leave P1 undecided; 100 of at most 200 are run"
    )
    assert made.status.gates_summary == "8/9 Pass"

    again = plan(observed(dump(made.status), spec), later(6))
    [wanted] = again.create
    assert (wanted.role, wanted.round, wanted.reader) == ("rollouts", 2, False)
    assert (wanted.task.first_episode, wanted.task.episodes) == (50, 50)
    assert wanted.task.work == "store://work/uid-1/rollouts-2"
    second = ended(dump(again.status), "rollouts", records(), spec, 9)
    [judge] = second.create
    assert (judge.role, judge.round) == ("judge", 2)
    assert [part.work.rpartition("/")[2] for part in judge.task.rounds] == ["rollouts", "rollouts-2"]
    assert judge.task.episodes == 100
    assert judge.task.work == "store://work/uid-1/judge-2"
    end = ended(dump(second.status), "judge", judged(rollouts=TEACHER), spec, 12)
    assert end.status.phase == "Completed"
    assert end.status.rollouts == TEACHER
    assert (end.status.round, end.status.episodes) == (2, 100)

    metrics = Metrics()
    counted = [is_judged(dump(each.status)) for each in (made, again, second, end)]
    assert counted == [False, False, False, True]
    for before, now in pairwise([status, *(dump(each.status) for each in (made, again, second, end))]):
        metrics.wrote("StudentRollout", before, now)
    assert metrics.text(0, 0.0, 0.0).decode().count('verdict="Pass"} 1.0') == 9


@pytest.mark.parametrize(("wanted", "most"), [(50, 200), (40, 200), (201, 200), (100, 50)])
def test_a_judge_that_wants_what_cannot_be_run_has_said_nothing(wanted, most):
    spec = rounds_spec(maxEpisodesPerTask=most)
    made = ended(after("parity", "rollouts", spec=spec), "judge", undecided(wanted), spec)
    assert made.status.phase == "Failed"
    assert conditions(made.status)["GatesPassed"] == ("False", "ResultIncomplete")
    assert f"wants {wanted} episodes of every task after 50" in made.status.message


def test_a_verdict_ends_it_whatever_else_is_wanted():
    spec = rounds_spec()
    made = ended(after("parity", "rollouts", spec=spec), "judge", judged("Inconclusive", wanted_episodes=100), spec)
    assert made.status.phase == "Inconclusive"
    assert made.status.round == 1


def test_a_rollout_from_before_there_were_rounds_goes_on():
    spec = rounds_spec()
    status = after("parity", "rollouts", spec=spec)
    for field in ("round", "episodes", "rounds"):
        status.pop(field)
    made = ended(status, "judge", undecided(100), spec)
    assert made.status.rounds == [50, 50]
