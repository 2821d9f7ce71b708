"""What a spec may not say: YAML and types refuse the same, with the same words."""

import re
from contextlib import nullcontext
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from flowstill.api.schema import KINDS, RULES
from flowstill.api.studentrollout import WITH_EVIDENCE
from flowstill_trainer.methods.snapflow import split
from tests.unit.api.specs import DIGEST, EVIDENCE, MINIMAL, OVERRIDE, QUERY, changed, nodes, nodes_with, spec_schema


@pytest.mark.parametrize(
    ("kind", "path", "good", "bad"),
    [
        ("DistillJob", "teacher.uri", "pvc://c/x", "http://x/y"),
        ("DistillJob", "teacher.digest", DIGEST, "sha256:abc"),
        ("DistillJob", "teacher.steps", 100, 101),
        ("DistillJob", "dataset.episodes", [0], []),
        ("DistillJob", "student.draws", 64, 65),
        ("DistillJob", "method.name", "snapflow", "magic"),
        ("DistillJob", "method.consistencyWeight", 0.001, 0),
        ("DistillJob", "method.mixRatio", 1, 1.5),
        ("DistillJob", "method.refine", {"steps": 0}, {"steps": -1}),
        ("DistillJob", "method.refine", {"name": "dmd", "steps": 1}, {"name": "gan", "steps": 1}),
        ("DistillJob", "method.refine", {"steps": 1, "learningRate": 1}, {"steps": 1, "learningRate": 0}),
        ("DistillJob", "method.refine", {"steps": 1, "fakeLearningRate": 1}, {"steps": 1, "fakeLearningRate": 1.1}),
        ("DistillJob", "method.refine", {"steps": 1, "fakeSteps": 100}, {"steps": 1, "fakeSteps": 0}),
        ("DistillJob", "training.ema", 0.999, 1),
        ("DistillJob", "training.precision", "fp32", "fp8"),
        ("DistillJob", "training.steps", 1, 0),
        ("DistillJob", "training.fidelityEvery", 0, -1),
        ("DistillJob", "training.steps", 1, 1.5),
        ("DistillJob", "runtime.shmSize", "512Mi", "lots"),
        ("DistillJob", "runtime.nodes", 64, 0),
        ("DistillJob", "runtime.env", [{"name": "A"}], [{"name": "1A"}]),
        ("DistillJob", "runtime.nodeSelector", {"a": "b"}, {"a": "b" * 64}),
        ("StudentRollout", "evaluation.suite", "metaworld", "chess"),
        ("StudentRollout", "evaluation.tasks", ["a"], []),
        ("StudentRollout", "evaluation.evidence", EVIDENCE, {"uri": "store://evidence/pick"}),
        ("StudentRollout", "evaluation.arms", ["teacher@10", "student"], ["student"]),
        ("StudentRollout", "parity.threshold", 1, 0),
        ("StudentRollout", "gates.profile", "literal", "strict"),
        ("StudentRollout", "gates.S1", {"maxPerHundred": 0}, {"maxPerHundred": 2.1}),
        ("StudentRollout", "gates.S3", {"margin": 0.1}, {"margin": 0.2}),
        ("StudentRollout", "target", {"deployment": {"name": "arm"}}, {"deployment": {}}),
        ("StudentRollout", "target.deployment", {"name": "arm"}, {"name": "Arm"}),
        ("StudentRollout", "overrides", [OVERRIDE], [{**OVERRIDE, "gate": "P7"}]),
        ("StudentRollout", "monitoring.window", "24h", "1d"),
        ("StudentRollout", "monitoring.window", "90s", "0s"),
        ("StudentRollout", "monitoring.window", "999m", "1h30m"),
        ("StudentRollout", "monitoring.maxRestarts", 0, -1),
        ("StudentRollout", "monitoring.queries", [QUERY], [{**QUERY, "name": "Errors"}]),
        ("StudentRollout", "monitoring.queries", [QUERY], [{**QUERY, "query": " "}]),
        ("StudentRollout", "monitoring.queries", [QUERY], [{**QUERY, "comparison": "over"}]),
        ("StudentRollout", "monitoring.queries", [QUERY], [{**QUERY, "failureLimit": 0}]),
        ("StudentRollout", "monitoring.queries", [QUERY], [{k: v for k, v in QUERY.items() if k != "threshold"}]),
        ("StudentRollout", "monitoring.queries", [QUERY] * 1, [{**QUERY, "name": f"q{i}"} for i in range(9)]),
        ("StudentRollout", "overrides", [OVERRIDE], [{**OVERRIDE, "by": ""}]),
        ("StudentRollout", "overrides", [OVERRIDE], [{**OVERRIDE, "reason": " "}]),
        ("StudentRollout", "overrides", [OVERRIDE], [{**OVERRIDE, "expires": "2026-12-31"}]),
        ("StudentRollout", "overrides", [OVERRIDE], [{**OVERRIDE, "expires": "2026-12-31T23:59:59"}]),
        ("StudentRollout", "overrides", [OVERRIDE], [{k: v for k, v in OVERRIDE.items() if k != "expires"}]),
        ("StudentRollout", "baseline", {"uri": "store://b", "digest": DIGEST}, {"uri": "store://b"}),
    ],
)
def test_bounds_are_those_of_the_types(kind: str, path: str, good: Any, bad: Any) -> None:
    found = next(k for k in KINDS if k.name == kind)
    # Exclusive bounds as booleans are draft 4's.
    schema = jsonschema.Draft4Validator(spec_schema(found))
    schema.validate(changed(kind, path, good))
    found.spec.model_validate(changed(kind, path, good))
    with pytest.raises(jsonschema.ValidationError):
        schema.validate(changed(kind, path, bad))
    with pytest.raises(ValidationError):
        found.spec.model_validate(changed(kind, path, bad))


REFUSED = {
    RULES["Student"][0]["rule"]: changed("DistillJob", "student", {"draws": 4, "drawNeighbours": 1}),
    RULES["Student"][1]["rule"]: changed("DistillJob", "student", {"draws": 8, "drawNeighbours": 5}),
    RULES["Method"][0]["rule"]: changed("DistillJob", "method", {"targetSteps": 1}),
    RULES["DistillJobSpec"][0]["rule"]: changed("DistillJob", "method", {"targetSteps": 2, "bankSize": 1}),
    RULES["DistillJobSpec"][1]["rule"]: changed("DistillJob", "method", {"mixRatio": 0.99}),
    RULES["Method"][1]["rule"]: changed("DistillJob", "method", {"mixRatio": 0, "bankSize": 1}),
    RULES["Training"][0]["rule"]: changed("DistillJob", "training", {"batchSize": 4, "gradientAccumulation": 5}),
    RULES["Source"][0]["rule"]: changed("DistillJob", "teacher", {"uri": "hf://org/pi0@main"}),
    RULES["StudentSource"][2]["rule"]: changed(
        "StudentRollout", "student", {"uri": "hf://org/student", "digest": DIGEST}
    ),
    RULES["StudentSource"][0]["rule"]: changed("StudentRollout", "student", {}),
    RULES["StudentSource"][1]["rule"]: changed("StudentRollout", "student", {"uri": "store://s"}),
    RULES["Evaluation"][0]["rule"]: changed("StudentRollout", "evaluation.suite", "custom"),
    RULES["Evaluation"][2]["rule"]: {
        **MINIMAL["StudentRollout"],
        "evaluation": {"suite": "custom", "tasks": ["pick"], "evidence": EVIDENCE, "shards": 2},
    },
    RULES["Evaluation"][1]["rule"]: changed("StudentRollout", "evaluation.maxEpisodesPerTask", 49),
    RULES["Override"][0]["rule"]: changed("StudentRollout", "overrides", [{**OVERRIDE, "gate": "S1"}]),
    RULES["Gates"][0]["rule"]: changed("StudentRollout", "gates", {"profile": "literal", "S3": {"margin": 0.04}}),
    RULES["StudentRolloutSpec"][0]["rule"]: changed("StudentRollout", "monitoring", {"window": "1h"}),
    RULES["StudentRolloutSpec"][1]["rule"]: changed("StudentRollout", "runtime", {"nodes": 2}),
    RULES["NodeRequirement"][0]["rule"]: changed("DistillJob", "runtime.affinity", nodes_with("In")),
    RULES["MonitoringQuery"][0]["rule"]: changed(
        "StudentRollout", "monitoring.queries", [{**QUERY, "name": "restarts"}]
    ),
    RULES["Monitoring"][0]["rule"]: changed("StudentRollout", "monitoring.interval", "9s"),
    RULES["Monitoring"][1]["rule"]: changed("StudentRollout", "monitoring.window", "721h"),
    RULES["Monitoring"][2]["rule"]: changed("StudentRollout", "monitoring.queries", [{**QUERY, "minSamples": 61}]),
}


@pytest.mark.parametrize("rule", [rule for rules in RULES.values() for rule in rules], ids=lambda rule: rule["rule"])
def test_each_rule_is_one_of_the_types_with_the_same_words(rule: dict[str, Any]) -> None:
    document = REFUSED[rule["rule"]]
    kind = next(kind for kind in KINDS if document.keys() & {"teacher", "evaluation"} <= kind.spec.model_fields.keys())
    with pytest.raises(ValidationError, match=re.escape(rule["message"])):
        kind.spec.model_validate(document)
    in_schema = [r for _, node in nodes(spec_schema(kind)) for r in node.get("x-kubernetes-validations", [])]
    assert rule in in_schema


@pytest.mark.parametrize(
    "beside",
    [
        {"arms": ["teacher@10", "student"]},
        {"shards": 2},
        {"maxEpisodesPerTask": 50},
        {"custom": {"entryPoint": "a.b:make"}},
    ],
)
def test_evidence_of_ones_own_leaves_out_what_only_a_simulator_has(beside: dict[str, Any]) -> None:
    rollout = next(kind for kind in KINDS if kind.name == "StudentRollout")
    evaluation = {"suite": "custom", "tasks": ["pick"], "evidence": EVIDENCE, "episodesPerTask": 20}
    found = rollout.spec.model_validate({**MINIMAL["StudentRollout"], "evaluation": evaluation})
    assert found.evaluation.most_episodes_per_task == 20  # type: ignore[attr-defined]
    with pytest.raises(ValidationError, match=re.escape(WITH_EVIDENCE)):
        rollout.spec.model_validate({**MINIMAL["StudentRollout"], "evaluation": evaluation | beside})


@pytest.mark.parametrize(
    ("given", "mix_ratio", "bank_size"),
    [
        ({}, 1.0, 12_000),
        ({"targetSteps": 4}, 1.0, 12_000),
        ({"targetSteps": 4, "bankSize": 0}, 1.0, 0),
        ({"mixRatio": 0.5}, 0.5, 12_000),
        ({"mixRatio": 0}, 0.0, 0),
        ({"targetSteps": 2}, 0.5, 0),
        ({"targetSteps": 2, "mixRatio": 1}, 1.0, 0),
    ],
)
def test_samples_and_bank_by_default_are_those_that_the_target_allows(
    given: dict[str, Any], mix_ratio: float, bank_size: int
) -> None:
    method = KINDS[0].spec.model_validate(changed("DistillJob", "method", given)).method  # type: ignore[attr-defined]
    assert (method.mix_ratio, method.bank_size) == (mix_ratio, bank_size)


@pytest.mark.parametrize(("ratio", "taken"), [(0, True), (0.015, False), (0.02, True), (0.98, True), (0.99, False)])
def test_no_kind_of_sample_is_lost_by_rounding(ratio: float, taken: bool) -> None:
    document = changed("DistillJob", "method", {"mixRatio": ratio}) | {"training": {"batchSize": 32}}
    with nullcontext() if taken else pytest.raises(ValidationError, match="mixRatio must be 0, 1, or leave both"):
        method = KINDS[0].spec.model_validate(document).method  # type: ignore[attr-defined]
        assert ratio == 0 or min(split(32, method.mix_ratio)) > 0


def test_a_state_out_student_may_have_a_bank_of_two_steps() -> None:
    document = changed("DistillJob", "method", {"targetSteps": 2, "bankSize": 1}) | {"student": {"stateOut": True}}
    assert KINDS[0].spec.model_validate(document).method.bank_size == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([OVERRIDE, OVERRIDE], "spec.overrides has a gate twice"),
        ([{**OVERRIDE, "expires": "2026-02-31T00:00:00Z"}], "out of range"),
    ],
)
def test_overrides_that_no_schema_can_refuse(overrides: list[dict[str, Any]], words: str) -> None:
    """The API server refuses the first by the list's key, and the second by its format."""
    rollout = next(kind for kind in KINDS if kind.name == "StudentRollout")
    with pytest.raises(ValidationError, match=words):
        rollout.spec.model_validate(changed("StudentRollout", "overrides", overrides))
