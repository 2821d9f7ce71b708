"""YAML, chart and types say the same."""

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, Field

from flowstill.api.fields import ALWAYS_MUTABLE
from flowstill.api.schema import FOLDERS, KINDS, REPOSITORY, Kind, custom_resource_definition, to_yaml, write
from flowstill.api.structural import structural
from flowstill.api.studentrollout import UNTIL_PROMOTION
from tests.unit.api.specs import EVERY_KIND, MINIMAL, nodes, root_schema, spec_schema


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
