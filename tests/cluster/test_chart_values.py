"""Every value of the chart changes what it says, and a bad one is refused by name. No cluster, only helm."""

import pytest
import yaml

from tests.cluster.chart import CHART, Helm, Render, Values, leaves, nested
from tests.cluster.chart_cases import CASES, Case, all_changed
from tests.cluster.harness.processes import CommandError


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.path}={case.value}")
def test_a_value_changes_what_it_says(render: Render, case: Case) -> None:
    base = case.base or {}
    before = render(base)
    after = render({**base, case.path: case.value})
    assert case.look(before) == case.before
    assert case.look(after) == case.after
    selector = after.operator()["spec"]["selector"]["matchLabels"]
    assert selector.items() <= after.pod()["metadata"]["labels"].items()
    if case.path != "nameOverride":
        # Immutable: an upgrade with another selector is refused.
        assert selector == before.operator()["spec"]["selector"]["matchLabels"]


def test_no_value_is_without_a_case() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert {case.path for case in CASES} == leaves(values).keys()


@pytest.mark.parametrize("values", [{}, all_changed("a", "b")], ids=["defaults", "all changed"])
def test_lint_finds_nothing(helm: Helm, values: Values) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), values=values)


REFUSED = {
    "unknown value": ({"typo": 1}, "typo"),
    "unknown value of a section": ({"operator.replicas": 2}, "replicas"),
    "store that no pod can mount": ({"store.uri": "s3://x"}, "/store/uri"),
    "bucket without a place to work": ({"store.uri": "s3://models"}, "/store/work"),
    "work in a bucket": ({"store.work": "s3://models/work"}, "/store/work"),
    "endpoint with credentials": ({"store.s3.endpoint": "https://key:secret@minio"}, "/store/s3/endpoint"),
    "endpoint with a path": ({"store.s3.endpoint": "https://minio/x"}, "/store/s3/endpoint"),
    "endpoint without a scheme": ({"store.hub.endpoint": "hub.test"}, "/store/hub/endpoint"),
    "credentials as a value": ({"store.s3.secretAccessKey": "x"}, "secretAccessKey"),
    "endpoint behind the chart's back": (
        {"operator.env": [{"name": "FLOWSTILL_S3_ENDPOINT", "value": "http://x"}]},
        "/operator/env/0/name",
    ),
    "claim without a name": ({"store.uri": "", "store.claim.create": True}, "/store/uri"),
    "size without a unit of storage": ({"store.claim.size": "lots"}, "/store/claim/size"),
    "read-only store": ({"store.claim.accessModes": ["ReadOnlyMany"]}, "/store/claim/accessModes"),
    "unknown pull policy": ({"imagePullPolicy": "Sometimes"}, "/imagePullPolicy"),
    "tag in the repository's digest": ({"operator.image.digest": "latest"}, "/operator/image/digest"),
    "pattern of namespaces": ({"operator.watchNamespaces": ["team-*"]}, "/operator/watchNamespaces"),
    "label that the selector needs": (
        {"operator.podLabels": {"app.kubernetes.io/name": "x"}},
        "/operator/podLabels",
    ),
    "variable that a value sets": (
        {"operator.env": [{"name": "FLOWSTILL_STORE", "value": "pvc://x"}]},
        "/operator/env/0/name",
    ),
    "secret without a name": ({"imagePullSecrets": [""]}, "/imagePullSecrets"),
    "number for a word": ({"crds.keep": "no"}, "/crds/keep"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_value_is_refused_by_name(helm: Helm, case: str) -> None:
    paths, name = REFUSED[case]
    with pytest.raises(CommandError) as caught:
        helm("template", "fs", str(CHART), values=nested(paths))
    assert name in caught.value.stderr
    assert "schema" in caught.value.stderr
