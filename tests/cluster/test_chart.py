"""One release of the chart on a real API server: what is admitted, and who may do what."""

import asyncio
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.aio import client, config

from flowstill_operator.clusters.kubernetes import KubernetesCluster
from flowstill_operator.rollout.promote import TARGET_LABEL
from tests.cluster.chart import CHART, CRDS, Documents, Release, remove_crds, wait_for_job
from tests.cluster.chart_cases import all_changed
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.modules import PROMETHEUS_OPERATOR, folder_of
from tests.cluster.harness.processes import CommandError, wait_until
from tests.cluster.operator_process import await_crds
from tests.cluster.resources import distill_job

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
NEEDED = {
    ("flowstill.dev", "distilljobs"): {"get", "list", "watch"},
    ("flowstill.dev", "studentrollouts"): {"get", "list", "watch"},
    ("flowstill.dev", "distilljobs/status"): {"update"},
    ("flowstill.dev", "studentrollouts/status"): {"update"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("", "pods"): {"list", "watch"},
    ("", "services"): {"get", "create"},
    ("", "events"): {"create"},
    ("apps", "deployments"): {"get", "list", "watch", "patch"},
}
NOTHING = (
    ("*", "*"),
    ("", "secrets"),
    ("", "configmaps"),
    ("", "namespaces"),
    ("", "nodes"),
    ("", "services/proxy"),
    ("", "services/status"),
    ("", "endpoints"),
    ("", "persistentvolumeclaims"),
    ("", "pods/exec"),
    ("", "pods/log"),
    ("", "serviceaccounts"),
    ("", "serviceaccounts/token"),
    ("apps", "deployments/scale"),
    ("apps", "deployments/status"),
    ("apps", "replicasets"),
    ("batch", "cronjobs"),
    ("batch", "jobs/status"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("flowstill.dev", "distilljobs/finalizers"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
)


@pytest.fixture(scope="module")
def notes() -> list[str]:
    """What helm said when the release was installed."""
    return []


@pytest.fixture(scope="module")
def release(control_plane: ControlPlane, notes: list[str]) -> Iterator[Release]:
    """The chart with its defaults, in a namespace that admits restricted pods only."""
    remove_crds(control_plane)
    found = Release(control_plane, control_plane.create_namespace("chart"))
    notes.append(found.install())
    await_crds(control_plane)
    yield found
    found.uninstall()
    remove_crds(control_plane)
    control_plane.kubectl("delete", "namespace", found.namespace, "--wait=false")


@pytest.fixture
def robots(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of somebody who uses the release."""
    name = control_plane.create_namespace("robots")
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def monitoring(control_plane: ControlPlane) -> Iterator[None]:
    """The Prometheus operator's own kinds, once for all: applied again while they go, they answer and are gone then."""
    folder = folder_of(PROMETHEUS_OPERATOR) / "example/prometheus-operator-crd"
    names = [f"{kind}.monitoring.coreos.com" for kind in ("servicemonitors", "prometheusrules")]
    for name in names:
        file = folder / f"monitoring.coreos.com_{name.partition('.')[0]}.yaml"
        control_plane.kubectl("apply", "--server-side", "-f", "-", stdin=file.read_text())
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", *names)
    yield
    control_plane.kubectl("delete", "crd", *names, "--wait")


@pytest.fixture(scope="module")
def priority(control_plane: ControlPlane) -> Iterator[None]:
    """The class that the changed values name, without which no pod is admitted."""
    control_plane.kubectl("create", "priorityclass", "high", "--value=1")
    yield
    control_plane.kubectl("delete", "priorityclass", "high")


@pytest.mark.usefixtures("monitoring", "priority")
@pytest.mark.parametrize("changed", [False, True])
def test_the_server_admits_every_document(release: Release, changed: bool) -> None:
    plane = release.plane
    values = all_changed(release.namespace) if changed else {}
    command = ["template", "dry", str(CHART), "--namespace", release.namespace, "--values", "-"]
    text = plane.helm(*command, stdin=json.dumps(values))
    applied = plane.kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-", stdin=text)
    lines = applied.splitlines()
    assert len(lines) == len(Documents.read(text).all)
    assert all(line.endswith("serverside-applied (server dry run)") for line in lines)


def test_the_operators_pod_is_admitted_as_restricted(release: Release) -> None:
    plane, select = release.plane, ("--namespace", release.namespace, "--selector", "app.kubernetes.io/instance=fs")
    wait_until("the operator's pod", lambda: bool(plane.get("pods", *select)["items"]), 30.0)
    (pod,) = plane.get("pods", *select)["items"]
    assert pod["spec"]["serviceAccountName"] == release.fullname
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    events = plane.get("events", "--namespace", release.namespace)["items"]
    assert [e["message"] for e in events if e["reason"] == "FailedCreate"] == []


def test_the_crds_belong_to_the_release_and_stay(release: Release) -> None:
    for name in CRDS:
        metadata = release.plane.get("crd", name)["metadata"]
        assert metadata["annotations"]["helm.sh/resource-policy"] == "keep"
        assert metadata["annotations"]["meta.helm.sh/release-name"] == release.name
        assert metadata["labels"]["app.kubernetes.io/instance"] == release.name


def test_every_command_in_the_notes_works(release: Release, notes: list[str]) -> None:
    assert "works in every namespace" in notes[0]
    assert "pvc://flowstill-store/PATH" in notes[0]
    commands = [line.strip() for line in notes[0].splitlines() if line.startswith("  kubectl ")]
    assert len(commands) == 5
    for command in commands:
        # Nothing runs here, and the resources are still needed.
        careful = {"rollout": ["--watch=false"], "delete": ["--dry-run=server"]}
        words = shlex.split(command)[1:]
        release.plane.kubectl(*words, *(word for verb, extra in careful.items() if verb in words for word in extra))


def reviews(
    plane: ControlPlane, user: str, groups: list[str], questions: list[tuple[str, str, str, str]]
) -> list[bool]:
    """Whether the user may, for every (namespace, group, resource, verb): what `kubectl auth can-i` asks, at once."""
    items = []
    for namespace, group, resource, verb in questions:
        kind, _, subresource = resource.partition("/")
        attributes = {
            "namespace": namespace,
            "group": group,
            "resource": kind,
            "subresource": subresource,
            "verb": verb,
            "name": "any",
        }
        spec = {"user": user, "groups": [*groups, "system:authenticated"], "resourceAttributes": attributes}
        items.append({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec})
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    answers = plane.kubectl("create", "-f", "-", "-o", 'jsonpath={.status.allowed}{"\\n"}', stdin=document)
    return [answer == "true" for answer in answers.splitlines()]


def test_the_operator_may_do_what_it_needs_and_nothing_else(release: Release, robots: str) -> None:
    account = f"system:serviceaccount:{release.namespace}:{release.fullname}"
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{release.namespace}"]
    resources = [*NEEDED, *NOTHING]
    questions = [(robots, group, resource, verb) for group, resource in resources for verb in (*VERBS, "*")]
    answers = dict(zip(questions, reviews(release.plane, account, groups, questions), strict=True))
    may = {key: {verb for verb in VERBS if answers[robots, *key, verb]} for key in resources}
    assert may == {**NEEDED, **{key: set() for key in NOTHING}}
    assert not any(answer for (_, _, _, verb), answer in answers.items() if verb == "*")


def test_the_clusters_own_roles_cover_our_kinds(release: Release, robots: str) -> None:
    plane, ours = release.plane, ("distilljobs", "studentrollouts")
    for role in ("view", "edit", "admin"):
        plane.kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}er", "-n", robots)
    reading, writing = {"get", "list", "watch"}, {"create", "update", "patch", "delete", "deletecollection"}

    def may(user: str, namespace: str, resource: str) -> set[str]:
        questions = [(namespace, "flowstill.dev", resource, verb) for verb in VERBS]
        return {verb for verb, yes in zip(VERBS, reviews(plane, user, [], questions), strict=True) if yes}

    wait_until("aggregated roles", lambda: may("editer", robots, ours[0]) == reading | writing, 30.0)
    for resource in ours:
        assert may("viewer", robots, resource) == reading
        assert may("editer", robots, resource) == may("adminer", robots, resource) == reading | writing
        for user in ("viewer", "editer", "adminer"):
            assert may(user, robots, f"{resource}/status") == set()
            assert may(user, release.namespace, resource) == set()
    job = json.dumps(distill_job(namespace=robots))
    with pytest.raises(CommandError, match='User "viewer" cannot create'):
        plane.kubectl("apply", "--as=viewer", "-f", "-", stdin=job)
    plane.kubectl("apply", "--as=editer", "-f", "-", stdin=job)
    plane.kubectl("get", "distilljob", "a", "--as=viewer", "-n", robots)


def test_the_operator_works_with_its_account_alone(release: Release, robots: str, tmp_path: Path) -> None:
    plane = release.plane
    plane.apply(distill_job(namespace=robots))
    with release.operator(tmp_path) as operator:
        wait_for_job(plane, robots, operator)

        def reasons() -> set[str]:
            events = plane.get("events", "--namespace", robots)["items"]
            return {e["reason"] for e in events if e["source"].get("component") == "flowstill-operator"}

        wait_until("events", lambda: "Valid" in reasons(), 30.0, (operator,))
        (job,) = plane.get("jobs", "--namespace", robots)["items"]
        pod = job["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert "serviceAccountName" not in pod
        assert pod["containers"][0]["image"] == release.manifest().environment()["FLOWSTILL_TRAINER_IMAGE"]
        log = operator.log.read_text()
    assert "watching the whole cluster" in log
    assert [line for line in log.splitlines() if "403" in line or "orbidden" in line or "WARNING" in line] == []


def test_a_promotion_is_written_with_its_account_alone(release: Release, robots: str, tmp_path: Path) -> None:
    container = {"name": "policy", "image": "x"}
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [container]}}
    target = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "target", "namespace": robots, "labels": {TARGET_LABEL: "true"}},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "x"}}, "template": template},
    }
    release.plane.apply(target)

    async def promote() -> None:
        configuration = client.Configuration()
        await config.load_kube_config(str(release.client_config(tmp_path)), client_configuration=configuration)
        cluster = KubernetesCluster(client.ApiClient(configuration))
        try:
            found = await cluster.get("Deployment", robots, "target")
            assert found is not None
            metadata = {key: found["metadata"][key] for key in ("name", "namespace", "resourceVersion")}
            env = [{"name": "FLOWSTILL_POLICY", "value": "store://x"}]
            template = {"spec": {"containers": [{"name": "policy", "env": env}]}}
            head = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
            await cluster.apply_deployment({**head, "spec": {"template": template}})
        finally:
            await cluster.close()

    asyncio.run(promote())
    (promoted,) = release.plane.get("deployment", "target", "-n", robots)["spec"]["template"]["spec"]["containers"]
    assert promoted["env"] == [{"name": "FLOWSTILL_POLICY", "value": "store://x"}]
