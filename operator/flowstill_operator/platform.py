"""What the place where children run offers; the same plans serve a cluster and a laptop."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from flowstill.api.safety import SafetyLimits
from flowstill_operator.remote_stores import RemoteStores

VOLUMES_ROOT = "/var/run/flowstill/volumes"


@dataclass(frozen=True)
class Platform:
    """One place.

    ``refused_schemes`` maps a URI scheme that cannot work here to what to do instead; ``prometheus``: there is one to
    ask; ``safety_limits``: how loose the safety gates of a spec may be.
    """

    name: Literal["kubernetes", "local"]
    trainer_image: str
    evaluator_image: str
    default_store: str | None
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    refused_schemes: Mapping[str, str] = field(default_factory=dict)
    targets: bool = True
    prometheus: bool = False
    safety_limits: SafetyLimits = field(default_factory=SafetyLimits)
    no_store_fix: str = "set the chart value store.uri"
    remote: RemoteStores | None = None
    """None: this place says nothing about buckets and the hub, and refuses none."""


def kubernetes_platform(
    trainer_image: str,
    evaluator_image: str,
    default_store: str | None,
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent",
    image_pull_secrets: tuple[str, ...] = (),
    *,
    remote: RemoteStores | None = None,
    prometheus: bool = False,
    safety_limits: SafetyLimits | None = None,
) -> Platform:
    """A cluster: a path of some machine means nothing in a pod, so ``file://`` is refused."""
    return Platform(
        name="kubernetes",
        trainer_image=trainer_image,
        evaluator_image=evaluator_image,
        default_store=default_store,
        image_pull_policy=image_pull_policy,
        image_pull_secrets=image_pull_secrets,
        prometheus=prometheus,
        safety_limits=safety_limits or SafetyLimits(),
        refused_schemes={"file": "a pod sees no path of another machine; use store://PATH or pvc://CLAIM/PATH"},
        remote=remote,
    )


def local_platform(default_store: str) -> Platform:
    """This machine: processes, a folder as the store, neither claims nor Deployments."""
    return Platform(
        name="local",
        trainer_image="local",
        evaluator_image="local",
        default_store=default_store,
        refused_schemes={
            "pvc": "there are no PersistentVolumeClaims in local mode; "
            "use file:///PATH, or store://PATH after `flowstill store push`"
        },
        targets=False,
        no_store_fix="give --store DIR",
    )
