"""A namespace in which rollouts are played: the example Deployment, resources, and what their children say."""

import json
from pathlib import Path
from typing import Any

from flowstill.api.children import Result
from flowstill.api.fields import StatusRef
from tests.cluster.api_client import Document, Objects
from tests.cluster.harness.controlplane import ControlPlane
from tests.cluster.resources import student_rollout
from tests.cluster.stand_in_kubelet import StandInKubelet
from tests.cluster.waiting import until
from tests.unit.operator.builders import digest, judged, parity, records, trained

EXAMPLE = Path(__file__).parents[2] / "examples" / "deployment" / "deployment.yaml"
TARGET = "robot-policy"
TARGET_PODS = f"app={TARGET}"
RESULTS = {"train": trained(), "parity": parity(), "rollouts": records(), "judge": judged()}
CONDITIONS = {"train": "Trained", "parity": "Validated", "rollouts": "Evaluated", "judge": "GatesPassed"}


class Scene:
    """One namespace of a control plane on which an operator works.

    ``patience``: how long each step may take (s).
    """

    def __init__(self, plane: ControlPlane, namespace: str, patience: float = 60.0) -> None:
        self.plane, self.namespace, self.patience = plane, namespace, patience
        self.objects = Objects(plane, namespace)
        self.kubelet = StandInKubelet(self.objects, patience)

    def deploy(self, *, labelled: bool = True) -> None:
        """Apply the example Deployment, whose policy comes from a ConfigMap, and let its first pods run."""
        text = EXAMPLE.read_text()
        if not labelled:
            text = text.replace('labels:\n    flowstill.dev/target: "true"', "labels: {}")
        self.plane.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=text)
        self.await_available()

    def await_available(self) -> None:
        """Let waiting pods of the Deployment run until its newest version is available, and at rest."""

        def available() -> bool:
            self.kubelet.run_all(TARGET_PODS)
            found = self.target()
            status, wanted = found.get("status", {}), found["spec"]["replicas"]
            counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas")]
            seen = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
            return bool(seen and counts == [wanted] * 3)

        until(available, "the Deployment is available", self.target, self.patience)

    def target(self) -> Document:
        """The Deployment."""
        found = self.objects.get("deployments", TARGET)
        assert found is not None
        return found

    def entry(self) -> str | None:
        """FLOWSTILL_POLICY in the env of the Deployment's container; None when there is no entry."""
        env = self.target()["spec"]["template"]["spec"]["containers"][0]["env"]
        return next((entry["value"] for entry in env if entry["name"] == "FLOWSTILL_POLICY"), None)

    def revision(self) -> int:
        """How many pod templates the Deployment controller has rolled out; true once the Deployment is available."""
        return int(self.target()["metadata"]["annotations"]["deployment.kubernetes.io/revision"])

    def record(self) -> dict[str, str]:
        """The annotations of ours on the Deployment, without their prefix."""
        annotations = self.target()["metadata"]["annotations"]
        return {k.partition("/")[2]: v for k, v in annotations.items() if k.startswith("flowstill.dev/")}

    def start(
        self,
        name: str,
        student: StatusRef | dict[str, str],
        *,
        target: bool = True,
        deadline: int = 120,
        runtime: dict[str, Any] | None = None,
        monitoring: dict[str, Any] | None = None,
        **evaluation: Any,
    ) -> str:
        """Apply a rollout of that student, or with that ``spec.student``, and return its UID.

        ``deadline``: how long the target may take to become available (s). ``monitoring``: that section; ``runtime``
        and ``evaluation``: more of these.
        """
        source = student if isinstance(student, dict) else student.model_dump()
        spec: dict[str, Any] = {"student": source, "runtime": {"gpusPerNode": 0, **(runtime or {})}}
        if evaluation:
            spec["evaluation"] = {"suite": "metaworld", "tasks": ["reach-around"], **evaluation}
        if target:
            deployment = {"name": TARGET, "container": "policy"}
            spec["target"] = {"deployment": deployment, "progressDeadlineSeconds": deadline}
        if monitoring:
            spec["monitoring"] = monitoring
        self.plane.apply(student_rollout(name, self.namespace, **spec))
        found = self.objects.get("studentrollouts", name)
        assert found is not None
        uid: str = found["metadata"]["uid"]
        return uid

    def play(self, name: str, role: str, result: Result | str = "", exit_code: int = 0, number: int = 1) -> None:
        """The child of that role and round runs, which the operator sees, and ends so; by default well."""
        pod = self.kubelet.child(name, role, number=number)
        self.kubelet.run(pod)
        plural = "distilljobs" if role == "train" else "studentrollouts"
        self.await_condition(name, CONDITIONS[role], "Running", plural)
        self.kubelet.end(pod, result or RESULTS[role], exit_code)

    def judge(self, name: str, verdict: str = "Pass") -> None:
        """All three children end, the last with that verdict."""
        self.play(name, "parity")
        self.play(name, "rollouts")
        self.play(name, "judge", judged(verdict))

    def serve(self, name: str, phase: str = "Completed") -> dict[str, Any]:
        """The student is put on the target, whose pods become available; returns the status in the phase after it."""
        self.await_condition(name, "Promoted", "WaitingForDeployment")
        self.await_available()
        return self.await_phase(name, phase)

    def status(self, name: str, plural: str = "studentrollouts") -> dict[str, Any]:
        """The status, empty before the first write."""
        found = self.objects.get(plural, name)
        assert found is not None
        status: dict[str, Any] = found.get("status", {})
        return status

    def condition(self, name: str, kind: str, plural: str = "studentrollouts") -> tuple[str, str, str]:
        """Status, reason and message of that condition; empty when it is not there."""
        found = [c for c in self.status(name, plural).get("conditions", []) if c["type"] == kind]
        return (found[0]["status"], found[0]["reason"], found[0].get("message", "")) if found else ("", "", "")

    def await_condition(self, name: str, kind: str, reason: str, plural: str = "studentrollouts") -> str:
        """Wait until that condition has that reason, and return its message."""
        until(
            lambda: self.condition(name, kind, plural)[1] == reason,
            f"{kind} of {name} is {reason}",
            lambda: json.dumps(self.status(name, plural), indent=1),
            self.patience,
        )
        return self.condition(name, kind, plural)[2]

    def await_phase(self, name: str, phase: str, plural: str = "studentrollouts") -> dict[str, Any]:
        """Wait for that phase, and return the status."""
        until(
            lambda: self.status(name, plural).get("phase") == phase,
            f"{name} is {phase}",
            lambda: json.dumps(self.status(name, plural), indent=1),
            self.patience,
        )
        return self.status(name, plural)

    def events(self, name: str, until_last: str) -> list[str]:
        """``Reason Condition`` of the events about that resource, the oldest first, once ``until_last`` is there.

        Events are posted after the status is written, so a status says nothing about them yet.
        """

        def found() -> list[str]:
            mine = [e for e in self.objects.list("events") if e["involvedObject"]["name"] == name]
            return [f"{e['reason']} {e['message'].partition(':')[0]}" for e in mine]

        until(lambda: until_last in found(), f"the event {until_last}", found, self.patience)
        return found()

    def jobs(self) -> dict[str, str]:
        """The Jobs in this namespace: role by name, without the hash of the owner's UID."""
        return {job["metadata"]["name"].rpartition("-")[0]: job["metadata"]["uid"] for job in self.objects.list("jobs")}


def student(letter: str) -> StatusRef:
    """A published student."""
    return StatusRef(uri=f"store://students/{letter}", digest=digest(letter))


def text(ref: StatusRef) -> str:
    """What FLOWSTILL_POLICY says about it."""
    return f"{ref.uri}@{ref.digest}"
