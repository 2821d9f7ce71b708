"""The real Kueue: its controller manager as a process against a control plane, and its own manifests around it.

They are those of its ``config/default``, but for what a pod would give it. The Service of its webhooks leads to this
machine, and its certificate, which it makes itself and keeps in a Secret, is put where a kubelet would mount it. It has
the rights of its own ClusterRoles and no others.
"""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.harness import binaries
from tests.cluster.harness.cache import Report, silent
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.modules import source_of
from tests.cluster.harness.processes import Background, free_port, start, wait_until

MODULE = "sigs.k8s.io/kueue"
NAMESPACE = "kueue-system"
USER = f"/CN=system:serviceaccount:{NAMESPACE}:kueue-controller-manager"
SERVICE, SECRET = "kueue-webhook-service", "kueue-webhook-server-cert"
LEFT_OUT = ("Deployment", "APIService")
"""The process takes the place of the first; the second is a server of queues' contents that nobody here asks."""
WEBHOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
READY_LIMIT_S = 300.0

type Document = dict[str, Any]


@contextmanager
def running_kueue(plane: ControlPlane, folder: Path, report: Report = silent) -> Iterator[Background]:
    """A Kueue that queues the plane's Jobs; its log goes to ``folder/kueue.log``.

    It is not taken away again: a control plane whose Jobs it held back is of no use without it.
    """
    binary = binaries.ensure((binaries.KUEUE,), report)["kueue"]
    webhooks, health = free_port("127.0.0.1"), free_port("127.0.0.1")
    _install(plane, webhooks)
    certificates = folder / "kueue-certificates"
    configuration = folder / "kueue.json"
    configuration.write_text(json.dumps(_configuration(webhooks, health, certificates)))
    environment = {**plane.environment(), "KUBECONFIG": str(plane.client_config("kueue", USER))}
    process = start("kueue", [str(binary), f"--config={configuration}"], folder, environment)
    try:
        wait_until("Kueue has made its certificate", lambda: _mount(plane, certificates), READY_LIMIT_S, (process,))
        wait_until("Kueue is ready", lambda: _is_ready(health), READY_LIMIT_S, (process,))
        yield process
    finally:
        process.stop()


def _configuration(webhooks: int, health: int, certificates: Path) -> Document:
    """Only plain Jobs, as Flowstill makes them."""
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": NAMESPACE,
        "integrations": {"frameworks": ["batch/job"]},
        "webhook": {"host": "127.0.0.1", "port": webhooks, "certDir": str(certificates)},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "metrics": {"bindAddress": "0"},
        "leaderElection": {"leaderElect": False},
        "featureGates": {"VisibilityOnDemand": False},
    }


def _install(plane: ControlPlane, port: int) -> None:
    rendered = plane.kubectl("kustomize", str(source_of(binaries.KUEUE, MODULE) / "config/default"))
    documents = [document for document in yaml.safe_load_all(rendered) if document["kind"] not in LEFT_OUT]
    for document in documents:
        _lead_here(document, port)
    # Client-side apply would keep each CRD in an annotation, which they are too large for.
    apply = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    plane.kubectl(*apply, stdin=yaml.safe_dump_all(documents))


def _lead_here(document: Document, port: int) -> None:
    """An API server asks a Service that is another name for this machine without any proxy between."""
    kind = document["kind"]
    if kind == "Service" and document["metadata"]["name"] == SERVICE:
        document["spec"] = {"type": "ExternalName", "externalName": "localhost"}
    elif kind in WEBHOOKS:
        for webhook in document["webhooks"]:
            webhook["clientConfig"]["service"]["port"] = port
    elif kind == "CustomResourceDefinition" and "conversion" in document["spec"]:
        document["spec"]["conversion"]["webhook"]["clientConfig"]["service"]["port"] = port


def _mount(plane: ControlPlane, folder: Path) -> bool:
    data = plane.get("secret", SECRET, "--namespace", NAMESPACE).get("data") or {}
    if "tls.crt" not in data:
        return False
    folder.mkdir(exist_ok=True)
    # It looks for the certificate alone, so the key is there before.
    for name in sorted(data, reverse=True):
        (folder / name).write_bytes(base64.b64decode(data[name]))
    return True


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.HTTPError, OSError):
        return False
