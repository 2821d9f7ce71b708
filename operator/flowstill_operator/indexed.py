"""Training as several processes: on the GPUs of one pod, or on several nodes as an Indexed Job with a Service.

Ranks find each other by stable names, ``JOB-INDEX.SERVICE``, so a Job of another attempt has ranks of other names.
"""

from flowstill.api import GROUP
from flowstill.api.runtime import Runtime
from flowstill_operator.children import Document
from flowstill_operator.jobs import Owner, child_name
from flowstill_operator.platform import Platform
from flowstill_operator.steps import Wanted

PYTHON = ("python3", "-m")
RENDEZVOUS_PORT = 29500
SELECTED_BY = tuple(f"{GROUP}/{key}" for key in ("owner-kind", "owner-name", "role"))


def service_name(owner: Owner) -> str:
    """One Service for all attempts. Its name begins with a letter, as a Service's must and a resource's need not."""
    return f"ranks-{owner.name[:40].rstrip('-.').replace('.', '-')}-{owner.hash}"


def training_command(owner: Owner, wanted: Wanted, runtime: Runtime, platform: Platform) -> list[str]:
    """The trainer's command, without ``--spec`` and ``--output``: by its launcher when it is more than one process.

    On several nodes nothing begins before all pods have a place. On this machine it is one process, which uses the GPU
    that it finds.
    """
    processes = max(1, runtime.gpus_per_node)
    if platform.name == "local" or (runtime.nodes == 1 and processes == 1):
        return ["flowstill-train"]
    launch = [*PYTHON, "flowstill_trainer.launch", "--nproc-per-node", str(processes)]
    if runtime.nodes == 1:
        return [*launch, "--"]
    job, service, nodes = (
        child_name(owner, wanted.role, attempt=wanted.attempt),
        service_name(owner),
        str(runtime.nodes),
    )
    meet = [*PYTHON, "flowstill_trainer.meet", "--nodes", nodes, "--job", job, "--service", service, "--"]
    launch += ["--nnodes", nodes, "--node-rank", "$(JOB_COMPLETION_INDEX)"]
    launch += ["--master-addr", f"{job}-0.{service}", "--master-port", str(RENDEZVOUS_PORT)]
    return [*meet, *launch, "--"]


def over_nodes(job: Document, owner: Owner, nodes: int) -> Document:
    """The Job with one pod for each node, and no second try of its own: one attempt of all ranks or none."""
    spec = job["spec"]
    fail, disrupted = spec["podFailurePolicy"]["rules"]
    template = spec["template"]
    return {
        **job,
        "spec": {
            **spec,
            "completionMode": "Indexed",
            "completions": nodes,
            "parallelism": nodes,
            "backoffLimit": 0,
            # A replaced rank would find the others in the middle of a step.
            "podFailurePolicy": {"rules": [fail, {**disrupted, "action": "FailJob"}]},
            "template": {**template, "spec": {**template["spec"], "subdomain": service_name(owner)}},
        },
    }


def rank_service(job: Document) -> Document | None:
    """The headless Service that gives the pods of that Job their names; None when it has one pod at a time."""
    name = job["spec"]["template"]["spec"].get("subdomain")
    if name is None:
        return None
    metadata = job["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**metadata, "name": name},
        "spec": {
            "clusterIP": "None",
            # Ranks look for each other before any of them is ready.
            "publishNotReadyAddresses": True,
            "selector": {key: metadata["labels"][key] for key in SELECTED_BY},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
        },
    }
