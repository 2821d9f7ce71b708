"""Debian packages that the node and the images need, installed when this process may."""

import os
import shutil

from tests.cluster.harness.cache import Report, silent
from tests.cluster.harness.errors import HarnessError
from tests.cluster.harness.processes import run

_COMMAND_OF = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "buildah": "buildah",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "mmdebstrap": "mmdebstrap",
    "iproute2": "ip",
}


def ensure_packages(report: Report = silent) -> None:
    """Install the missing ones with apt-get.

    Raises:
        HarnessError: this process is not root, or there is no apt-get.
    """
    if os.geteuid() != 0:
        raise HarnessError(
            "a node with real containers needs root: run as root, or leave it out with -m 'not containers'"
        )
    missing = [package for package, command in _COMMAND_OF.items() if shutil.which(command) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise HarnessError(f"not a Debian machine; install what these packages contain: {', '.join(missing)}")
    report(f"installing {', '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], environment=environment)
    run(["apt-get", "install", "--yes", "--no-install-recommends", *missing], environment=environment)
