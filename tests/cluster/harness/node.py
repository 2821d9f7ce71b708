"""One node with real containers: containerd, kubelet and kube-proxy beside a control plane."""

import json
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tests.cluster.harness import binaries, network
from tests.cluster.harness.cache import Report, cache_root, silent
from tests.cluster.harness.containerd import Containerd
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.images import ImageStore
from tests.cluster.harness.processes import Background, free_port, run, start, wait_until

NAME = "node-1"
_PREFIX = "fst-node-"
_READY_LIMIT_S = 120.0
_COREFILE = """\
.:53 {{
    bind {address}
    errors
    kubernetes cluster.local {{
        kubeconfig {kubeconfig}
    }}
}}
"""


class Node:
    """A node of `plane` on this machine.

    There can be one on a machine, for it owns bridges and iptables chains; `running_node` sees to that.

    Args:
        plane: a started control plane that listens on `network.NODE_ADDRESS`.
        report: called with one line of progress at a time.
    """

    def __init__(self, plane: ControlPlane, report: Report = silent) -> None:
        self.plane, self._report = plane, report
        self._stack = ExitStack()
        self._processes: list[Background] = []
        self.images: ImageStore
        self.containerd: Containerd

    def start(self) -> None:
        """Start everything, and return when the node is ready.

        Raises:
            HarnessError: a part did not start; the message has the end of its log.
        """
        started = time.monotonic()
        self.tools = binaries.ensure(binaries.NODE, self._report)
        network.remove_leftovers(_PREFIX)
        # A short path: a Unix socket's name has at most 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._stack.callback(network.remove_tree, self.folder)
        self._stack.callback(network.remove_pod_namespaces, network.pod_namespaces())
        self._start_containerd()
        self._start_kubelet()
        self._start_proxy()
        wait_until(f"{NAME} ready", self._is_ready, _READY_LIMIT_S, tuple(self._processes))
        self._report(f"{NAME} ready in {time.monotonic() - started:.1f} s")

    def stop(self) -> None:
        """Stop everything, and leave no container, mount, bridge, cgroup or iptables chain behind."""
        while self._processes:
            self._processes.pop().stop()
        self._stack.close()

    def load(self, name: str) -> str:
        """Make an image of the store usable by pods (``imagePullPolicy: Never``), and return its name."""
        self.containerd.load(self.images, name)
        return name

    def start_dns(self) -> None:
        """Let pods resolve Services by name, which few tests need (built on first use); once is enough.

        Raises:
            HarnessError: it did not start; the message has the end of its log.
        """
        if any(process.name == "coredns" for process in self._processes):
            return
        dns = binaries.ensure((binaries.COREDNS,), self._report)["coredns"]
        path = self.folder / "Corefile"
        path.write_text(_COREFILE.format(address=network.NODE_ADDRESS, kubeconfig=self.plane.kubeconfig))
        self._processes.append(start("coredns", [str(dns), "-conf", str(path)], self.folder))

    def volume(self, name: str, path: Path, namespace: str, size: str = "10Gi") -> None:
        """Make a folder of this machine a volume, and bind the new claim `name` in `namespace` to it."""
        path.mkdir(parents=True, exist_ok=True)
        # What a provisioner does with fsGroup, a hostPath does not: any user of a pod may write here.
        path.chmod(0o777)
        common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
        volume_name = f"{namespace}-{name}"
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume_name},
            "spec": {
                **common,
                "capacity": {"storage": size},
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(path), "type": "Directory"},
                "claimRef": {"name": name, "namespace": namespace},
            },
        }
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {**common, "volumeName": volume_name, "resources": {"requests": {"storage": size}}},
        }
        self.plane.apply(volume, claim)

    def _start_containerd(self) -> None:
        root = cache_root() / "containerd"
        root.mkdir(parents=True, exist_ok=True)
        cni = network.write_pod_network(self.folder)
        self.images = ImageStore(report=self._report)
        self.containerd = Containerd(self.folder, root, cni, self._report)
        self.containerd.start()
        self._stack.callback(self.containerd.stop)
        self.containerd.load(self.images, self.images.pause())

    def _start_kubelet(self) -> None:
        address = network.NODE_ADDRESS
        subject = f"/O=system:nodes/CN=system:node:{NAME}"
        serving = self.plane.authority.issue("kubelet", subject, (address,), (NAME,))
        resolv = self.folder / "resolv.conf"
        resolv.write_text(f"nameserver {address}\n")
        config = _kubelet_config(self.folder, address)
        config |= {
            "authentication": {
                "anonymous": {"enabled": False},
                "x509": {"clientCAFile": str(self.plane.authority.own.certificate)},
            },
            "containerRuntimeEndpoint": f"unix://{self.containerd.socket}",
            "resolvConf": str(resolv),
            "tlsCertFile": str(serving.certificate),
            "tlsPrivateKeyFile": str(serving.key),
        }
        command = [str(self.tools["kubelet"]), f"--config={self._write('kubelet.json', config)}"]
        command += [
            f"--kubeconfig={self.plane.client_config('node', subject)}",
            f"--node-ip={address}",
        ]
        command += [f"--hostname-override={NAME}", f"--root-dir={self.folder / 'kubelet'}"]
        self._stack.callback(_remove_cgroups)
        self._processes.append(start("kubelet", command, self.folder))

    def _start_proxy(self) -> None:
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": network.POD_RANGE,
            "hostnameOverride": NAME,
            "clientConnection": {"kubeconfig": str(self.plane.client_config("kube-proxy", "/CN=system:kube-proxy"))},
            "conntrack": {"maxPerCore": 0},
            "healthzBindAddress": f"127.0.0.1:{free_port('127.0.0.1')}",
            "metricsBindAddress": f"127.0.0.1:{free_port('127.0.0.1')}",
            "oomScoreAdj": 0,
        }
        command = [str(self.tools["kube-proxy"]), f"--config={self._write('kube-proxy.json', config)}"]
        self._stack.callback(self._clean_iptables)
        self._processes.append(start("kube-proxy", command, self.folder))

    def _clean_iptables(self) -> None:
        run([str(self.tools["kube-proxy"]), "--cleanup"])
        for table in ("filter", "nat", "mangle"):
            for chain in ("KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT"):
                _remove_chain(table, chain)

    def _write(self, name: str, config: dict[str, Any]) -> Path:
        path = self.folder / name
        path.write_text(json.dumps(config, indent=1))
        return path

    def _is_ready(self) -> bool:
        nodes = self.plane.get("nodes")["items"]
        conditions = [condition for node in nodes for condition in node["status"].get("conditions", [])]
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _kubelet_config(folder: Path, address: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "port": free_port(address),
        "healthzPort": free_port("127.0.0.1"),
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [address],
        "clusterDomain": "cluster.local",
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # The images cost minutes: no garbage collection may take them.
        "imageGCHighThresholdPercent": 100,
        "oomScoreAdj": 0,
        "podLogsDir": str(folder / "pod-logs"),
        "syncFrequency": "5s",
    }


def _remove_chain(table: str, chain: str) -> None:
    rules = run(["iptables", "-t", table, "-S"]).splitlines()
    for rule in rules:
        if rule.startswith("-A") and rule.endswith(f"-j {chain}"):
            run(["iptables", "-t", table, "-D", *rule.split()[1:]])
    if f"-N {chain}" in rules:
        run(["iptables", "-t", table, "-F", chain])
        run(["iptables", "-t", table, "-X", chain])


def _remove_cgroups() -> None:
    for parent in Path("/sys/fs/cgroup").glob("**/kubepods"):
        for folder in sorted((path for path in parent.rglob("*") if path.is_dir()), reverse=True):
            with suppress(OSError):
                folder.rmdir()
        with suppress(OSError):
            parent.rmdir()
