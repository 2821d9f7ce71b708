"""The Job of a child: the same shape for training and for evaluation."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flowstill.api import API_VERSION, GROUP
from flowstill.api.children import shard_work
from flowstill.api.runtime import Runtime
from flowstill_operator.children import CONTAINER, QUEUE_LABEL, USER_ERROR_EXIT_CODES, Document
from flowstill_operator.platform import VOLUMES_ROOT, Platform
from flowstill_operator.remote_stores import environment, mounts, volumes
from flowstill_operator.steps import Wanted

SPEC_ANNOTATION = f"{GROUP}/spec"
ROLE_LABEL = f"{GROUP}/role"
SPEC_FOLDER = "/etc/flowstill"
SPEC_FILE = f"{SPEC_FOLDER}/spec.json"
PROGRESS_PORT = 8090
OWNER_KIND, OWNER_NAME = f"{GROUP}/owner-kind", f"{GROUP}/owner-name"
GPU = "nvidia.com/gpu"
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""What every container of an Indexed Job is told."""
INDEX_REFERENCE = f"$({INDEX_VARIABLE})"
USER_ID = 65532

MAX_LABEL = 63
READER_PROGRAM = (
    "import json,os,sys;"
    "paths=[os.path.join(folder,'result.json') for folder in sys.argv[1:]];"
    "found=[json.load(open(path,encoding='utf-8')) for path in paths if os.path.exists(path)];"
    "found.sort(key=lambda result:['UserError','Error','Interrupted','Succeeded'].index(result['outcome']));"
    "whole=found and (len(found)==len(paths) or found[0]['outcome']=='UserError');"
    "whole or sys.exit(f'{len(found)} of {len(paths)} folders hold a result.json');"
    "path=os.environ.get('FLOWSTILL_TERMINATION_LOG','/dev/termination-log');"
    "open(path,'w',encoding='utf-8').write(json.dumps(found[0],ensure_ascii=False,separators=(',',':')))"
)
"""Says what the child said whose work folder is given. Of several shards the worst; a user's error speaks for all."""


@dataclass(frozen=True)
class Owner:
    """The resource that a child belongs to."""

    kind: str
    namespace: str
    name: str
    uid: str

    @property
    def hash(self) -> str:
        """Of the UID: the end of every child's name."""
        return hashlib.sha256(self.uid.encode()).hexdigest()[:8]


def child_name(
    owner: Owner, role: str, *, reader: bool = False, attempt: int = 0, number: int = 1, indexed: bool = False
) -> str:
    """``NAME-ROLE-HASH``: the same for every life of the operator, another for a re-created resource.

    Args:
        owner: whose child.
        role: of the child.
        reader: of the one that reads what the child left behind: ``NAME-ROLE-read-HASH``.
        attempt: of a child that the operator tries again by itself, from 1: ``NAME-ROLE-ATTEMPT-HASH``.
        number: of the round, from 1, of a child that there is once a round: ``NAME-ROLE-2-HASH``.
        indexed: the Job has several pods at a time. Host names are made from its name and ``-INDEX``, so it has no
            dots, as it has not with an ``attempt``.
    """
    parts = [role, str(attempt) if attempt else "", str(number) if number > 1 else "", "read" if reader else ""]
    tail = "".join(f"-{part}" for part in (*parts, owner.hash) if part)
    longest = min(40, MAX_LABEL - len(tail) - (len("-63") if indexed else 0))
    name = owner.name[:longest].rstrip("-.")
    return f"{name.replace('.', '-') if attempt or indexed else name}{tail}"


def name_of(owner: Owner, wanted: Wanted) -> str:
    """The name of the Job that a plan wants."""
    return child_name(
        owner,
        wanted.role,
        reader=wanted.reader,
        attempt=wanted.attempt,
        number=wanted.round,
        indexed=wanted.shards > 1 and not wanted.reader,
    )


def work_uri(owner: Owner, role: str, number: int = 1) -> str:
    """The folder of one child, which survives its attempts; each round (from 1) has its own."""
    return f"store://work/{owner.uid}/{role}{f'-{number}' if number > 1 else ''}"


def resolve(uri: str, default_store: str, work: str | None = None) -> str:
    """The path at which a child finds ``uri``; ``work``: what ``store://work`` stands for, if it is no folder there."""
    scheme, _, rest = uri.partition("://")
    if scheme == "store" and work is not None and rest.startswith("work/"):
        return f"{resolve(work, work).rstrip('/')}/{rest.removeprefix('work/')}"
    if scheme == "store":
        return f"{resolve(default_store, default_store).rstrip('/')}/{rest}"
    return f"{VOLUMES_ROOT}/{rest}" if scheme == "pvc" else rest


def uris_in(value: object) -> Iterator[str]:
    """Every URI of ours in a JSON value."""
    if isinstance(value, str):
        if re.match(r"^(file|pvc|s3|hf|store)://", value):
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from uris_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from uris_in(item)


def claims_of(task: Document, default_store: str, work: str | None = None) -> list[str]:
    """The PersistentVolumeClaims that a task reads or writes, the default store's and the work's first."""
    uris = [default_store, *([work] if work else []), *uris_in(task)]
    claims = [uri.removeprefix("pvc://").split("/", 1)[0] for uri in uris if uri.startswith("pvc://")]
    return list(dict.fromkeys(claims))


def child_job(owner: Owner, wanted: Wanted, command: list[str], runtime: Runtime, platform: Platform) -> Document:
    """The manifest of a child's Job; ``command`` lacks ``--spec`` and ``--output``."""
    store = platform.default_store
    if store is None:
        raise ValueError("a child needs a default store")
    task = wanted.task.model_dump(mode="json", by_alias=True, exclude_none=True)
    labels = {**runtime.labels, **child_labels(owner, wanted.role)}
    queue = {} if runtime.queue_name is None else {QUEUE_LABEL: runtime.queue_name}
    work = resolve(wanted.task.work, store, _work_of(platform))
    folders = [shard_work(work, shard, wanted.shards) for shard in range(wanted.shards)]
    own = work if wanted.shards == 1 else f"{work}/{INDEX_REFERENCE}"
    reader = ["python3", "-c", READER_PROGRAM, *folders]
    program = reader if wanted.reader else [*command, "--spec", SPEC_FILE, "--output", own]
    spec: Document = {
        "backoffLimit": runtime.backoff_limit,
        "podFailurePolicy": _failure_policy(),
        "template": {
            "metadata": {
                "labels": labels,
                "annotations": {
                    **runtime.annotations,
                    SPEC_ANNOTATION: task_text(task),
                },
            },
            "spec": _pod_spec(wanted, program, task, runtime, platform, store),
        },
    }
    if runtime.active_deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = runtime.active_deadline_seconds
    metadata = {
        "name": name_of(owner, wanted),
        "namespace": owner.namespace,
        "labels": {**labels, **queue},
        "ownerReferences": [_controller(owner)],
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _failure_policy() -> Document:
    """A user's error is not tried again; what the cluster ends is, and does not count."""
    exit_codes = {"containerName": CONTAINER, "operator": "In", "values": list(USER_ERROR_EXIT_CODES)}
    return {
        "rules": [
            {"action": "FailJob", "onExitCodes": exit_codes},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        ]
    }


def _controller(owner: Owner) -> Document:
    """The reference by which the Job goes with its resource."""
    return {"apiVersion": API_VERSION, "kind": owner.kind, "name": owner.name, "uid": owner.uid, "controller": True}


def task_text(task: object) -> str:
    """The text of a task, as short as JSON can be: an escape takes up to three times the bytes of its letter."""
    return json.dumps(task, ensure_ascii=False, separators=(",", ":"))


def with_deadline_left(runtime: Runtime, spent: int | None) -> Runtime:
    """What a Job that begins now has left of ``activeDeadlineSeconds``; at least a second, which the API wants."""
    if runtime.active_deadline_seconds is None:
        return runtime
    return runtime.model_copy(
        update={"active_deadline_seconds": max(1, runtime.active_deadline_seconds - (spent or 0))}
    )


def child_labels(owner: Owner, role: str) -> dict[str, str]:
    """Labels of a child's Job and of its pods."""
    return {
        "app.kubernetes.io/name": "flowstill",
        "app.kubernetes.io/component": role,
        "app.kubernetes.io/managed-by": "flowstill-operator",
        **child_selector(owner, role),
    }


def child_selector(owner: Owner, role: str) -> dict[str, str]:
    """The labels that tell this resource's children of that role from others."""
    return {**owner_labels(owner), ROLE_LABEL: role}


def owner_labels(owner: Owner) -> dict[str, str]:
    """The labels that all children of a resource of this name have."""
    return {OWNER_KIND: owner.kind, OWNER_NAME: owner.name}


def _pod_spec(
    wanted: Wanted, program: list[str], task: Document, runtime: Runtime, platform: Platform, store: str
) -> Document:
    claims = claims_of(task, store, _work_of(platform))
    pod: Document = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": runtime.termination_grace_period_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(wanted, program, claims, runtime, platform, store)],
        "volumes": [*_volumes(claims, runtime), *(volumes(platform.remote) if platform.remote else [])],
    }
    secrets = list(dict.fromkeys([*platform.image_pull_secrets, *runtime.image_pull_secrets]))
    optional: Document = {
        "nodeSelector": runtime.node_selector,
        "tolerations": [t.model_dump(by_alias=True, exclude_none=True) for t in runtime.tolerations],
        "affinity": runtime.affinity.model_dump(by_alias=True, exclude_none=True) if runtime.affinity else None,
        "serviceAccountName": runtime.service_account_name,
        "imagePullSecrets": [{"name": name} for name in secrets],
        "runtimeClassName": runtime.runtime_class_name,
        "priorityClassName": runtime.priority_class_name,
    }
    pod.update({key: value for key, value in optional.items() if value})
    return pod


def _container(
    wanted: Wanted, program: list[str], claims: list[str], runtime: Runtime, platform: Platform, store: str
) -> Document:
    ours = {
        "FLOWSTILL_STORE": store,
        "FLOWSTILL_PROGRESS_PORT": str(PROGRESS_PORT),
        "HOME": "/home/flowstill",
        "HF_HUB_OFFLINE": "1",
    }
    theirs = {variable.name: variable.value for variable in runtime.env}
    # Who prints a file that lies on a claim needs no store.
    remote = None if wanted.reader else platform.remote
    stores = [] if remote is None else list(environment(remote, store))
    resources = _resources(runtime, gpus=0 if wanted.reader else runtime.gpus_per_node)
    return {
        "name": CONTAINER,
        "image": wanted.image,
        "imagePullPolicy": platform.image_pull_policy,
        "command": program,
        "env": [*({"name": name, "value": value} for name, value in {**theirs, **ours}.items()), *stores],
        "ports": [{"name": "progress", "containerPort": PROGRESS_PORT}],
        "resources": resources,
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "spec", "mountPath": SPEC_FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "home", "mountPath": "/home/flowstill"},
            {"name": "shm", "mountPath": "/dev/shm"},
            *({"name": f"claim-{i}", "mountPath": f"{VOLUMES_ROOT}/{claim}"} for i, claim in enumerate(claims)),
            *(
                {"name": f"volume-{i}", "mountPath": volume.mount_path, "readOnly": volume.read_only}
                for i, volume in enumerate(runtime.volumes)
            ),
            *(mounts(platform.remote) if platform.remote else []),
        ],
    }


def _work_of(platform: Platform) -> str | None:
    """Where children work, if not in a folder of the default store."""
    return None if platform.remote is None else platform.remote.work


def _resources(runtime: Runtime, gpus: int) -> Document:
    resources: Document = (
        runtime.resources.model_dump(by_alias=True, exclude_none=True) if runtime.resources is not None else {}
    )
    if gpus:
        resources["limits"] = {**resources.get("limits", {}), GPU: str(gpus)}
    return {key: value for key, value in resources.items() if value}


def _volumes(claims: list[str], runtime: Runtime) -> list[Document]:
    annotation = f"metadata.annotations['{SPEC_ANNOTATION}']"
    return [
        {
            "name": "spec",
            "downwardAPI": {"items": [{"path": "spec.json", "fieldRef": {"fieldPath": annotation}}]},
        },
        {"name": "tmp", "emptyDir": {}},
        {"name": "home", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": runtime.shm_size}},
        *({"name": f"claim-{i}", "persistentVolumeClaim": {"claimName": claim}} for i, claim in enumerate(claims)),
        *(
            {"name": f"volume-{i}", "persistentVolumeClaim": {"claimName": volume.claim, "readOnly": volume.read_only}}
            for i, volume in enumerate(runtime.volumes)
        ),
    ]
