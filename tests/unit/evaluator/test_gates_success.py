"""P1, S3 and P5: success in all, task by task, and how often which student is promoted."""

from dataclasses import replace

import numpy as np
import pytest

from flowstill.api.gates import Gates
from flowstill_evaluator.gates.chain import run_gates
from flowstill_evaluator.gates.margins import within_margin
from flowstill_evaluator.statistics import LEVEL, PairCounts
from tests.unit.evaluator import synthetic as syn
from tests.unit.evaluator.gating import Judged, first, judged, made_evidence, set_outcomes


@pytest.mark.parametrize(
    ("student", "baseline", "verdict"),
    [
        (first(199), first(175), "Pass"),
        (first(200), first(200), "Pass"),
        (first(191), first(190), "Pass"),
        (first(188), first(190), "Inconclusive"),
        (first(160), first(190), "Fail"),
        (first(184), first(190), "Inconclusive"),
    ],
)
def test_success_against_a_margin_of_three_points(records, student, baseline, verdict):
    set_outcomes(records, student, baseline)
    result = judged(records)["P1"]
    assert result.verdict == verdict
    assert result.measured == pytest.approx((sum(student) - sum(baseline)) / 200)
    assert ("paired episodes would decide" in result.message) == (verdict == "Inconclusive")


def test_few_perfect_pairs_need_the_exact_test(tmp_path):
    """88 pairs without a loss: the score bound excludes 3 points, the exact test does not."""
    records = syn.write_records(tmp_path / "r", episodes=88)
    set_outcomes(records, first(88, 88), first(88, 88))
    result = judged(records, episodes=88)["P1"]
    assert result.interval is not None
    assert result.interval.low > -0.03
    assert result.verdict == "Inconclusive"


@pytest.mark.parametrize(("student", "verdict"), [(50, "Pass"), (49, "Pass"), (46, "Inconclusive"), (30, "Fail")])
def test_no_cliff_task_by_task(tmp_path, student, verdict):
    records = syn.write_records(tmp_path / "r", tasks=["easy", "hard"], episodes=50)
    set_outcomes(records, first(50, 50), first(45, 50), task="easy")
    set_outcomes(records, first(student, 50), first(50, 50), task="hard")
    result = judged(records, tasks=["easy", "hard"], episodes=50)["S3"]
    assert result.verdict == verdict
    assert "hard" in result.message
    assert result.samples == 100


def test_an_average_does_not_hide_a_cliff(tmp_path):
    records = syn.write_records(tmp_path / "r", tasks=["a", "b", "c", "d"], episodes=100)
    for task in "abc":
        set_outcomes(records, first(100, 100), first(85, 100), task=task)
    set_outcomes(records, first(60, 100), first(85, 100), task="d")
    results = judged(records, tasks=["a", "b", "c", "d"], episodes=100)
    assert results["P1"].verdict == "Pass"
    assert results["S3"].verdict == "Fail"
    assert results["P5"].verdict == "Fail"
    assert results["P5"].message.startswith("d:")


@pytest.mark.parametrize(
    ("student", "episodes", "verdict"), [(46, 50, "Pass"), (35, 50, "Fail"), (3, 3, "Inconclusive")]
)
def test_per_task_is_holm_corrected(tmp_path, student, episodes, verdict):
    tasks = [f"t{i}" for i in range(10)]
    records = syn.write_records(tmp_path / "r", tasks=tasks, episodes=episodes)
    for task in tasks:
        wins = student if task == "t4" else episodes
        set_outcomes(records, first(wins, episodes), first(episodes, episodes), task=task)
    assert judged(records, tasks=tasks, episodes=episodes)["P5"].verdict == verdict


def test_one_unlucky_task_of_many_is_no_failure(tmp_path):
    """Shown on its own at 5 %, not after correction: losing 5 of 50 against 3 points."""
    tasks = [f"t{i}" for i in range(10)]
    records = syn.write_records(tmp_path / "r", tasks=tasks, episodes=50)
    for task in tasks:
        set_outcomes(records, first(44 if task == "t4" else 50, 50), first(50, 50), task=task)
    assert judged(records, tasks=tasks, episodes=50)["P5"].verdict == "Pass"
    alone = syn.write_records(tmp_path / "alone", tasks=["t4"], episodes=50)
    set_outcomes(alone, first(44, 50), first(50, 50), task="t4")
    assert judged(alone, tasks=["t4"], episodes=50)["P5"].verdict == "Fail"


# Operating characteristics of P1: what is promoted, over many evaluations


@pytest.mark.parametrize(
    ("gained", "lost", "least", "most"),
    [(0.025, 0.025, 0.80, 1.0), (0.02, 0.05, 0.0, 0.07), (0.02, 0.10, 0.0, 0.0)],
)
def test_how_often_a_student_is_promoted(gained, lost, least, most):
    """Equal, worse by the margin, and worse by eight points; 450 pairs, margin 3 points."""
    drawn = np.random.default_rng(11).multinomial(450, [gained, lost, 1 - gained - lost], 400)
    tables = [PairCounts(int(rest), int(g), int(b), 0) for g, b, rest in drawn]
    passed = [within_margin(t, 0.03, LEVEL) == "Pass" for t in tables]
    assert least <= np.mean(passed) <= most


# Looks: the same evidence says less while more can follow


def test_one_look_is_the_fixed_sample_test():
    alone = made_evidence(190, 192, present=200, looks=(), tasks=2)
    only = made_evidence(190, 192, present=200, looks=(200,), tasks=2)
    assert run_gates(alone, Gates()) == run_gates(only, Gates())


@pytest.mark.parametrize(("looks", "p1", "s3"), [((), "Pass", "Pass"), ((100, 1000), "Inconclusive", "Inconclusive")])
def test_an_early_look_asks_for_more(looks, p1, s3):
    results = Judged(made_evidence(98, 98, present=100, looks=looks, tasks=2), Gates())
    assert (results["P1"].verdict, results["S3"].verdict) == (p1, s3)


def test_an_early_look_has_the_wider_interval():
    early = Judged(made_evidence(98, 99, present=100, looks=(100, 200)), Gates())["P1"].interval
    alone = Judged(made_evidence(98, 99, present=100, looks=()), Gates())["P1"].interval
    assert early.low < alone.low
    assert early.high > alone.high


def test_a_loss_is_shown_early_only_when_it_is_large():
    assert Judged(made_evidence(40, 50, present=50), Gates())["P5"].verdict == "Pass"
    assert Judged(made_evidence(40, 50, present=50, looks=()), Gates())["P5"].verdict == "Fail"
    assert Judged(made_evidence(20, 50, present=50), Gates())["P5"].verdict == "Fail"


@pytest.mark.parametrize("claims", [1, 10])
def test_a_cliff_that_any_task_can_have_is_shown_at_a_shared_level(claims):
    """Losing 19 of 100 where 10 are the margin: shown of this task, not of one of ten."""
    assert within_margin(PairCounts(81, 0, 19, 0), 0.10, LEVEL, claims) == ("Fail" if claims == 1 else "Inconclusive")


@pytest.mark.parametrize(("tasks", "verdict"), [(1, "Fail"), (10, "Inconclusive")])
def test_s3_shares_the_level_of_a_failure_among_its_tasks(tasks, verdict):
    evidence = made_evidence(100, 100, present=100, looks=(), tasks=tasks)
    student = evidence.pairs.student_success.copy()
    student[:19] = False
    evidence = replace(evidence, pairs=replace(evidence.pairs, student_success=student))
    assert Judged(evidence, Gates())["S3"].verdict == verdict
