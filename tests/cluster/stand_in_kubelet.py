"""A stand-in for the kubelet, and for nothing else, on a control plane without nodes: it writes the status of pods.

Nothing runs in these pods. What follows from their status is decided by the real controllers: the Job controller
completes or fails Jobs, the Deployment controller says what is available, the garbage collector deletes what lost its
owner. Real containers have tests of their own (mark ``containers``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from flowstill.api.children import Result
from flowstill_operator.ranks import INDEX_ANNOTATION
from tests.cluster.api_client import STRATEGIC, Document, Objects
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.waiting import until

POLICY = "stand-in-kubelet"
SCHEDULER = "request.userInfo.username == 'system:kube-scheduler'"
PLACED = (
    "has(oldObject.status.conditions) && "
    "oldObject.status.conditions.exists(c, c.type == 'PodScheduled' && c.status == 'True')"
)


@contextmanager
def stand_in(plane: ControlPlane) -> Iterator[None]:
    """Let pods run that are on no node: the scheduler may not say again that they wait for one.

    It tries a pod without a node every few seconds; of a pod that a kubelet runs it would never say so.
    """
    api = {"apiVersion": "admissionregistration.k8s.io/v1"}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["pods/status"]}
    spec: dict[str, Any] = {
        "matchConstraints": {"resourceRules": [rule]},
        "matchConditions": [
            {"name": "scheduler", "expression": "request.userInfo.username == 'system:kube-scheduler'"}
        ],
        "validations": [{"expression": f"!({PLACED})", "message": "the stand-in kubelet runs this pod"}],
    }
    binding = {"policyName": POLICY, "validationActions": ["Deny"]}
    plane.apply(
        {**api, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": POLICY}, "spec": spec},
        {**api, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": POLICY}, "spec": binding},
    )
    yield
    kinds = "validatingadmissionpolicies,validatingadmissionpolicybindings"
    plane.kubectl("delete", kinds, POLICY)


class StandInKubelet:
    """Plays what would happen to the pods of one namespace, each of which it awaits for ``patience`` seconds."""

    def __init__(self, objects: Objects, patience: float = 60.0) -> None:
        self.objects, self.patience = objects, patience

    def child(self, owner: str, role: str, *, reader: bool = False, number: int = 1) -> Document:
        """The unfinished pod of that child of that round, once it is there and the scheduler has looked at it.

        Before, the scheduler could still write over what is written here.
        """
        prefix = f"{owner}-{role}-{f'{number}-' if number > 1 else ''}{'read-' if reader else ''}"
        selector = f"flowstill.dev/owner-name={owner},flowstill.dev/role={role}"

        def found() -> Document | None:
            pods = self.objects.list("pods", selector)
            return next((p for p in pods if _job(p).rpartition("-")[0] + "-" == prefix and is_waiting(p)), None)

        pod = until(found, f"a waiting pod of {prefix}", lambda: self.objects.list("pods", selector), self.patience)
        assert pod is not None
        return pod

    def ranks(self, owner: str, attempt: int, nodes: int) -> list[Document]:
        """The waiting pods of that attempt of a training on several nodes, by their index."""
        return self._together(f"{owner}-train-{attempt}", owner, "train", nodes)

    def shards(self, owner: str, count: int) -> list[Document]:
        """So many waiting pods of an evaluation in shards, by their index."""
        return self._together(f"{owner}-rollouts", owner, "rollouts", count)

    def _together(self, prefix: str, owner: str, role: str, count: int) -> list[Document]:
        selector = f"flowstill.dev/owner-name={owner},flowstill.dev/role={role}"

        def found() -> list[Document]:
            pods = [pod for pod in self.objects.list("pods", selector) if _job(pod).rpartition("-")[0] == prefix]
            waiting = [pod for pod in pods if is_waiting(pod)]
            return waiting if len(waiting) == count else []

        pods = until(
            found, f"{count} waiting pods of {prefix}", lambda: self.objects.list("pods", selector), self.patience
        )
        return sorted(pods, key=lambda pod: int(pod["metadata"]["annotations"][INDEX_ANNOTATION]))

    def run(self, pod: Document) -> None:
        """Its containers run and are ready."""
        state = {"running": {"startedAt": _now()}}
        self._write(pod, "Running", state, ready=True)

    def restart(self, pod: Document, times: int) -> None:
        """Its containers have been restarted so often, and run."""
        self._write(pod, "Running", {"running": {"startedAt": _now()}}, ready=True, restarts=times)

    def end(self, pod: Document, result: Result | str, exit_code: int = 0) -> None:
        """Its container ends with that exit code and termination message."""
        message = result if isinstance(result, str) else result.model_dump_json(by_alias=True, exclude_none=True)
        reason = "Error" if exit_code else "Completed"
        terminated = {"exitCode": exit_code, "reason": reason, "message": message, "finishedAt": _now()}
        self._write(pod, "Failed" if exit_code else "Succeeded", {"terminated": terminated}, ready=False)

    def hold(self, pod: Document, reason: str, message: str) -> None:
        """Its container does not start, such as when the image cannot be pulled."""
        self._write(pod, "Pending", {"waiting": {"reason": reason, "message": message}}, ready=False)

    def run_all(self, selector: str) -> int:
        """Let every waiting pod of the selector run, and return how many there were."""
        waiting = [pod for pod in self.objects.list("pods", selector) if is_waiting(pod)]
        for pod in waiting:
            self.run(pod)
        return len(waiting)

    def _write(self, pod: Document, phase: str, state: Document, *, ready: bool, restarts: int = 0) -> None:
        truth = str(ready)
        containers = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "restartCount": restarts,
                "ready": ready,
                "started": ready,
                "state": state,
            }
            for container in pod["spec"]["containers"]
        ]
        conditions = [{"type": kind, "status": truth} for kind in ("ContainersReady", "Ready")]
        conditions += [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Initialized")]
        status = {"phase": phase, "startTime": _now(), "conditions": conditions, "containerStatuses": containers}
        self.objects.patch("pods", pod["metadata"]["name"], {"status": status}, STRATEGIC, status=True)


def _job(pod: Document) -> str:
    name: str = pod["metadata"]["labels"].get("batch.kubernetes.io/job-name", "")
    return name


def is_waiting(pod: Document) -> bool:
    """Whether it can be run: the scheduler has looked at it."""
    status = pod["status"]
    seen = any(condition["type"] == "PodScheduled" for condition in status.get("conditions") or [])
    return seen and status["phase"] == "Pending" and "deletionTimestamp" not in pod["metadata"]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
