"""Kubeconfig files for the cluster's parts and for its tests."""

import base64
import json
import ssl
import tempfile
from pathlib import Path

from tests.cluster.harness.certificates import Pair


def write_kubeconfig(path: Path, server: str, authority: Path, client: Pair) -> Path:
    """Write a kubeconfig (JSON is YAML) that carries its certificates, so that it may be copied anywhere."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [
            {"name": "test", "cluster": {"server": server, "certificate-authority-data": _encoded(authority)}}
        ],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "users": [
            {
                "name": "test",
                "user": {
                    "client-certificate-data": _encoded(client.certificate),
                    "client-key-data": _encoded(client.key),
                },
            }
        ],
    }
    path.write_text(json.dumps(config, indent=1))
    path.chmod(0o600)
    return path


def client_tls(kubeconfig: Path) -> ssl.SSLContext:
    """Whom to trust and who one is, by a kubeconfig of this module's, for clients that are not Kubernetes' own."""
    config = json.loads(kubeconfig.read_text())
    user, cluster = config["users"][0]["user"], config["clusters"][0]["cluster"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as file:
        file.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
