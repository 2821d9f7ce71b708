"""Manifests that cannot work: refused before anything starts, naming file, field and fix."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.ground import Ground, resource
from tests.unit.operator.builders import distill_spec as distill
from tests.unit.operator.builders import rollout_spec


def evaluate(**changes: Any) -> dict[str, Any]:
    return rollout_spec(evaluation={"suite": "metaworld", "tasks": ["reach-around"], **changes})


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        ("DistillJob", distill(methd={}), "spec.methd: unknown field; remove it or correct its name"),
        ("DistillJob", distill(method={"name": "magic"}), "spec.method.name: Input should be 'snapflow'"),
        ("DistillJob", distill(training={"steps": 0}), "spec.training.steps: Input should be greater than or equal"),
        ("DistillJob", distill(training={"learningRate": float("nan")}), "spec.training.learningRate"),
        ("DistillJob", distill(student={"draws": 5}), "spec.student.draws must be 1 or 8 to 64"),
        ("DistillJob", distill(teacher={"uri": "s3://B/t"}), "spec.teacher.uri: write file:///PATH, pvc://"),
        ("DistillJob", distill(dataset={"uri": "hf://a/d"}), "spec.dataset.uri: hf:// needs the 40 hexadecimal digits"),
        ("DistillJob", distill(teacher={"uri": "pvc://c/t"}), "spec.teacher.uri: pvc://c/t cannot be read here"),
        ("DistillJob", distill(teacher={"uri": "store://t/../../x"}), "spec.teacher.uri: store://t/../../x must not"),
        ("DistillJob", distill(teacher={"uri": "store://t", "digest": "sha256:1"}), "spec.teacher.digest: write sha"),
        ("DistillJob", distill(dataset={"uri": "store://d", "episodes": []}), "spec.dataset.episodes: List should"),
        ("DistillJob", "a word", "spec: Input should be"),
        ("StudentRollout", evaluate(suite="chess"), "spec.evaluation.suite: Input should be 'metaworld'"),
        ("StudentRollout", evaluate(arms=["teacher@3", "student"]), "spec.evaluation.arms.0: Input should be"),
        ("StudentRollout", evaluate(episodesPerTask=0), "spec.evaluation.episodesPerTask: Input should be greater"),
        ("StudentRollout", evaluate() | {"student": {"uri": "store://s"}}, "spec.student.uri and spec.student.digest"),
        ("StudentRollout", evaluate() | {"gates": {"S1": {"maxPerHundred": 9}}}, "spec.gates.S1.maxPerHundred"),
    ],
)  # fmt: skip
def test_a_spec_that_cannot_work_starts_nothing(cold: Ground, kind: str, spec: Any, words: str) -> None:
    said = cold.run(resource("DistillJob", "good", distill()), resource(kind, "bad", spec))
    assert said.code == 2
    assert f"resources.yaml, document 2: {words}" in said.errors
    assert not cold.state.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "no valid YAML"),
        ("kind: DistillJob\nkind: DistillJob", "key 'kind' is given twice"),
        ("spec:\n  training: {steps: 1, steps: 2}", "key 'steps' is given twice"),
        ("1: a", "key 1 is no string"),
        ("- a", "a manifest is a mapping"),
        ("", "no DistillJob or StudentRollout in"),
    ],
)
def test_yaml_that_is_none(cold: Ground, text: str, words: str) -> None:
    path = cold.folder / "bad.yaml"
    path.write_text(text)
    said = cold.give("run", str(path))
    assert said.code == 2
    assert words in said.errors
    assert str(path) in said.errors
    assert not cold.state.exists()


def test_files_and_names(cold: Ground) -> None:
    said = cold.give("run", str(cold.folder / "none.yaml"))
    assert (said.code, said.errors) == (2, f"error: {cold.folder}/none.yaml: No such file or directory: give the path "
                                           "of a manifest\n")  # fmt: skip
    said = cold.run(resource("DistillJob", "twin", distill()), resource("DistillJob", "twin", distill()))
    assert (said.code, said.errors) == (2, "error: DistillJob twin is given twice: rename one\n")
    assert not cold.state.exists()


@pytest.fixture
def cold(tmp_path: Path) -> Ground:
    """A ground on which no child can start."""
    return Ground(tmp_path, None)  # type: ignore[arg-type]
