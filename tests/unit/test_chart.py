"""The chart's values, their schema and their table in the README say the same."""

import json
import re
from typing import Any

import yaml

from flowstill.api.schema import REPOSITORY
from tests.cluster.chart import leaves

CHART = REPOSITORY / "helm/flowstill"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
ROW = re.compile(r"^\| `(?P<path>[\w.]+)` \| `(?P<default>.*?)` \| (?P<meaning>.*?) ?\|$", re.MULTILINE)


def described(schema: dict[str, Any], root: dict[str, Any], prefix: str = "") -> set[str]:
    """The dotted paths of a schema's values; what may hold any names ends one."""
    found: set[str] = set()
    for name, node in schema["properties"].items():
        target = root["definitions"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        found |= described(target, root, f"{prefix}{name}.") if "properties" in target else {f"{prefix}{name}"}
    return found


def test_the_readme_lists_every_value_with_its_default() -> None:
    readme = (CHART / "README.md").read_text()
    rows = {row["path"]: json.loads(row["default"]) for row in ROW.finditer(readme.partition("## Values")[2])}
    assert rows == leaves(VALUES)


def test_the_schema_knows_exactly_the_values_that_there_are() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    free = {"operator.resources.requests", "operator.resources.limits", "metrics.dashboard.labels"}
    known = {next((path for path in free if value.startswith(path)), value) for value in leaves(VALUES)}
    # Helm itself adds `global`.
    assert described(schema, schema) == known | {"global"}


def test_the_crds_have_no_metadata_but_a_name() -> None:
    """The chart writes labels and annotations below `metadata:`, so none may be there."""
    for file in (CHART / "files/crds").iterdir():
        text = file.read_text()
        assert text.count("\nmetadata:\n") == 1
        assert yaml.safe_load(text)["metadata"].keys() == {"name"}
