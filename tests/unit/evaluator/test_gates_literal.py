"""The literal profile: point estimates at their limits, and where the default profile says otherwise."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from flowstill.api.gates import Gates
from flowstill_evaluator.evidence import FidelityRecord, TwoSamples
from flowstill_evaluator.gates.chain import TITLES, run_gates
from flowstill_evaluator.stopping import wanted
from tests.unit.evaluator import synthetic as syn
from tests.unit.evaluator.gating import made_evidence

LITERAL = Gates.model_validate({"profile": "literal"})


def literal(evidence):
    return {result.name: result for result in run_gates(evidence, LITERAL)}


@pytest.mark.parametrize(
    ("student", "verdicts"),
    [
        (190, {"P1": "Pass", "S3": "Pass", "P5": "Pass"}),
        (189, {"P1": "Fail", "S3": "Pass", "P5": "Pass"}),
        (184, {"P1": "Fail", "S3": "Pass", "P5": "Fail"}),
        (180, {"P1": "Fail", "S3": "Pass", "P5": "Fail"}),
        (179, {"P1": "Fail", "S3": "Fail", "P5": "Fail"}),
    ],
)
def test_success(student, verdicts):
    """Against 190 of 200: at least equal, within 5 points, lower bound within 3."""
    results = literal(made_evidence(student, 190, present=200))
    assert {name: results[name].verdict for name in verdicts} == verdicts


def clamped(student, baseline, *, failing=False):
    evidence = made_evidence(0 if failing else 200, 0 if failing else 200, present=200, clamped=student)
    return replace(evidence, pairs=replace(evidence.pairs, baseline_clamped=np.arange(200) < baseline))


@pytest.mark.parametrize(
    ("student", "baseline", "verdict"),
    [(0, 0, "Pass"), (1, 0, "Fail"), (2, 2, "Pass"), (3, 2, "Fail"), (5, 50, "Fail")],
)
def test_clamp_rate_and_clamped_failures(student, baseline, verdict):
    assert literal(clamped(student, baseline))["S1"].verdict == verdict
    assert literal(clamped(student, baseline, failing=True))["P6"].verdict == (
        "Pass" if student <= baseline else "Fail"
    )
    assert literal(clamped(student, baseline))["P6"].verdict == "Pass"


@pytest.mark.parametrize(("ratio", "p2", "p3"), [(1.0, "Pass", "Pass"), (1.1, "Pass", "Fail"), (1.11, "Fail", "Fail")])
def test_ratios(ratio, p2, p3):
    evidence = replace(
        made_evidence(9, 9, present=200),
        latency=TwoSamples(np.full(1000, ratio), np.ones(1000)),
        memory=TwoSamples(np.full(5, ratio), np.ones(5)),
    )
    results = literal(evidence)
    assert (results["P2"].verdict, results["P3"].verdict) == (p2, p3)


@pytest.mark.parametrize(("cosine", "verdict"), [(0.85, "Pass"), (0.849, "Fail")])
def test_fidelity_without_the_spread(cosine, verdict):
    record = FidelityRecord(cosine=[cosine] * 64, spread_ratio=0.01, observations=64)
    assert literal(replace(made_evidence(9, 9, present=200), fidelity=record))["P4"].verdict == verdict


@pytest.mark.parametrize(("scale", "verdict"), [(1.15, "Pass"), (1.25, "Fail")])
def test_velocity(scale, verdict):
    velocity = syn.velocities(0)
    shifted = TwoSamples(velocity * scale, velocity, tuple(f"joint {j}" for j in range(syn.JOINTS)))
    assert literal(replace(made_evidence(9, 9, present=200), velocity=shifted))["S2"].verdict == verdict


def test_everything_is_decided_at_the_first_look():
    assert wanted(made_evidence(48, 49, present=50), LITERAL) == 50
    assert wanted(made_evidence(49, 49, present=50), LITERAL) == 50


def test_a_lucky_student_passes_three_episodes_which_the_default_profile_leaves_open():
    evidence = made_evidence(3, 3, present=3, looks=())
    assert literal(evidence)["S3"].verdict == "Pass"
    assert {r.name: r.verdict for r in run_gates(evidence, Gates())}["S3"] == "Inconclusive"


def test_names_and_order_are_those_of_the_default_profile():
    evidence = made_evidence(9, 9, present=200)
    assert [r.name for r in run_gates(evidence, LITERAL)] == [r.name for r in run_gates(evidence, Gates())]
    assert set(literal(evidence)) == set(TITLES)


@pytest.mark.parametrize("limits", [{"S3": {"margin": 0.05}}, {"P1": {"margin": 0.01}}, {"P3": {"maxRatio": 1.0}}])
def test_it_takes_no_limits(limits):
    with pytest.raises(ValidationError, match="limits of its own"):
        Gates.model_validate({"profile": "literal", **limits})
    Gates.model_validate({"profile": "literal", "P2": {"minCalls": 200}})
    assert Gates.model_validate(LITERAL.model_dump(by_alias=True)) == LITERAL
