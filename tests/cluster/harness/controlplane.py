"""A real control plane as local processes: etcd, API server, controller-manager and scheduler."""

import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster.harness import binaries
from tests.cluster.harness.cache import Report, silent
from tests.cluster.harness.certificates import Authority, Pair, create_authority, create_signing_key
from tests.cluster.harness.kubeconfig import write_kubeconfig
from tests.cluster.harness.processes import Background, CommandError, free_port, run, start, wait_until

SERVICE_RANGE = "10.96.0.0/16"
_SERVICE_ADDRESS = "10.96.0.1"
_READY_LIMIT_S = 120.0


class ControlPlane:
    """The processes of one control plane, its files, and the commands that talk to it.

    Args:
        folder: an empty folder for certificates, data and logs.
        address: where the API server listens. Pods reach it only at an address that is not loopback.
        report: called with one line of progress at a time.
        flags: more of the command lines, by the name of the process.
    """

    def __init__(
        self,
        folder: Path,
        address: str = "127.0.0.1",
        report: Report = silent,
        flags: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.folder, self.address, self._report, self._flags = folder, address, report, flags or {}
        self.tools = binaries.ensure(binaries.CONTROL_PLANE, report)
        self._processes: list[Background] = []
        self.authority: Authority
        self.server: str
        self.kubeconfig: Path

    def start(self) -> None:
        """Start all four, and return when pods can be created.

        Raises:
            HarnessError: one of them ended or was not ready in time; the message has the end of its log.
        """
        started = time.monotonic()
        self.authority = create_authority(self.folder / "pki")
        self._start_etcd_and_server()
        self._start_controllers()
        ready = f"default service account, {self.folder}"
        wait_until(ready, self._has_service_account, _READY_LIMIT_S, tuple(self._processes))
        self._report(f"control plane at {self.server} ready in {time.monotonic() - started:.1f} s")

    def stop(self) -> None:
        """Stop all four; etcd last, because an API server without it hangs for minutes."""
        while self._processes:
            self._processes.pop().stop()

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl as the cluster's administrator and return its output.

        Raises:
            CommandError: kubectl ended with an error; `stderr` has the server's message.
        """
        return run([str(self.tools["kubectl"]), *arguments], stdin, self.environment())

    def helm(self, *arguments: str, stdin: str = "") -> str:
        """Run helm as the cluster's administrator and return its output (built on first use)."""
        helm = binaries.ensure((binaries.HELM,), self._report)["helm"]
        return run([str(helm), *arguments], stdin, self.environment())

    def get(self, *arguments: str) -> Any:
        """Return what ``kubectl get ARGUMENTS -o json`` prints, read."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        """Create or change objects given as dictionaries."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def create_namespace(self, prefix: str = "test") -> str:
        """Create a namespace that admits restricted pods only, ready for pods, and return its name."""
        name = f"{prefix}-{secrets.token_hex(3)}"
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        wait_until(f"service account in {name}", lambda: self._has_service_account(name), _READY_LIMIT_S)
        return name

    def environment(self) -> dict[str, str]:
        """Return the environment for clients: KUBECONFIG and writable homes for helm and kubectl."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
        }

    def client_config(self, name: str, subject: str) -> Path:
        """Write a kubeconfig for the user or group in `subject` (``/O=group/CN=user``)."""
        pair = self.authority.issue(name, subject)
        return write_kubeconfig(self.folder / f"{name}.kubeconfig", self.server, self.authority.own.certificate, pair)

    def _start_etcd_and_server(self) -> None:
        peer, client, secure = (free_port(host) for host in ("127.0.0.1", "127.0.0.1", self.address))
        etcd_url, self.server = f"http://127.0.0.1:{client}", f"https://{self.address}:{secure}"
        self.kubeconfig = self.client_config("admin", "/O=system:masters/CN=admin")
        etcd = [
            str(self.tools["etcd"]),
            "--data-dir",
            str(self.folder / "etcd"),
            "--unsafe-no-fsync",
            "--log-level",
            "warn",
        ]
        etcd += ["--listen-client-urls", etcd_url, "--advertise-client-urls", etcd_url]
        etcd += ["--listen-peer-urls", f"http://127.0.0.1:{peer}"]
        self._start("etcd", etcd)
        self._signing_key = create_signing_key(self.folder / "pki")
        self._start("kube-apiserver", self._server_command(etcd_url, secure))
        wait_until("kube-apiserver ready", self._is_ready, _READY_LIMIT_S, tuple(self._processes))

    def _server_command(self, etcd_url: str, port: int) -> list[str]:
        names = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        serving = self.authority.issue(
            "kube-apiserver", "/CN=kube-apiserver", (self.address, "127.0.0.1", _SERVICE_ADDRESS), names
        )
        to_kubelet: Pair = self.authority.issue("apiserver-to-kubelet", "/O=system:masters/CN=kube-apiserver")
        authority = self.authority.own.certificate
        options = {
            "etcd-servers": etcd_url,
            "bind-address": self.address,
            "secure-port": port,
            "tls-cert-file": serving.certificate,
            "tls-private-key-file": serving.key,
            "client-ca-file": authority,
            "authorization-mode": "Node,RBAC",
            "service-cluster-ip-range": SERVICE_RANGE,
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": self._signing_key,
            "service-account-signing-key-file": self._signing_key,
            "kubelet-client-certificate": to_kubelet.certificate,
            "kubelet-client-key": to_kubelet.key,
            "kubelet-certificate-authority": authority,
            "kubelet-preferred-address-types": "InternalIP",
            # One authority signs all: nobody but this name may speak for other users.
            "requestheader-client-ca-file": authority,
            "requestheader-allowed-names": "front-proxy",
        }
        if self.address.startswith("127."):
            # Endpoints may not be loopback, and no pod asks for them here.
            options["endpoint-reconciler-type"] = "none"
        else:
            options["advertise-address"] = self.address
        return [str(self.tools["kube-apiserver"]), *(f"--{key}={value}" for key, value in options.items())]

    def _start_controllers(self) -> None:
        manager_config = self.client_config("controller-manager", "/CN=system:kube-controller-manager")
        manager = [
            str(self.tools["kube-controller-manager"]),
            f"--kubeconfig={manager_config}",
            f"--root-ca-file={self.authority.own.certificate}",
            f"--service-account-private-key-file={self._signing_key}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            f"--secure-port={free_port('127.0.0.1')}",
            "--bind-address=127.0.0.1",
        ]
        self._start("kube-controller-manager", manager)
        scheduler_config = self.client_config("scheduler", "/CN=system:kube-scheduler")
        scheduler = [
            str(self.tools["kube-scheduler"]),
            f"--kubeconfig={scheduler_config}",
            "--leader-elect=false",
            f"--secure-port={free_port('127.0.0.1')}",
            "--bind-address=127.0.0.1",
        ]
        self._start("kube-scheduler", scheduler)

    def _start(self, name: str, command: list[str]) -> None:
        self._processes.append(start(name, [*command, *self._flags.get(name, ())], self.folder))

    def _is_ready(self) -> bool:
        try:
            return self.kubectl("get", "--raw=/readyz") == "ok"
        except CommandError:
            return False

    def _has_service_account(self, namespace: str = "default") -> bool:
        try:
            self.kubectl("get", "serviceaccount", "default", "--namespace", namespace)
        except CommandError:
            return False
        return True
