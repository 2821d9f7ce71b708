"""How the report of a rollout is read out of a store that only pods can see. Pure."""

import json
from typing import Any

from flowstill_operator.children import Document
from flowstill_operator.jobs import resolve

REPORT = "report.html"
KEPT = (
    "securityContext", "imagePullSecrets", "nodeSelector", "tolerations", "affinity", "runtimeClassName",
    "serviceAccountName",
)  # fmt: skip
"""Of the child's pod, which could mount the claim where it ran."""
LIFETIME_SECONDS = 600


def store_of(job: Document) -> str | None:
    """The default store, as a child's Job knows it."""
    env = job["spec"]["template"]["spec"]["containers"][0].get("env") or []
    found: str | None = next((entry.get("value") for entry in env if entry["name"] == "FLOWSTILL_STORE"), None)
    return found


def reader_pod(job: Document, name: str) -> Document:
    """A pod that sleeps beside the claims of that child, and can only read them."""
    template: dict[str, Any] = job["spec"]["template"]["spec"]
    container = template["containers"][0]
    claims = [volume for volume in template.get("volumes") or [] if "persistentVolumeClaim" in volume]
    names = {claim["name"] for claim in claims}
    mounts = [{**m, "readOnly": True} for m in container.get("volumeMounts") or [] if m["name"] in names]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": job["metadata"]["namespace"]},
        "spec": {
            **{key: template[key] for key in KEPT if key in template},
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "reader",
                    "image": container["image"],
                    "imagePullPolicy": container.get("imagePullPolicy", "IfNotPresent"),
                    "command": ["sleep", str(LIFETIME_SECONDS)],
                    "securityContext": container.get("securityContext") or {},
                    "volumeMounts": mounts,
                }
            ],
            "volumes": claims,
        },
    }


def how_to_read(resource: Document, uri: str, job: Document | None) -> str:
    """Why the report cannot be read from here, and the commands that bring it here."""
    name, namespace = resource["metadata"]["name"], resource["metadata"]["namespace"]
    store = None if job is None else store_of(job)
    why = f"{uri} lies in a store of the cluster, which this machine does not see"
    mounted = "give the folder as which it is mounted here by --store DIR"
    if store is not None and store.startswith("s3://"):
        return f"{uri} lies in {store}: give --store {store}, with AWS_ACCESS_KEY_ID and its like in your environment"
    if job is None or store is None:
        return (
            f"{why}, and no Job of {name} is left that says which claim it is: {mounted} (the chart's value store.uri)"
        )
    pod = f"{name[:40].rstrip('-.')}-report"
    path = f"{resolve(uri, store)}/{REPORT}"
    return (
        f"{why}: {mounted}, or read it by a pod:\n\n"
        f"kubectl apply -f - <<'END'\n{json.dumps(reader_pod(job, pod))}\nEND\n"
        f"kubectl wait -n {namespace} --for=condition=Ready pod/{pod}\n"
        f"kubectl exec -n {namespace} {pod} -- cat {path} > {name}-{REPORT}\n"
        f"kubectl delete pod -n {namespace} {pod}\n"
    )
