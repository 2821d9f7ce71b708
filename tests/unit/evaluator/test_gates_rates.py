"""S1 and P6: episodes with a clamped action, and those that failed as well."""

from dataclasses import replace

import pytest

from flowstill.api.gates import Gates
from flowstill_evaluator.gates.rates import episodes_needed
from tests.unit.evaluator import synthetic as syn
from tests.unit.evaluator.gating import BASELINE, SERVED, Judged, clamp, first, judged, made_evidence, set_outcomes


@pytest.mark.parametrize(
    ("student", "baseline", "verdict"),
    [(0, 0, "Pass"), (4, 0, "Pass"), (4, 4, "Pass"), (5, 5, "Fail"), (5, 60, "Fail")],
)
def test_clamp_rate(records, student, baseline, verdict):
    clamp(records, SERVED, range(student))
    lines = syn.read_lines(records)
    for e in lines:
        if e["arm"] == BASELINE:
            e["clamped_steps"] = int(e["episode"] < baseline)
    syn.write_lines(records, lines)
    result = judged(records)["S1"]
    assert result.verdict == verdict
    assert result.measured == student / 2


def test_more_clamping_than_the_baseline_fails_below_the_absolute_limit(tmp_path):
    records = syn.write_records(tmp_path / "r", episodes=400)
    clamp(records, SERVED, range(6))
    result = judged(records, episodes=400)["S1"]
    assert result.verdict == "Fail"
    assert result.measured == 1.5
    assert "more than the baseline" in result.message


def test_ten_clean_episodes_show_no_clean_student(tmp_path):
    records = syn.write_records(tmp_path / "r", episodes=10)
    results = judged(records, episodes=10)
    assert results["S1"].verdict == "Inconclusive"
    assert "it takes 50 episodes" in results["S1"].message
    assert results["P6"].verdict == "Inconclusive"


def test_failed_and_clamped_counts_only_both(records):
    clamp(records, SERVED, range(200))
    set_outcomes(records, first(200), first(180), clamped_steps=4)
    results = judged(records)
    assert (results["S1"].verdict, results["P6"].verdict) == ("Fail", "Pass")
    set_outcomes(records, first(195), first(180), clamped_steps=4)
    assert judged(records)["P6"].verdict == "Fail"


@pytest.mark.parametrize(("limit", "episodes"), [(2.0, 50), (1.0, 100), (0.3, 200), (0.0, 200)])
def test_a_tighter_limit_never_needs_fewer_episodes(limit, episodes):
    assert episodes_needed(limit) == episodes


@pytest.mark.parametrize(
    ("clamped", "looks", "verdict"),
    [
        (2, (50, 200), "Inconclusive"),  # 4 in 100, perhaps by chance
        (2, (), "Fail"),
        (1, (50, 200), "Pass"),
        (20, (50, 200), "Fail"),  # and shown
    ],
)
def test_an_early_look_above_the_limit_fails_only_when_it_is_shown(clamped, looks, verdict):
    assert Judged(made_evidence(50, 50, present=50, looks=looks, clamped=clamped), Gates())["S1"].verdict == verdict


@pytest.mark.parametrize(("clamped", "verdict"), [(3, "Inconclusive"), (20, "Fail")])
def test_a_rate_that_is_shown_to_be_above_the_limit_fails_early_however_bad_the_baseline_is(clamped, verdict):
    evidence = made_evidence(50, 50, present=50, looks=(50, 200), clamped=clamped)
    alike = replace(evidence.pairs, baseline_clamped=evidence.pairs.student_clamped)
    assert Judged(replace(evidence, pairs=alike), Gates())["S1"].verdict == verdict
