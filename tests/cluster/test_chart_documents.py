"""What the chart renders to: whose the objects are, what they are called, and how much of the cluster they need."""

from tests.cluster.chart import CHART, Documents, Helm, Render, nested
from tests.cluster.chart_cases import CLAIM, IN_BOTH, VERSION


def test_a_namespaced_release_needs_nothing_of_the_whole_cluster(render: Render) -> None:
    alone = {"crds.enabled": False, "rbac.aggregate": False, "admissionPolicy.enabled": False}
    found = render({"operator.watchNamespaces": ["a"], **alone})
    assert sorted({document["kind"] for document in found.all}) == [
        "Deployment",
        "Pod",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    ]


def test_releases_for_some_namespaces_have_policies_of_their_own(helm: Helm) -> None:
    alone = {"crds.enabled": False, "rbac.aggregate": False}
    called, bound = set(), []
    for release, namespaces in (("one", ["a", "b"]), ("two", ["c"])):
        values = nested({"operator.watchNamespaces": namespaces, **alone})
        found = Documents.read(helm("template", release, str(CHART), "--namespace", "robots", values=values))
        (policy,), (binding,) = (found.of(f"ValidatingAdmissionPolicy{kind}") for kind in ("", "Binding"))
        called.add(policy["metadata"]["name"])
        assert binding["metadata"]["name"] == binding["spec"]["policyName"] == policy["metadata"]["name"]
        # Of all namespaces where the kinds are: the policy itself leaves none out.
        assert policy["spec"]["matchConstraints"].keys() == {"resourceRules"}
        (expression,) = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
        assert expression == {**IN_BOTH, "values": namespaces}
        bound += expression["values"]
    assert len(called) == 2
    assert sorted(bound) == ["a", "b", "c"]


def test_every_object_says_whose_it_is(render: Render) -> None:
    expected = {
        "app.kubernetes.io/name": "flowstill",
        "app.kubernetes.io/instance": "fs",
        "app.kubernetes.io/version": VERSION,
        "app.kubernetes.io/managed-by": "Helm",
        "app.kubernetes.io/part-of": "flowstill",
        "helm.sh/chart": f"flowstill-{VERSION}",
    }
    found = render(CLAIM)
    assert len(found.all) == 14
    for document in found.all:
        assert expected.items() <= document["metadata"]["labels"].items()


def test_the_operator_is_one_and_replaced_whole(render: Render) -> None:
    operator = render({}).operator()["spec"]
    assert operator["replicas"] == 1
    assert operator["strategy"] == {"type": "Recreate"}
    assert set(operator["selector"]["matchLabels"]) == {
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
        "app.kubernetes.io/component",
    }
    container = render({}).container()
    (port,) = container["ports"]
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}


def test_long_names_stay_names(helm: Helm) -> None:
    found = Documents.read(helm("template", "r" * 53, str(CHART)))
    for document in found.all:
        assert len(document["metadata"]["name"]) <= 63
        assert all(len(label) <= 63 for label in document["metadata"]["labels"].values())


def test_names_that_look_like_numbers_stay_names(helm: Helm) -> None:
    values = nested({"serviceAccount.name": "12", "store.claim.create": True, "store.uri": "pvc://13"})
    values |= {"imagePullSecrets": ["1"], "operator": {"priorityClassName": "7", "watchNamespaces": ["42"]}}
    found = Documents.read(helm("template", "10", str(CHART), "--namespace", "42", values=values))
    for document in found.all:
        metadata = document["metadata"]
        assert all(isinstance(value, str) for value in metadata["labels"].values())
        assert isinstance(metadata["name"], str)
        assert metadata.get("namespace", "42") == "42"
    pod = found.pod()["spec"]
    assert (pod["serviceAccountName"], pod["priorityClassName"]) == ("12", "7")
    assert pod["imagePullSecrets"] == [{"name": "1"}]
    assert [binding["subjects"][0]["name"] for binding in found.of("RoleBinding")] == ["12"]
    assert [claim["metadata"]["name"] for claim in found.of("PersistentVolumeClaim")] == ["13"]
    # That a Service's name begins with a letter is asked for too.
    assert [service["metadata"]["name"] for service in found.of("Service")] == ["n10-flowstill-operator"]
    assert found.operator()["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"] == "10"
