"""From a pydantic model to the structural OpenAPI schema of a CustomResourceDefinition.

Kubernetes wants no references, no unions with null, no ``additionalProperties: false``, and exclusive bounds
as booleans. An optional field is one that may be absent; a section whose every field has a default gets
``default: {}``, because the API server fills in defaults only where the parent is.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

LIST_KEYS = {
    "Condition": "type",
    "GateResult": "name",
    "ArmResult": "name",
    "Fidelity": "name",
    "EnvVar": "name",
    "Override": "gate",
    "MonitoringQuery": "name",
    "Signal": "name",
    "PodRestarts": "name",
}
"""Lists of these models are maps: merged, and refused when two entries have one key."""

_KEY_LENGTH = 316
"""Of a qualified label name: a DNS prefix of 253 characters, a slash, 63 characters."""

_COPIED = (
    "type", "format", "pattern", "enum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties",
)  # fmt: skip


def structural(model: type[BaseModel], rules: Mapping[str, list[Schema]], *, defaults: bool = True) -> Schema:
    """The model's structural schema.

    Args:
        model: an API model.
        rules: ``x-kubernetes-validations`` by the name of the model that they belong to.
        defaults: False for a status, which the controller writes whole.

    Raises:
        ValueError: the model has something that a structural schema cannot say.
    """
    schema = model.model_json_schema(by_alias=True)
    return _Converter(schema.pop("$defs", {}), rules, defaults).convert(schema, "spec", schema["title"])


class _Converter:
    """Walks one model's JSON schema; ``path`` is the field's, for messages, ``name`` the model's."""

    def __init__(self, definitions: Schema, rules: Mapping[str, list[Schema]], defaults: bool) -> None:
        self._definitions, self._rules, self._defaults = definitions, rules, defaults

    def convert(self, node: Schema, path: str, name: str = "") -> Schema:
        node, name = self._resolve(node, name)
        out: Schema = {}
        if "description" in node:
            out["description"] = _plain(node["description"])
        if "const" in node:
            node = {**node, "enum": [node["const"]]}
        out |= {key: node[key] for key in _COPIED if key in node}
        out |= _bounds(node)
        if self._defaults and node.get("default") is not None:
            out["default"] = _number(node["default"])
        if "type" not in out:
            raise ValueError(f"{path} has no type")
        if out["type"] == "array":
            self._add_items(out, node, path)
        elif "properties" in node:
            self._add_properties(out, node, path, name)
        elif out["type"] == "object":
            self._add_values(out, node, path)
        return out

    def _resolve(self, node: Schema, name: str) -> tuple[Schema, str]:
        """Without references and without null; what stands beside a reference or a union wins."""
        while True:
            if "$ref" in node:
                name = node["$ref"].rpartition("/")[2]
                node = {**self._definitions[name], **{key: node[key] for key in node if key != "$ref"}}
            elif "anyOf" in node:
                options = [option for option in node["anyOf"] if option != {"type": "null"}]
                if len(options) != 1:
                    raise ValueError(f"{name}: a structural schema has no unions")
                node = {**options[0], **{key: node[key] for key in node if key != "anyOf"}}
            else:
                return node, name

    def _add_items(self, out: Schema, node: Schema, path: str) -> None:
        items, name = self._resolve(node["items"], "")
        out["items"] = self.convert(items, f"{path}[]", name)
        key = LIST_KEYS.get(name)
        if key is not None:
            out |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
        else:
            out["x-kubernetes-list-type"] = "atomic"

    def _add_properties(self, out: Schema, node: Schema, path: str, name: str) -> None:
        required = node.get("required", [])
        properties: Schema = {}
        for key, value in node["properties"].items():
            field = self.convert(value, f"{path}.{key}")
            section = "properties" in field and "required" not in field
            if self._defaults and section and key not in required and "anyOf" not in value:
                field["default"] = _default(field)
            properties[key] = field
        out["properties"] = properties
        if required:
            out["required"] = list(required)
        if name in self._rules:
            out["x-kubernetes-validations"] = self._rules[name]

    def _add_values(self, out: Schema, node: Schema, path: str) -> None:
        out["additionalProperties"] = self.convert(node["additionalProperties"], f"{path}.*")
        longest = node.get("propertyNames", {}).get("maxLength", _KEY_LENGTH)
        message = f"{path}: a key has at most {longest} characters"
        out["x-kubernetes-validations"] = [{"rule": f"self.all(key, key.size() <= {longest})", "message": message}]


def _default(section: Schema) -> Schema:
    """``{}``, which the API server fills up; written out where rules would be checked before that."""
    if "x-kubernetes-validations" not in section:
        return {}
    return {key: value["default"] for key, value in section["properties"].items() if "default" in value}


def _bounds(node: Schema) -> Schema:
    bounds: Schema = {}
    for key, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if key in node:
            bounds[key] = _number(node[key])
        if exclusive in node:
            bounds |= {key: _number(node[exclusive]), exclusive: True}
    return bounds


def _number(value: Any) -> Any:
    """1.0 as 1: the API server writes it so, and a difference would be seen as drift."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(text: str) -> str:
    """A docstring as one line for ``kubectl explain``."""
    return " ".join(text.replace("``", "`").split())
