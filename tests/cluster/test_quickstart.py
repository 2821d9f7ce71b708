"""The quickstart on a real cluster, as a user does it: images, helm install, kubectl apply, real pods.

The operator is killed with SIGKILL five times on the way, and nothing is lost.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowstill.api.fields import ArtifactRef
from flowstill.artifacts.stores import fetch
from tests.cluster.chart import remove_crds
from tests.cluster.harness.cache import Report
from tests.cluster.harness.node import Node
from tests.cluster.harness.processes import Background, CommandError, run, start
from tests.cluster.resources import distill_job

pytestmark = [pytest.mark.containers, pytest.mark.timeout(2700)]
"""A busy machine builds the images in a quarter of an hour, and then begins."""

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"
SYSTEM = "flowstill-system"
CLAIM = "flowstill-store"
GATES = {"S1", "S2", "S3", "P1", "P2", "P3", "P4", "P5", "P6"}
FLOWSTILL = str(Path(sys.executable).parent / "flowstill")
RUN_LIMIT_S = 1500.0


@dataclass(frozen=True)
class Installed:
    """A cluster with the chart on it, and a namespace with a seeded store.

    Attributes:
        images: full names by part.
        store: the folder behind the store's claim.
    """

    node: Node
    images: dict[str, str]
    namespace: str
    store: Path

    def apply(self, file: Path) -> None:
        """``kubectl apply`` of a file of the repository, with this cluster's names of the images."""
        text = file.read_text()
        for part, name in self.images.items():
            for written in (f"image: flowstill-{part}:0.1.0\n", f"image: flowstill-{part}\n"):
                text = text.replace(written, f"image: {name}\n")
        self.node.plane.kubectl("apply", "--namespace", self.namespace, "-f", "-", stdin=text)

    def get(self, *arguments: str) -> Any:
        """``kubectl get`` in the namespace."""
        return self.node.plane.get(*arguments, "--namespace", self.namespace)

    def status(self, kind: str, name: str) -> dict[str, Any]:
        """The status of a resource, empty while there is none."""
        found: dict[str, Any] = self.get(kind, name).get("status", {})
        return found

    def jobs(self) -> list[dict[str, Any]]:
        """The children's Jobs."""
        found: list[dict[str, Any]] = self.get("jobs", "--selector", "flowstill.dev/role")["items"]
        return found

    def follow(self, name: str, folder: Path) -> Background:
        """``flowstill logs NAME --follow``, which runs beside the test."""
        command = [FLOWSTILL, "logs", name, "--follow", "--namespace", self.namespace]
        return start("followed", command, folder, self.node.plane.environment())

    def logs(self, *arguments: str) -> str:
        """What ``flowstill logs`` prints."""
        command = [FLOWSTILL, "logs", *arguments, "--namespace", self.namespace]
        return run(command, environment=self.node.plane.environment())

    def pod_log(self, role: str) -> str:
        """What the one pod of that child wrote, by kubectl."""
        (pod,) = self.get("pods", "--selector", f"flowstill.dev/role={role}")["items"]
        return self.node.plane.kubectl("logs", pod["metadata"]["name"], "--namespace", self.namespace)

    def kill_operator(self) -> None:
        """SIGKILL; the pod goes too, so that the kubelet's growing back-off does not make the test slow."""
        killed = self.node.containerd.kill("operator")
        assert killed == 1, f"{killed} operators were running"
        pods = ("--namespace", SYSTEM, "--selector", "app.kubernetes.io/component=operator")
        self.node.plane.kubectl("delete", "pods", *pods, "--grace-period=0", "--force", "--wait=false")

    def wait_for_operator(self) -> None:
        """Until its Deployment is available."""
        self.node.plane.kubectl(
            "rollout", "status", "--namespace", SYSTEM, "deployment/flowstill-operator", "--timeout=120s"
        )


@pytest.fixture(scope="module")
def installed(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The README's steps up to the quickstart's own files."""
    plane = node.plane
    images = {part: node.load(node.images.project(part)) for part in ("operator", "trainer", "evaluator")}
    namespace = plane.create_namespace("robots")
    store = tmp_path_factory.mktemp("store")
    node.volume(CLAIM, store, namespace)
    plane.kubectl("create", "namespace", SYSTEM)
    plane.kubectl("label", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted")
    values = ["--set", "imagePullPolicy=Never"]
    for part, name in images.items():
        repository, _, tag = name.rpartition(":")
        values += ["--set", f"{part}.image.repository={repository}", "--set", f"{part}.image.tag={tag}"]
    plane.helm("install", "flowstill", str(ROOT / "helm" / "flowstill"), "--namespace", SYSTEM, *values)
    cluster = Installed(node, images, namespace, store)
    try:
        cluster.wait_for_operator()
        node.start_dns()
        plane.helm("test", "flowstill", "--namespace", SYSTEM)
        cluster.apply(QUICKSTART / "seed.yaml")
        plane.kubectl(
            "wait", "--namespace", namespace, "--for=condition=Complete", "job/quickstart-seed", "--timeout=180s"
        )
        yield cluster
    finally:
        _show(cluster)
        # Tests of other files have operators of their own on this node.
        plane.helm("uninstall", "flowstill", "--namespace", SYSTEM, "--wait")
        remove_crds(plane)


def _show(cluster: Installed) -> None:
    """What a person would look at when a test failed; pytest shows it only then."""
    kubectl = cluster.node.plane.kubectl
    print(kubectl("get", "dj,sr,jobs,pods", "--namespace", cluster.namespace, "-o", "wide"))
    print(kubectl("get", "events", "--namespace", cluster.namespace, "--sort-by=.metadata.creationTimestamp"))
    print(kubectl("get", "pods", "--namespace", SYSTEM))
    with suppress(CommandError):
        print(kubectl("logs", "--namespace", SYSTEM, "deployment/flowstill-operator", "--tail=60"))


Moment = tuple[str, Callable[[dict[str, Any], dict[str, Any]], bool]]
STARTED = "the trainer's Job exists"
MOMENTS: tuple[Moment, ...] = (
    (STARTED, lambda job, rollout: job.get("phase") in ("Queued", "Running")),
    ("training makes progress", lambda job, rollout: job.get("progress", {}).get("step", 0) > 0),
    ("parity", lambda job, rollout: rollout.get("phase") == "Validating"),
    ("rollouts", lambda job, rollout: rollout.get("phase") == "Evaluating"),
    ("judging", lambda job, rollout: rollout.get("phase") == "Judging"),
)
"""When the operator is killed, by the statuses of DistillJob and StudentRollout."""


def test_the_quickstart_completes_though_the_operator_is_killed_five_times(
    installed: Installed, report: Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed.apply(QUICKSTART / "distilljob.yaml")
    installed.apply(QUICKSTART / "studentrollout.yaml")
    followers: list[Background] = []

    def at(moment: str) -> None:
        if moment == STARTED:
            followers.append(installed.follow("dj/reach-around", tmp_path))

    kills, seen = _drive(installed, report, at)
    assert kills == [name for name, _ in MOMENTS]
    job = installed.status("distilljob", "reach-around")
    rollout = installed.status("studentrollout", "reach-around")
    assert (job["phase"], rollout["phase"]) == ("Succeeded", "Completed"), (job, rollout)
    assert {gate["name"]: gate["verdict"] for gate in rollout["gates"]} == dict.fromkeys(GATES, "Pass")
    assert {arm["episodes"] for arm in rollout["arms"]} == {200}
    assert rollout["student"] == job["student"]

    jobs = installed.jobs()
    roles = sorted(found["metadata"]["labels"]["flowstill.dev/role"] for found in jobs)
    assert roles == ["judge", "parity", "rollouts", "train"]
    assert {found["metadata"]["uid"] for found in jobs} == seen, "a Job was made twice"
    assert [found["status"].get("succeeded") for found in jobs] == [1] * 4
    assert [found["status"].get("failed", 0) for found in jobs] == [0] * 4

    monkeypatch.setenv("FLOWSTILL_STORE", f"file://{installed.store}")
    for reference in (job["student"], rollout["evidence"]):
        fetch(ArtifactRef(uri=reference["uri"], digest=reference["digest"]))
    page = (fetch(ArtifactRef(**rollout["evidence"])) / "report.html").read_text()
    assert "S3" in page
    log = installed.node.plane.kubectl("logs", "--namespace", SYSTEM, "deployment/flowstill-operator")
    assert "orbidden" not in log
    (follower,) = followers
    assert follower.process.wait(60) == 0, follower.log.read_text()
    followed = [line for line in follower.log.read_text().splitlines() if not line.startswith("waiting: ")]
    assert followed == installed.pod_log("train").splitlines(), "--follow is the whole log, to its end"
    report(_arms(rollout))


def _drive(installed: Installed, report: Report, at: Callable[[str], None]) -> tuple[list[str], set[str]]:
    """Wait for the rollout's end, killing the operator at each moment; returns those, and the Jobs' UIDs.

    ``at``: called before each kill.
    """
    kills: list[str] = []
    seen: set[str] = set()
    started = time.monotonic()
    while time.monotonic() - started < RUN_LIMIT_S:
        job = installed.status("distilljob", "reach-around")
        rollout = installed.status("studentrollout", "reach-around")
        seen |= {found["metadata"]["uid"] for found in installed.jobs()}
        due = [name for name, is_now in MOMENTS if name not in kills and is_now(job, rollout)]
        if due:
            at(due[0])
            installed.kill_operator()
            kills.append(due[0])
            report(f"{time.monotonic() - started:.0f} s: killed the operator while {due[0]}")
            installed.wait_for_operator()
        if "completionTime" in rollout:
            report(f"{time.monotonic() - started:.0f} s: {rollout['phase']}")
            return kills, seen
        time.sleep(0.5)
    pytest.fail(f"the rollout did not end within {RUN_LIMIT_S:.0f} s: {rollout}")


def _arms(rollout: dict[str, Any]) -> str:
    return "in pods: " + ", ".join(f"{arm['name']} {arm['success']:.1%}" for arm in rollout["arms"])


def test_the_logs_of_children_are_read_after_their_end(installed: Installed) -> None:
    """Needs the quickstart's pods from the test before."""
    trained = installed.pod_log("train")
    assert trained
    for flags in ((), ("--follow",), ("--role", "train")):
        assert installed.logs("dj/reach-around", *flags) == trained
    assert installed.logs("dj/reach-around", "--tail", "2").split("\n") == trained.split("\n")[-3:]
    for role in ("parity", "rollouts", "judge"):
        assert installed.logs("sr/reach-around", "--role", role) == installed.pod_log(role)
    assert installed.logs("sr/reach-around") == installed.pod_log("judge"), "without a role it is of the newest"


def test_the_student_is_served_by_the_example_deployment(installed: Installed) -> None:
    """Needs the quickstart's student from the test before."""
    student = installed.status("studentrollout", "reach-around")["student"]
    documents = list(yaml.safe_load_all((ROOT / "examples" / "deployment" / "deployment.yaml").read_text()))
    documents[0]["data"]["FLOWSTILL_POLICY"] = f"{student['uri']}@{student['digest']}"
    documents[1]["spec"]["template"]["spec"]["containers"][0]["image"] = installed.images["evaluator"]
    kubectl = installed.node.plane.kubectl
    kubectl("apply", "--namespace", installed.namespace, "-f", "-", stdin=yaml.safe_dump_all(documents))
    kubectl("rollout", "status", "--namespace", installed.namespace, "deployment/robot-policy", "--timeout=180s")
    log = kubectl("logs", "--namespace", installed.namespace, "deployment/robot-policy")
    assert student["digest"] in log
    assert "draws=8" in log


@pytest.mark.long
def test_a_judged_student_takes_the_teachers_place_on_a_running_deployment(installed: Installed) -> None:
    """Needs the quickstart's student, whose verdict counts here too; the window is cut to what a test can wait for."""
    kubectl, examples = installed.node.plane.kubectl, ROOT / "examples" / "deployment"
    here = ("--namespace", installed.namespace)
    installed.apply(examples / "deployment.yaml")
    kubectl("rollout", "status", *here, "deployment/robot-policy", "--timeout=180s")
    rollout = yaml.safe_load((examples / "studentrollout.yaml").read_text())
    rollout["metadata"]["namespace"] = installed.namespace
    rollout["spec"]["monitoring"] |= {"window": "30s", "interval": "10s"}
    installed.node.plane.apply(rollout)
    done = "--for=jsonpath={.status.phase}=Completed"
    kubectl("wait", *here, done, "studentrollout/reach-around-served", "--timeout=900s")
    status = installed.status("studentrollout", "reach-around-served")
    student, conditions = status["student"], {found["type"]: found["reason"] for found in status["conditions"]}
    assert (conditions["Evaluated"], conditions["Monitored"]) == ("Reused", "WindowPassed")
    deployment = installed.get("deployment", "robot-policy")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    served = {entry["name"]: entry.get("value") for entry in container["env"]}["FLOWSTILL_POLICY"]
    assert served == deployment["metadata"]["annotations"]["flowstill.dev/last-completed"]
    assert served == f"{student['uri']}@{student['digest']}"
    pods = installed.get("pods", "--selector", "app=robot-policy")["items"]
    newest = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))  # the one before may still be ending
    assert student["digest"] in kubectl("logs", *here, newest["metadata"]["name"])


def test_a_teacher_that_is_not_there_fails_with_its_path_after_one_pod(installed: Installed) -> None:
    runtime = {"gpusPerNode": 0}
    installed.node.plane.apply(
        distill_job("lost", installed.namespace, teacher={"uri": "store://teachers/lost"}, runtime=runtime)
    )
    installed.node.plane.kubectl(
        "wait", "--namespace", installed.namespace, "--for=condition=Failed", "distilljob/lost", "--timeout=180s"
    )
    status = installed.status("distilljob", "lost")
    (failed,) = [found for found in status["conditions"] if found["type"] == "Failed"]
    assert failed["reason"] == "ArtifactUnreadable"
    assert "spec.teacher.uri" in failed["message"]
    assert "teachers/lost" in failed["message"]
    pods = installed.get("pods", "--selector", "flowstill.dev/owner-name=lost")["items"]
    assert len(pods) == 1
