"""Training on several nodes in real containers: names, ranks that meet, and the trainer itself."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from flowstill_operator.distilljob import manifests
from flowstill_operator.distilljob.observe import read_resource
from flowstill_operator.distilljob.plan import plan
from flowstill_operator.indexed import rank_service
from flowstill_operator.platform import kubernetes_platform
from tests.cluster.harness.node import Node
from tests.cluster.waiting import until
from tests.unit.operator.builders import NOW, distill_spec, resource

pytestmark = [pytest.mark.containers, pytest.mark.long]

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
