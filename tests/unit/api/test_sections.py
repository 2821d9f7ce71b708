"""Sections of a spec with rules that no bounds can say: where a child runs, and how a student is watched."""

from typing import Any

import pytest
from pydantic import ValidationError

from flowstill.api.fields import duration_seconds
from flowstill.api.schema import KINDS
from tests.unit.api.specs import MINIMAL, QUERY, TARGET, changed, nodes_with


@pytest.mark.parametrize(
    ("operator", "values", "fits"),
    [("In", ["a"], True), ("In", [], False), ("NotIn", None, False), ("Exists", None, True), ("Exists", ["a"], False),
     ("DoesNotExist", [], True), ("Gt", ["1"], True), ("Lt", ["1", "2"], False)],
)  # fmt: skip
def test_values_of_a_node_requirement(operator: str, values: list[str] | None, fits: bool) -> None:
    document = changed("DistillJob", "runtime.affinity", nodes_with(operator, values))
    if fits:
        KINDS[0].spec.model_validate(document)
    else:
        with pytest.raises(ValidationError, match="In and NotIn need values"):
            KINDS[0].spec.model_validate(document)


@pytest.mark.parametrize(
    ("monitoring", "words"),
    [
        ({"window": "1h", "interval": "61m"}, "spec.monitoring.interval must be between"),
        ({"window": "59s"}, "spec.monitoring.window must be at least spec.monitoring.interval"),
        ({"window": "1h", "queries": [QUERY, QUERY]}, "spec.monitoring.queries has a name twice"),
    ],
)
def test_windows_that_cannot_be_watched(monitoring: dict[str, Any], words: str) -> None:
    rollout = next(kind for kind in KINDS if kind.name == "StudentRollout")
    document = {**MINIMAL["StudentRollout"], "target": TARGET, "monitoring": monitoring}
    with pytest.raises(ValidationError, match=words):
        rollout.spec.model_validate(document)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("24h", 86_400)])
def test_a_duration_is_a_number_of_seconds(text: str, seconds: int) -> None:
    assert duration_seconds(text) == seconds
