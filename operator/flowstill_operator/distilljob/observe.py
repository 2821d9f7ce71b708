"""Gathering what the plan of a DistillJob decides on."""

from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from flowstill.api.distilljob import DistillJobSpec, DistillJobStatus
from flowstill_operator.children import MISSING, Child, Document
from flowstill_operator.clusters.interface import Cluster
from flowstill_operator.jobs import Owner
from flowstill_operator.observation import explain, observe_child, owner_of, platform_problem, uri_fields
from flowstill_operator.platform import Platform
from flowstill_operator.steps import RUNNING_LOOK_SECONDS, Problem, parse_timestamp, started

TERMINAL = frozenset({"Succeeded", "Failed"})
NOT_STARTED = ("Pending",)


@dataclass(frozen=True)
class Observed:
    """One DistillJob and its child. ``spec`` is None when ``problem`` says why."""

    owner: Owner
    generation: int
    spec: DistillJobSpec | None
    problem: Problem | None
    status: DistillJobStatus
    image: str
    child: Child = MISSING
    reader: Child = MISSING


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
    return Observed(owner_of(resource), generation, spec, problem, status, status.image or image)


async def observe(cluster: Cluster, resource: Document, platform: Platform, now: datetime) -> Observed:
    """The resource and its child as they are now."""
    observed = read_resource(resource, platform)
    if observed.status.phase in TERMINAL or observed.problem is not None:
        return observed
    child, reader = await observe_child(
        cluster,
        observed.owner,
        "train",
        started=started(observed.status.conditions, "Trained", NOT_STARTED),
        look=_look_is_due(observed.status, now),
    )
    return Observed(**{**observed.__dict__, "child": child, "reader": reader})


def _look_is_due(status: DistillJobStatus, now: datetime) -> bool:
    if status.progress is None or status.progress.last_updated_time is None:
        return True
    since = now - parse_timestamp(status.progress.last_updated_time)
    return abs(since.total_seconds()) >= RUNNING_LOOK_SECONDS - 1
