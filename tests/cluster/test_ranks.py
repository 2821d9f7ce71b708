"""Training on several nodes in real containers: names, ranks that meet, and the trainer itself."""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowstill_operator.distilljob import manifests
from flowstill_operator.distilljob.observe import read_resource
from flowstill_operator.distilljob.plan import plan
from flowstill_operator.indexed import rank_service
from flowstill_operator.platform import kubernetes_platform
from flowstill_operator.ranks import INDEX_ANNOTATION
from tests.cluster.harness.node import Node
from tests.cluster.operator_process import installed_crds, running_operator
from tests.cluster.waiting import until
from tests.unit.operator.builders import NOW, distill_spec, resource

pytestmark = [pytest.mark.containers, pytest.mark.long]

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
NAME = "reach-around"
KILL_TRAINER = """
import os, pathlib, signal
for found in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if b"flowstill_trainer." + b"cli" in found.read_bytes():
        os.kill(int(found.parent.name), signal.SIGKILL)
"""
MEET = """
import os, torch, torch.distributed as dist
os.environ |= {"RANK": os.environ["JOB_COMPLETION_INDEX"], "WORLD_SIZE": "2"}
dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
open("/dev/termination-log", "w").write(f"rank {dist.get_rank()} of {dist.get_world_size()}: {total.item():g}")
dist.barrier()
os._exit(int(os.environ["END"]))
"""


@pytest.fixture(scope="module")
def named(node: Node) -> Node:
    """The node, whose pods resolve Services by name."""
    node.start_dns()
    return node


def job_of(namespace: str, image: str, end: int) -> dict[str, Any]:
    """The Job that the operator makes of a training on two nodes, with a small program in the trainer's place."""
    env = [{"name": "END", "value": str(end)}]
    runtime = {"nodes": 2, "gpusPerNode": 0, "image": image, "env": env}
    thing = resource("DistillJob", distill_spec(runtime=runtime))
    thing["metadata"]["namespace"] = namespace
    platform = kubernetes_platform("trainer", "evaluator", "pvc://flowstill-store", image_pull_policy="Never")
    observed = read_resource(thing, platform)
    [wanted] = plan(observed, NOW).create
    job = manifests.manifest(observed, wanted, platform)
    # Nothing of that kind is here that could own it.
    del job["metadata"]["ownerReferences"]
    [container] = job["spec"]["template"]["spec"]["containers"]
    command = container["command"]
    container["command"] = [*command[: command.index("--") + 1], "python3", "-c", MEET]
    told = dict(itertools.pairwise(command))
    container["env"] += [
        {"name": f"MASTER_{key}", "value": told[f"--master-{key.lower()}"]} for key in ("ADDR", "PORT")
    ]
    return job


@pytest.mark.parametrize(("end", "condition"), [(0, "Complete"), (65, "Failed")])
def test_ranks_of_two_pods_meet_and_the_job_sees_how_they_end(
    named: Node, node_namespace: str, tmp_path: Path, end: int, condition: str
) -> None:
    image = named.load(named.images.project("trainer"))
    named.volume("flowstill-store", tmp_path, node_namespace)
    job = job_of(node_namespace, image, end)
    service = rank_service(job)
    assert service is not None
    named.plane.apply(service, job)

    def ended() -> dict[str, Any] | None:
        found = named.plane.get("job", job["metadata"]["name"], "--namespace", node_namespace)
        terminal = [c for c in found["status"].get("conditions", []) if c["type"] in ("Complete", "Failed")]
        return terminal[0] if terminal else None

    def look() -> str:
        pods = named.plane.kubectl("get", "pods", "--namespace", node_namespace, "-o", "wide")
        logs = named.plane.kubectl(
            "logs", "--namespace", node_namespace, "--selector", "flowstill.dev/role=train", "--prefix"
        )
        return f"{pods}\n{logs}"

    last = until(ended, "the Job has ended", look, limit=420.0)
    assert last is not None
    assert last["type"] == condition, json.dumps(last)
    if end:
        assert last["reason"] == "PodFailurePolicy"
        assert "exit code 65" in last["message"]
        return
    pods = named.plane.get("pods", "--namespace", node_namespace)["items"]
    said = [pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] for pod in pods]
    assert sorted(said) == ["rank 0 of 2: 3", "rank 1 of 2: 3"]


@dataclass(frozen=True)
class Robots:
    """A namespace with a seeded store, on a cluster on which an operator works.

    Attributes:
        store: the folder behind the store's claim.
    """

    node: Node
    namespace: str
    image: str
    store: Path

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """In the namespace."""
        return self.node.plane.kubectl("--namespace", self.namespace, *arguments, stdin=stdin)

    def status(self) -> dict[str, Any]:
        """Of the DistillJob."""
        found: dict[str, Any] = self.node.plane.get("dj", NAME, "--namespace", self.namespace).get("status", {})
        return found

    def pods(self, attempt: int) -> dict[int, str]:
        """Names of that attempt's pods by their index."""
        found = self.node.plane.get("pods", "--namespace", self.namespace, "--selector", "flowstill.dev/role=train")
        prefix = f"{NAME}-train-{attempt}-"
        mine = [pod for pod in found["items"] if pod["metadata"]["name"].startswith(prefix)]
        return {int(pod["metadata"]["annotations"][INDEX_ANNOTATION]): pod["metadata"]["name"] for pod in mine}

    def look(self) -> str:
        """What a person would look at when it does not go on."""
        logs = self.kubectl("logs", "--selector", "flowstill.dev/role=train", "--prefix", "--tail=40")
        return "\n".join([json.dumps(self.status(), indent=1), self.kubectl("get", "jobs,pods", "-o", "wide"), logs])


@pytest.fixture
def robots(named: Node, node_namespace: str, tmp_path: Path) -> Iterator[Robots]:
    image = named.load(named.images.project("trainer"))
    store = tmp_path / "store"
    named.volume("flowstill-store", store, node_namespace)
    found = Robots(named, node_namespace, image, store)
    seed = (QUICKSTART / "seed.yaml").read_text().replace("image: flowstill-trainer:0.1.0", f"image: {image}")
    found.kubectl("apply", "-f", "-", stdin=seed)
    found.kubectl("wait", "--for=condition=Complete", "job/quickstart-seed", "--timeout=180s")
    with installed_crds(named.plane), running_operator(named.plane, tmp_path):
        yield found


def test_two_pods_train_one_student_though_a_rank_is_killed(robots: Robots) -> None:
    document = yaml.safe_load((QUICKSTART / "distilljob.yaml").read_text())
    spec = document["spec"]
    spec["method"] |= {"targetSteps": 2, "mixRatio": 0.5, "bankSize": 0}
    spec["training"] |= {"steps": 80, "batchSize": 16, "warmupSteps": 5, "checkpointEvery": 10}
    spec["runtime"] = {"nodes": 2, "gpusPerNode": 0, "image": robots.image, "backoffLimit": 1}
    document["metadata"]["namespace"] = robots.namespace
    robots.node.plane.apply(document)
    until(lambda: any(robots.store.glob("work/*/train/**/step-*")), "a checkpoint", robots.look, limit=300.0)
    robots.kubectl("exec", robots.pods(1)[1], "--", "python3", "-c", KILL_TRAINER)
    until(lambda: robots.status().get("attempts") == 2, "the second attempt", robots.look, limit=180.0)
    until(lambda: robots.status()["phase"] in ("Succeeded", "Failed"), "its end", robots.look, limit=300.0)
    status = robots.status()
    assert (status["phase"], status["attempts"], status["disruptions"]) == ("Succeeded", 2, 0), robots.look()
    second = robots.pods(2)
    assert set(second) == {0, 1}
    log = robots.kubectl("logs", second[0])
    steps = [int(found) for found in re.findall(r"training\D{0,4}(\d+)", log)]
    assert steps[0] > 10, log
    assert list(robots.store.glob(f"students/{status['student']['digest'].replace(':', '-')}/manifest.json"))
