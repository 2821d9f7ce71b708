"""``spec.runtime``: where and how a child runs; a small typed subset of a pod template."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from flowstill.api.affinity import Affinity
from flowstill.api.fields import Label, Model, Name, ShortText, written

_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
Quantity = Annotated[
    str,
    Field(max_length=32, pattern=_QUANTITY),
    written(_QUANTITY, 'a quantity of Kubernetes as text, such as "4", 500m or 16Gi'),
]


class Resources(Model):
    """Requests and limits of the child's container."""

    requests: Annotated[dict[Label, Quantity], Field(max_length=16)] = Field(default_factory=dict)
    limits: Annotated[dict[Label, Quantity], Field(max_length=16)] = Field(default_factory=dict)


class Toleration(Model):
    """A taint that the child's pod may be placed on."""

    key: Annotated[str, Field(max_length=316)] | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: Label | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class EnvVar(Model):
    """A plain environment variable; names starting with ``FLOWSTILL_`` belong to Flowstill."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    value: Annotated[str, Field(max_length=1024)] = ""


OURS = ("/tmp", "/home/flowstill", "/dev/shm", "/etc/flowstill", "/var/run/flowstill")
"""Folders of a child that Flowstill mounts itself."""


def _free(path: str) -> str:
    """Refuse a folder inside one of Flowstill's own, or around it."""
    clean = path.rstrip("/")
    if not clean or ".." in clean.split("/"):
        raise ValueError(f"{path} must be a folder below / without '..'")
    for ours in OURS:
        if f"{clean}/".startswith(f"{ours}/") or ours.startswith(f"{clean}/"):
            raise ValueError(
                f"{path} is or holds {ours}, which belongs to Flowstill; take another folder, such as /assets"
            )
    return path


class Volume(Model):
    """A PersistentVolumeClaim of the resource's namespace in the children's container."""

    claim: Name
    mount_path: Annotated[
        str,
        Field(min_length=2, max_length=256, pattern=r"^/[A-Za-z0-9._/-]+$", description="Such as /assets."),
        AfterValidator(_free),
    ]
    read_only: bool = True


class Runtime(Model):
    """How a child runs. ``image`` replaces the chart's image for the trainer or the evaluator."""

    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    nodes: Annotated[
        int, Field(ge=1, le=64, description="Pods of one training, each with resources and gpusPerNode of its own.")
    ] = 1
    gpus_per_node: Annotated[int, Field(ge=0, le=16, description="GPUs of a pod; training has a process for each.")] = 1
    resources: Resources | None = None
    node_selector: Annotated[dict[str, Label], Field(max_length=16)] = Field(default_factory=dict)
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = Field(default_factory=list)
    affinity: Affinity | None = None
    env: Annotated[list[EnvVar], Field(max_length=32)] = Field(default_factory=list)
    volumes: Annotated[
        list[Volume],
        Field(
            max_length=16, description="Further claims, for example with a simulator's assets. The store mounts itself."
        ),
    ] = Field(default_factory=list)
    labels: Annotated[dict[str, Label], Field(max_length=16)] = Field(default_factory=dict)
    annotations: Annotated[dict[str, ShortText], Field(max_length=16)] = Field(default_factory=dict)
    service_account_name: Name | None = None
    image_pull_secrets: Annotated[list[Name], Field(max_length=8)] = Field(default_factory=list)
    runtime_class_name: Name | None = None
    priority_class_name: Name | None = None
    queue_name: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=63,
                pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
                description="Kueue's LocalQueue in the resource's namespace, which admits its Jobs.",
            ),
        ]
        | None
    ) = None
    shm_size: Quantity = "2Gi"
    active_deadline_seconds: (
        Annotated[
            int, Field(ge=1, le=31_536_000, description="Of a child, without the time for which it is suspended.")
        ]
        | None
    ) = None
    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=3600)] = 120
    backoff_limit: Annotated[int, Field(ge=0, le=20)] = 3
    ttl_seconds_after_finished: (
        Annotated[
            int,
            Field(
                ge=0, le=31_536_000, description="After the resource has ended, its Jobs are deleted. May be changed."
            ),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _mounts_differ(self) -> "Runtime":
        paths = [volume.mount_path.rstrip("/") for volume in self.volumes]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice is not None:
            raise ValueError(f"spec.runtime.volumes: {twice} is the mountPath of two volumes; give each its own")
        return self
