"""What children are told has to fit into an annotation of their pods; what does not is refused by its field."""

import re

import pytest

from flowstill.api.children import TASK
from flowstill_operator.distilljob import manifests, plan
from flowstill_operator.distilljob.observe import read_resource
from flowstill_operator.platform import local_platform
from flowstill_operator.rollout import observe as rollout_observe
from flowstill_operator.told import MAX_ANNOTATIONS, MAX_TOLD
from tests.unit.operator.builders import NOW, PLATFORM, conditions, distill_spec, resource, rollout_spec

LONG = {"env": [{"name": f"V{i}", "value": "🤖" * 1024} for i in range(32)]}
"""As long as values may be, of letters that take four bytes, and twelve as an escape."""
SOME = {"env": LONG["env"][:8]}
MANY = list(range(10**9, 10**9 + 10_000))


def look(platform=PLATFORM, **spec):
    return read_resource(resource("DistillJob", distill_spec(**spec)), platform)


def annotations_of(observed):
    [wanted] = plan.plan(observed, NOW).create
    return manifests.manifest(observed, wanted, PLATFORM)["spec"]["template"]["metadata"]["annotations"]


def total(annotations):
    return sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())


def test_the_longest_environment_is_told_and_fits():
    observed = look(runtime=LONG)
    assert observed.problem is None
    annotations = annotations_of(observed)
    task = TASK.validate_json(annotations["flowstill.dev/spec"])
    assert {variable.value for variable in task.spec.runtime.env} == {"🤖" * 1024}
    # Escaped it would be 393,216 bytes alone.
    assert 32 * 1024 * 4 < total(annotations) < MAX_ANNOTATIONS


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {"runtime": LONG, "dataset": {"uri": "store://datasets/d", "episodes": MANY}},
            (r"spec\.runtime\.env: 13\d{4} of the 24\d{4} bytes", "put long values into a file of the image"),
        ),
        (
            {"runtime": SOME, "dataset": {"uri": "store://datasets/d", "episodes": [n * 10**9 for n in MANY]}},
            (r"spec\.dataset\.episodes: 200001 of the 23\d{4} bytes", "publish a dataset of these episodes"),
        ),
    ],
)
def test_what_is_too_long_is_refused_by_the_longest_field_with_the_fix(spec, said):
    observed = look(**spec)
    made = plan.plan(observed, NOW)
    assert (made.create, made.status.phase) == ((), "Failed")
    assert conditions(made.status)["Validated"] == ("False", "SpecTooLong")
    assert conditions(made.status)["Failed"] == ("True", "SpecTooLong")
    numbers, fix = said
    assert re.match(numbers, made.status.message)
    assert f"annotations of a pod hold {MAX_TOLD}: {fix}" in made.status.message


def test_on_this_machine_it_is_a_file():
    spec = {"runtime": LONG, "dataset": {"uri": "file:///d", "episodes": MANY}}
    assert look(local_platform("file:///s"), **spec).problem is None


def rollout_problem(**spec):
    return rollout_observe.read_resource(resource("StudentRollout", rollout_spec(**spec)), PLATFORM).problem


def test_a_rollouts_children_are_not_told_its_runtime():
    assert rollout_problem(runtime=LONG) is None
    names = {f"{i}-{'k' * 70_000}": "observation.image" for i in range(4)}
    evaluation = {"suite": "metaworld", "tasks": ["reach-around"], "renameMap": names}
    found = rollout_problem(evaluation=evaluation)
    assert found.reason == "SpecTooLong"
    assert found.message.startswith("spec.evaluation.renameMap: 28")
    assert found.message.endswith(": shorten it")


def test_a_users_own_annotations_count_too():
    own = {f"example.com/{i}-{'a' * 16_000}": "v" for i in range(16)}
    found = rollout_problem(runtime={"annotations": own})
    assert found.message.startswith("spec.runtime.annotations: 256")
