"""The cluster of bench/scale.py: a real control plane whose etcd lies in memory, and kwok in place of nodes.

Every pod runs at once, and ends well when it is annotated; the rest is done by the real controllers.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.harness import binaries
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.harness.processes import Background, start
from tests.cluster.operator_process import CRDS, await_crds
from tests.unit.operator.builders import trained

MEMORY = Path("/dev/shm")
END = "bench.flowstill.dev/end"
PODS_A_NODE = 1000
NAMESPACE = "scale"
USER = "bench-operator"
QPS = "2000"
FLAGS = {
    "etcd": ["--quota-backend-bytes=8589934592"],
    # Without: nobody renews the leases of nodes that are none.
    "kube-controller-manager": [
        "--controllers=*,-node-lifecycle-controller",
        f"--kube-api-qps={QPS}",
        f"--kube-api-burst={QPS}",
        "--concurrent-job-syncs=20",
    ],
    "kube-scheduler": [f"--kube-api-qps={QPS}", f"--kube-api-burst={QPS}"],
}

type Document = dict[str, Any]


@contextmanager
def running_world(size: int) -> Iterator[tuple[ControlPlane, Path]]:
    """A control plane with CRDs, a namespace with a bound store, and room for ``size`` pods; and its audit log."""
    place = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="flowstill-scale-", dir=place) as folder:
        audit, policy = Path(folder) / "audit.log", Path(folder) / "audit-policy.json"
        policy.write_text(json.dumps(_audit_policy()))
        server = [f"--audit-policy-file={policy}", f"--audit-log-path={audit}", "--audit-log-maxsize=0"]
        # It marks every new node as not ready, and who would take the mark away does not run here.
        server += ["--disable-admission-plugins=TaintNodesByCondition"]
        plane = ControlPlane(Path(folder), report=print, flags={**FLAGS, "kube-apiserver": server})
        kwok: Background | None = None
        try:
            plane.start()
            plane.kubectl("create", "namespace", NAMESPACE)
            plane.apply(*(_node(number) for number in range(size // PODS_A_NODE + 1)), *_store())
            kwok = _start_kwok(plane, Path(folder))
            # They go with the plane: whoever leaves finalizers behind would hold up their deletion.
            plane.kubectl("apply", "-f", str(CRDS))
            await_crds(plane)
            yield plane, audit
        finally:
            if kwok is not None:
                kwok.stop()
            plane.stop()


def _start_kwok(plane: ControlPlane, folder: Path) -> Background:
    tool = binaries.ensure((binaries.KWOK,), print)["kwok"]
    config = folder / "kwok.yaml"
    options = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {"manageAllNodes": True, "podPlayStageParallelism": 16, "nodePlayStageParallelism": 4},
    }
    config.write_text("\n---\n".join(json.dumps(document) for document in (options, *_stages())))
    return start("kwok", [str(tool), f"--config={config}", f"--kubeconfig={plane.kubeconfig}"], folder)


def _stages() -> list[Document]:
    message = trained().model_dump_json(by_alias=True, exclude_none=True)
    each = (
        "containerStatuses:\n{{ range .spec.containers }}\n- name: {{ .name | Quote }}\n  image: {{ .image | Quote }}\n"
    )
    runs = f"""phase: Running
podIP: 10.255.255.1
startTime: {{{{ Now | Quote }}}}
conditions:
- {{type: Initialized, status: "True"}}
- {{type: Ready, status: "True"}}
- {{type: ContainersReady, status: "True"}}
{each}  imageID: ""
  ready: true
  started: true
  restartCount: 0
  state: {{running: {{startedAt: {{{{ Now | Quote }}}}}}}}
{{{{ end }}}}
"""
    ends = f"""phase: Succeeded
{each}  imageID: ""
  ready: false
  started: false
  restartCount: 0
  state:
    terminated:
      exitCode: 0
      reason: Completed
      finishedAt: {{{{ Now | Quote }}}}
      message: {json.dumps(message)}
{{{{ end }}}}
"""
    unless_deleted = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}
    pending = {"key": ".status.phase", "operator": "In", "values": ["Pending"]}
    running = {"key": ".status.phase", "operator": "In", "values": ["Running"]}
    told = {"key": f'.metadata.annotations["{END}"]', "operator": "Exists"}
    deleted = {"key": ".metadata.deletionTimestamp", "operator": "Exists"}
    fresh = {"key": ".status.phase", "operator": "NotIn", "values": ["Running"]}
    return [
        # kwok plays the pods of those nodes only that it plays too.
        _stage("is-there", [fresh], {"statusTemplate": "phase: Running"}, "Node"),
        _stage("runs", [unless_deleted, pending], {"statusTemplate": runs}),
        _stage("ends", [unless_deleted, running, told], {"statusTemplate": ends}),
        _stage("goes", [deleted], {"delete": True}),
    ]


def _stage(name: str, when: list[Document], then: Document, kind: str = "Pod") -> Document:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": when},
            "next": then,
        },
    }


def _node(number: int) -> Document:
    room = {"cpu": "10000", "memory": "100Ti", "ephemeral-storage": "100Ti", "pods": str(PODS_A_NODE + 100)}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "there is none"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{number}"},
        "status": {"capacity": room, "allocatable": room, "conditions": [ready]},
    }


def _store() -> list[Document]:
    """The claim that children mount, bound to a volume that nobody looks into."""
    name, access = "flowstill-store", ["ReadWriteMany"]
    size = {"storage": "1Gi"}
    volume = {"capacity": size, "accessModes": access, "storageClassName": "", "hostPath": {"path": "/nowhere"}}
    volume["claimRef"] = {"namespace": NAMESPACE, "name": name}
    claim = {"accessModes": access, "storageClassName": "", "volumeName": name, "resources": {"requests": size}}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": volume},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": claim,
        },
    ]


def _audit_policy() -> Document:
    """One line for each answered request of the operator; nothing of anybody else's."""
    rules = [{"level": "Metadata", "users": [USER]}, {"level": "None"}]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": rules,
    }
