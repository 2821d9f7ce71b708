"""What this place does not carry out though the spec is valid, and that nothing is taken back because of it."""

import pytest

from flowstill.api.gates import Gates
from flowstill.api.safety import SafetyLimits
from flowstill_operator.main import arguments
from flowstill_operator.platform import kubernetes_platform
from flowstill_operator.rollout.observe import read_resource
from flowstill_operator.rollout.plan import plan
from tests.unit.operator.builders import NOW, conditions, resource, rollout_spec
from tests.unit.operator.phases import ROLLOUTS
from tests.unit.operator.watching import spec

STRICT = SafetyLimits.model_validate({"S1": {"maxPerHundred": 1}, "S3": {"margin": 0.05}})


def platform(limits=STRICT):
    return kubernetes_platform("trainer:1", "evaluator:1", "pvc://claim/flowstill", safety_limits=limits)


@pytest.mark.parametrize(
    ("gates", "words"),
    [
        ({}, ("spec.gates.S1.maxPerHundred is 2, ", "at most 1", "spec.gates.S3.margin is 0.1, ", "at most 0.05")),
        ({"S1": {"maxPerHundred": 1}, "S3": {"margin": 0.06}}, ("spec.gates.S3.margin is 0.06",)),
        ({"profile": "literal"}, ("spec.gates.profile literal has 2 for S1", "spec.gates.S1.maxPerHundred 1 or less")),
    ],
)
def test_a_looser_safety_gate_than_the_charts_is_refused(gates, words):
    made = plan(read_resource(resource("StudentRollout", rollout_spec(gates=gates)), platform()), NOW)
    assert (made.create, made.status.phase) == ((), "Failed")
    assert conditions(made.status)["Validated"] == ("False", "SafetyLimit")
    for each in words:
        assert each in made.status.message


@pytest.mark.parametrize(
    "gates",
    [{"S1": {"maxPerHundred": 1}, "S3": {"margin": 0.05}}, {"S1": {"maxPerHundred": 0}, "S3": {"margin": 0.01}}],
)
def test_a_tighter_one_is_not(gates):
    made = plan(read_resource(resource("StudentRollout", rollout_spec(gates=gates)), platform()), NOW)
    assert [wanted.role for wanted in made.create] == ["parity"]


def test_without_limits_the_api_says_what_is_loosest():
    assert list(SafetyLimits().loosened(Gates())) == []
    assert list(SafetyLimits().loosened(Gates(profile="literal"))) == []
    below = SafetyLimits.model_validate({"S3": {"margin": 0.04}})
    assert [text[:40] for text in below.loosened(Gates(profile="literal"))] == [
        "spec.gates.profile literal has 0.05 for "
    ]


@pytest.mark.parametrize("phase", ["Monitoring", "Promoting"])
def test_an_operator_that_was_upgraded_takes_nothing_back_that_was_promoted(phase):
    status = ROLLOUTS[phase]()
    status["promotionTime"] = "2026-01-02T03:04:05Z"
    assert read_resource(resource("StudentRollout", spec(), status), platform()).problem is None
    del status["promotionTime"]
    assert read_resource(resource("StudentRollout", spec(), status), platform()).problem.reason == "SafetyLimit"


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "JSON"), ('{"S3": {"margin": 0.2}}', "safetyLimits.S3.margin"), ('{"P1": {}}', "safetyLimits.P1: unknown")],
)
def test_limits_that_are_none_are_refused_by_name(text, words, capsys):
    with pytest.raises(SystemExit):
        arguments(["--store=pvc://s", "--trainer-image=t", "--evaluator-image=e", f"--safety-limits={text}"])
    assert words in capsys.readouterr().err
