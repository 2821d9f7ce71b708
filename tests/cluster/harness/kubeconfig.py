"""Kubeconfig files for the cluster's parts and for its tests."""

import base64
import json
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


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
