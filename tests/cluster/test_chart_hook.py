"""``helm test`` of the chart: a pod that asks the operator, by its Service, whether it is ready."""

import asyncio
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flowstill_operator.engine.health import Health, serve
from tests.cluster.chart import Documents, Release, Render, nested
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.processes import CommandError, run, wait_until

SHARED = {
    "operator.podLabels": {"team": "x"},
    "operator.nodeSelector": {"zone": "1"},
    "operator.tolerations": [{"key": "robots", "operator": "Exists"}],
    "operator.affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "operator.priorityClassName": "high",
    "operator.image.repository": "registry.example/x",
    "imagePullPolicy": "Always",
    "imagePullSecrets": ["a", "b"],
}


def hook(found: Documents) -> dict[str, Any]:
    """The pod of ``helm test``, of which there is one."""
    (pod,) = found.of("Pod")
    return pod


def container(found: Documents) -> dict[str, Any]:
    """Its container, of which there is one."""
    result: dict[str, Any]
    (result,) = hook(found)["spec"]["containers"]
    return result


@pytest.mark.parametrize("paths", [{}, SHARED], ids=["defaults", "all changed"])
def test_the_pod_comes_and_runs_as_the_operators_does(render: Render, paths: dict[str, Any]) -> None:
    found = render(paths)
    mine, its = hook(found)["spec"], found.pod()["spec"]
    for one, other in ((mine, its), (container(found), found.container())):
        same = (one.keys() & other.keys()) - {"name", "containers", "automountServiceAccountToken"}
        assert {key: one[key] for key in same} == {key: other[key] for key in same}
    only = {"volumes", "serviceAccountName", "terminationGracePeriodSeconds"}
    assert its.keys() - mine.keys() == only
    assert container(found).keys() >= {"image", "imagePullPolicy", "resources", "securityContext"}
    assert mine["automountServiceAccountToken"] is False
    assert paths.get("operator.podLabels", {}).items() <= hook(found)["metadata"]["labels"].items()


def test_nothing_takes_the_pod_for_the_operator_and_the_policy_lets_it_in(render: Render) -> None:
    found = render({"networkPolicy.enabled": True, "networkPolicy.childNamespaces": ["robots"]})
    labels = hook(found)["metadata"]["labels"].items()
    (service,) = found.of("Service")
    operator, children = found.of("NetworkPolicy")
    for selector in (service["spec"]["selector"], operator["spec"]["podSelector"]["matchLabels"]):
        assert selector.items() <= found.pod()["metadata"]["labels"].items()
        assert not selector.items() <= labels
    (expression,) = children["spec"]["podSelector"]["matchExpressions"]
    assert expression["key"] not in dict(labels)
    (port,) = service["spec"]["ports"]
    # No `from`: whoever asks on this port is let in.
    assert operator["spec"]["ingress"] == [{"ports": [{"port": port["targetPort"], "protocol": "TCP"}]}]
    assert [entry["name"] for entry in found.container()["ports"]] == [port["targetPort"]]
    assert container(found)["args"][0] == f"http://{service['metadata']['name']}:{port['port']}/readyz"


def test_the_service_is_the_one_that_prometheus_is_sent_to(render: Render) -> None:
    found = render({"metrics.serviceMonitor.enabled": True})
    (service,), (monitor,) = found.of("Service"), found.of("ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,), (port,) = monitor["spec"]["endpoints"], service["spec"]["ports"]
    assert endpoint["port"] == port["name"]


async def test_its_command_believes_the_operator_alone(render: Render) -> None:
    """Run here, against what the operator serves."""
    ready = False
    health = Health(ready=lambda: ready, watch_age=lambda: 0.0)
    runner = await serve(health, lambda: b"", 0)
    python, *command = container(render({}))["command"]
    assert python == "python3"
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/readyz"

    async def ask(limit: str) -> str:
        return await asyncio.to_thread(run, [sys.executable, *command, url, limit])

    with pytest.raises(CommandError, match="Service Unavailable"):
        await ask("0")
    waiting = asyncio.create_task(ask("30"))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    ready = True
    assert await waiting == f"{url} ready\n"
    await runner.cleanup()
    with pytest.raises(CommandError, match="refused"):
        await ask("0")


@pytest.fixture
def release(control_plane: ControlPlane, namespace: str) -> Iterator[Release]:
    """A release in a namespace that admits restricted pods only."""
    found = Release(control_plane, namespace, "tested")
    found.install(nested({"crds.enabled": False, "operator.watchNamespaces": [namespace]}))
    yield found
    found.uninstall()


def test_helm_test_says_what_the_pod_says(release: Release) -> None:
    """No kubelet runs the pod, so the test writes how it ended."""
    plane, name = release.plane, f"{release.fullname}-test"
    here = ("--namespace", release.namespace)

    def pods() -> dict[str, str]:
        found = plane.get("pods", *here, "--selector", "app.kubernetes.io/component=test")["items"]
        return {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in found}

    def tested(phase: str) -> str:
        before = pods()
        with ThreadPoolExecutor(1) as pool:
            helm = pool.submit(plane.helm, "test", release.name, *here, "--timeout", "60s")
            wait_until("the hook's pod", lambda: helm.done() or bool(pods().keys() - before.keys()), 30.0)
            if not helm.done():
                status = json.dumps({"status": {"phase": phase}})
                plane.kubectl("patch", "pod", name, *here, "--subresource=status", "--type=merge", "--patch", status)
            return helm.result()

    with pytest.raises(CommandError, match=name):
        tested("Failed")
    assert list(pods().values()) == [name], "its log is there to be read"
    assert "Succeeded" in tested("Succeeded")
    assert pods() == {}
