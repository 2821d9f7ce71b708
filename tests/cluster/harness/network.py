"""The pod network: one bridge for the node's address, one for pods, and their removal."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cluster.harness.processes import CommandError, run

NODE_ADDRESS = "10.10.0.1"
POD_RANGE = "10.88.0.0/16"
_NODE_BRIDGE = "fst-node"
_POD_BRIDGE = "fst-pods"
_NETWORK = "flowstill-test"


@contextmanager
def node_address() -> Iterator[str]:
    """Give this machine an address that pods can reach, for as long as the context lasts."""
    _remove_bridges()
    run(["ip", "link", "add", _NODE_BRIDGE, "type", "bridge"])
    try:
        run(["ip", "addr", "add", f"{NODE_ADDRESS}/32", "dev", _NODE_BRIDGE])
        run(["ip", "link", "set", _NODE_BRIDGE, "up"])
        yield NODE_ADDRESS
    finally:
        _remove_bridges()


def _remove_bridges() -> None:
    for bridge in (_NODE_BRIDGE, _POD_BRIDGE):
        if Path("/sys/class/net", bridge).exists():
            run(["ip", "link", "delete", bridge])


def write_pod_network(folder: Path) -> Path:
    """Write the CNI configuration of pods on one bridge, and return its folder."""
    target = folder / "cni"
    target.mkdir()
    bridge = {
        "type": "bridge",
        "bridge": _POD_BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(folder / "addresses"),
            "ranges": [[{"subnet": POD_RANGE}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    network = {"cniVersion": "0.4.0", "name": _NETWORK, "plugins": [bridge]}
    (target / "10-pods.conflist").write_text(json.dumps(network))
    return target


def unmount_below(folder: Path) -> None:
    """Unmount whatever is mounted at or below `folder`, innermost first."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in reversed(points):
        if Path(point).is_relative_to(folder):
            run(["umount", "--lazy", point])


def remove_pod_namespaces(before: set[str]) -> None:
    """Remove the network namespaces that pods left, all but those that were there `before`."""
    for name in pod_namespaces() - before:
        with suppress(CommandError):
            run(["ip", "netns", "delete", name])


def pod_namespaces() -> set[str]:
    """Return the names of the network namespaces that CNI made on this machine."""
    folder = Path("/var/run/netns")
    return {path.name for path in folder.glob("cni-*")} if folder.is_dir() else set()


def remove_leftovers(prefix: str) -> None:
    """Remove the temporary folders whose names begin with `prefix`, of a run that was killed, and their mounts."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        remove_tree(folder)


def remove_tree(folder: Path) -> None:
    """Remove a folder that nothing is mounted in any more."""
    unmount_below(folder)
    shutil.rmtree(folder)
