"""YAML, chart and types say the same."""

import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, Field, ValidationError

from flowstill.api.fields import ALWAYS_MUTABLE
from flowstill.api.schema import (
    FOLDERS,
    KINDS,
    REPOSITORY,
    RULES,
    Kind,
    custom_resource_definition,
    to_yaml,
    write,
)
from flowstill.api.structural import structural
from flowstill.api.studentrollout import UNTIL_PROMOTION, WITH_EVIDENCE
from flowstill_trainer.methods.snapflow import split

DIGEST = "sha256:" + "a" * 64
OVERRIDE = {"gate": "P2", "by": "ann", "reason": "a faster arm comes", "expires": "2026-12-31T23:59:59Z"}
QUERY = {"name": "errors", "query": "sum(errors)", "comparison": "above", "threshold": 0.5}
TARGET = {"deployment": {"name": "robot"}}
EVIDENCE = {"uri": "store://evidence/pick", "digest": DIGEST}
MINIMAL: dict[str, dict[str, Any]] = {
    "DistillJob": {"teacher": {"uri": "store://t"}, "dataset": {"uri": "store://d"}},
    "StudentRollout": {
        "student": {"distillJob": "a"},
        "evaluation": {"suite": "metaworld", "tasks": ["reach-around"]},
    },
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def root_schema(kind: Kind) -> dict[str, Any]:
    schema: dict[str, Any] = custom_resource_definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def spec_schema(kind: Kind) -> dict[str, Any]:
    schema: dict[str, Any] = root_schema(kind)["properties"]["spec"]
    return schema


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


def filled(value: Any, schema: dict[str, Any]) -> Any:
    """The value with defaults, the way the API server fills them in: a parent's first."""
    if isinstance(value, dict) and "properties" in schema:
        defaults = {k: f["default"] for k, f in schema["properties"].items() if "default" in f}
        return {k: filled(v, schema["properties"][k]) for k, v in (defaults | value).items()}
    if isinstance(value, list):
        return [filled(item, schema["items"]) for item in value]
    return value


def without_empty(value: Any) -> Any:
    """Without empty lists and maps, which a resource leaves out."""
    if isinstance(value, dict):
        return {k: without_empty(v) for k, v in value.items() if v not in ([], {})}
    return value


def changed(kind: str, path: str, value: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(MINIMAL[kind]))
    if path.startswith("monitoring."):
        document |= {"target": TARGET, "monitoring": {"window": "1h"}}
    parent = document
    *parents, last = path.split(".")
    for name in parents:
        parent = parent.setdefault(name, {})
    parent[last] = value
    return document


@EVERY_KIND
@pytest.mark.parametrize("folder", FOLDERS)
def test_committed_files_are_what_is_generated(kind: Kind, folder: str) -> None:
    path = REPOSITORY / folder / f"{kind.plural}.yaml"
    text = path.read_text(encoding="utf-8")
    assert text == to_yaml(kind), "run `python -m flowstill.api.schema`"
    assert yaml.safe_load(text) == custom_resource_definition(kind)
    assert len(text.encode()) < 100_000


@pytest.mark.parametrize("folder", FOLDERS)
def test_there_is_nothing_else_in_the_folders(folder: str) -> None:
    assert {path.name for path in (REPOSITORY / folder).iterdir()} == {f"{kind.plural}.yaml" for kind in KINDS}


def test_the_command_writes_all_copies(tmp_path: Any) -> None:
    written = write(tmp_path)
    assert len(written) == len(KINDS) * len(FOLDERS)
    assert (tmp_path / "crds/distilljobs.yaml").read_text() == to_yaml(KINDS[0])


@EVERY_KIND
def test_structural_and_bounded(kind: Kind) -> None:
    for path, node in nodes(root_schema(kind)):
        assert not {"$ref", "$defs", "anyOf", "oneOf", "allOf", "title", "const", "propertyNames"} & node.keys(), path
        assert node.get("additionalProperties") is not False, path
        if path in ("", ".apiVersion", ".kind", ".metadata"):
            continue
        match node["type"]:
            case "string":
                assert "maxLength" in node or "enum" in node, path
            case "array":
                assert "maxItems" in node, path
            case "object":
                assert "properties" in node or "maxProperties" in node, path
            case kind_of_number:
                assert kind_of_number in ("integer", "number", "boolean"), path


COMPUTED: dict[str, dict[str, dict[str, Any]]] = {
    "DistillJob": {"method": {"mixRatio": 1.0, "bankSize": 12_000}},
    "StudentRollout": {},
}
"""What depends on other fields, so that the API server has no default for it."""


@EVERY_KIND
def test_defaults_are_those_of_the_types(kind: Kind) -> None:
    document = filled(MINIMAL[kind.name], spec_schema(kind))
    typed = kind.spec.model_validate(MINIMAL[kind.name])
    dumped = typed.model_dump(mode="json", by_alias=True, exclude_none=True)
    for section, names in COMPUTED[kind.name].items():
        assert names == {name: dumped[section].pop(name) for name in names}
    assert without_empty(document) == without_empty(dumped)
    assert kind.spec.model_validate(document) == typed


@EVERY_KIND
def test_defaults_satisfy_their_own_schema_before_anything_is_filled_in(kind: Kind) -> None:
    """The API server checks a section's rules on its default as it is written, so what they read must be there."""
    for path, node in nodes(spec_schema(kind)):
        for rule in node.get("x-kubernetes-validations", []) if "default" in node else []:
            for name in re.findall(r"self\.(\w+)", rule["rule"]):
                assert name in node["default"] or f"!has(self.{name}) ||" in rule["rule"], f"{path}: {rule['rule']}"


@EVERY_KIND
def test_status_has_no_defaults(kind: Kind) -> None:
    assert [path for path, node in nodes(root_schema(kind)["properties"]["status"]) if "default" in node] == []


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


def nodes_with(operator: str, values: list[str] | None = None) -> dict[str, Any]:
    """An affinity to nodes by one requirement."""
    requirement = {"key": "gpu", "operator": operator} | ({} if values is None else {"values": values})
    terms = {"nodeSelectorTerms": [{"matchExpressions": [requirement]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


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


@EVERY_KIND
def test_the_spec_is_immutable_but_for_suspend_and_the_time_to_live(kind: Kind) -> None:
    schema = spec_schema(kind)
    transitions = [rule for rule in schema["x-kubernetes-validations"] if "oldSelf" in rule["rule"]]
    rules = {rule["fieldPath"]: rule for rule in transitions}
    mutable = {*ALWAYS_MUTABLE, *UNTIL_PROMOTION}
    assert rules.keys() == {f".{name}" for name in schema["properties"].keys() - mutable}
    for path, rule in rules.items():
        assert f"spec{path} is immutable" in rule["message"]
        assert "create a resource with a new name" in rule["message"]
        optional = path[1:] not in schema["required"] and path != ".runtime"
        assert (f"has(oldSelf{path})" in rule["rule"]) == optional
    compared = set(re.findall(r"oldSelf\.runtime\.(\w+)", rules[".runtime"]["rule"]))
    assert schema["properties"]["runtime"]["properties"].keys() - compared == {"ttlSecondsAfterFinished"}


@EVERY_KIND
def test_names_are_short(kind: Kind) -> None:
    rule = root_schema(kind)["x-kubernetes-validations"][0]
    assert rule["rule"] == "self.metadata.name.size() <= 40"
    assert rule["message"].startswith("metadata.name must be at most 40 characters")


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


@EVERY_KIND
def test_what_may_change_until_the_promotion_has_a_rule_that_sees_the_status(kind: Kind) -> None:
    rules = {rule["fieldPath"]: rule for rule in root_schema(kind)["x-kubernetes-validations"][1:]}
    assert rules.keys() == {f".spec.{name}" for name in UNTIL_PROMOTION if name in kind_fields(kind)}
    for path, rule in rules.items():
        assert f"oldSelf{path}" in rule["rule"]
        assert "self.status.promotionTime" in rule["rule"]


def kind_fields(kind: Kind) -> set[str]:
    return set(spec_schema(kind)["properties"])


def test_lists_with_a_key_are_maps() -> None:
    keys = {
        path: node["x-kubernetes-list-map-keys"]
        for kind in KINDS
        for path, node in nodes(root_schema(kind))
        if node.get("x-kubernetes-list-type") == "map"
    }
    assert keys == {
        ".status.conditions": ["type"],
        ".status.gates": ["name"],
        ".status.arms": ["name"],
        ".status.fidelity": ["name"],
        ".spec.runtime.env": ["name"],
        ".spec.overrides": ["gate"],
        ".spec.monitoring.queries": ["name"],
        ".status.monitoring.signals": ["name"],
        ".status.monitoring.pods": ["name"],
    }


def test_printed_columns_and_names() -> None:
    printed = {}
    for kind in KINDS:
        spec = custom_resource_definition(kind)["spec"]
        assert spec["names"]["categories"] == ["flowstill"]
        assert spec["versions"][0]["subresources"] == {"status": {}}
        columns = spec["versions"][0]["additionalPrinterColumns"]
        printed[spec["names"]["shortNames"][0]] = [column["name"].upper() for column in columns]
        known = {path for path, _ in nodes(root_schema(kind))}
        paths = [column["jsonPath"] for column in columns]
        assert set(paths) - known == {".metadata.creationTimestamp"}
    assert printed == {
        "dj": ["PHASE", "STEP", "PROGRESS", "ETA", "LOSS", "STUDENT", "AGE"],
        "sr": ["PHASE", "STUDENT", "SUCCESS", "BASELINE", "GATES", "AGE"],
    }


def test_what_a_structural_schema_cannot_say_is_refused() -> None:
    class Union(BaseModel):
        value: int | str = Field(default=0)

    with pytest.raises(ValueError, match="no unions"):
        structural(Union, {})


def test_chart_values_satisfy_their_schema_and_unknown_ones_do_not() -> None:
    chart = REPOSITORY / "helm/flowstill"
    schema = json.loads((chart / "values.schema.json").read_text())
    values = yaml.safe_load((chart / "values.yaml").read_text())
    jsonschema.validate(values, schema)
    for section in values:
        if isinstance(values[section], dict):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({**values, section: {**values[section], "typo": 1}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**values, "typo": 1}, schema)
