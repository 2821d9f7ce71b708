"""Gathering what the plan of a DistillJob decides on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from pydantic import ValidationError

from flowstill.api.distilljob import DistillJobSpec, DistillJobStatus
from flowstill_operator.children import MISSING, Child, Document
from flowstill_operator.clusters.interface import Cluster
from flowstill_operator.jobs import Owner
from flowstill_operator.observation import explain, observe_child, owner_of, platform_problem, uri_fields
from flowstill_operator.platform import Platform
from flowstill_operator.steps import RUNNING_LOOK_SECONDS, Problem, Role, parse_timestamp, started

TERMINAL = frozenset({"Succeeded", "Failed"})
NOT_STARTED = ("Pending",)
PARITY = "ParityVerified"
STEPS: tuple[tuple[Role, str], ...] = (("train", "Trained"), ("parity", PARITY))
"""Each child, and the condition that says how far it is."""


@dataclass(frozen=True)
class Observed:
    """One DistillJob and the child it is at. ``spec`` is None when ``problem`` says why.

    Attributes:
        image: of the trainer; pinned once it is in the status.
        validation_image: of the evaluator today; the plan pins it when its child starts.
    """

    owner: Owner
    generation: int
    spec: DistillJobSpec | None
    problem: Problem | None
    status: DistillJobStatus
    image: str
    validation_image: str
    children: Mapping[Role, Child] = field(default_factory=dict)
    readers: Mapping[Role, Child] = field(default_factory=dict)

    def child(self, role: Role) -> Child:
        """The child of that role."""
        return self.children.get(role, MISSING)

    def reader(self, role: Role) -> Child:
        """The reader of that role."""
        return self.readers.get(role, MISSING)


def read_resource(resource: Document, platform: Platform) -> Observed:
    """The resource itself, without its child."""
    status = DistillJobStatus.model_validate(resource.get("status") or {})
    spec: DistillJobSpec | None = None
    image = platform.trainer_image
    try:
        spec = DistillJobSpec.model_validate(resource.get("spec"))
        problem = platform_problem(uri_fields(resource["spec"]), spec.runtime, platform)
        image = spec.runtime.image or image
    except ValidationError as error:
        problem = Problem("InvalidSpec", explain(error))
    generation = resource["metadata"].get("generation", 0)
    return Observed(
        owner_of(resource),
        generation,
        spec,
        problem,
        status,
        image=status.image or image,
        # spec.runtime.image is the trainer's.
        validation_image=platform.evaluator_image,
    )


async def observe(cluster: Cluster, resource: Document, platform: Platform, now: datetime) -> Observed:
    """The resource and the child it is at, as they are now."""
    observed = read_resource(resource, platform)
    status = observed.status
    if status.phase in TERMINAL or observed.problem is not None:
        return observed
    role = current_role(status)
    child, reader = await observe_child(
        cluster,
        observed.owner,
        role,
        started=started(status.conditions, dict(STEPS)[role], NOT_STARTED),
        look=role != "train" or _look_is_due(status, now),
    )
    return replace(observed, children={role: child}, readers={role: reader})


def current_role(status: DistillJobStatus) -> Role:
    """The child whose decision is not in the status yet; the status ends with the last one's."""
    trained = any(condition.type == "Trained" and condition.status == "True" for condition in status.conditions)
    return "parity" if trained else "train"


def _look_is_due(status: DistillJobStatus, now: datetime) -> bool:
    if status.progress is None or status.progress.last_updated_time is None:
        return True
    since = now - parse_timestamp(status.progress.last_updated_time)
    return abs(since.total_seconds()) >= RUNNING_LOOK_SECONDS - 1
