"""Specs that are right and how to change one, and the schemas that they are held against."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from flowstill.api.schema import KINDS, Kind, custom_resource_definition

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


def nodes_with(operator: str, values: list[str] | None = None) -> dict[str, Any]:
    """An affinity to nodes by one requirement."""
    requirement = {"key": "gpu", "operator": operator} | ({} if values is None else {"values": values})
    terms = {"nodeSelectorTerms": [{"matchExpressions": [requirement]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
