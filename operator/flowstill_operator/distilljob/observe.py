"""Gathering what the plan of a DistillJob decides on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from pydantic import ValidationError

from flowstill.api.actions import Request, read_requests
from flowstill.api.conditions import find_condition
from flowstill.api.distilljob import DistillJobSpec, DistillJobStatus
from flowstill_operator import suspension
from flowstill_operator.actions import find_children, pending
from flowstill_operator.children import MISSING, Child, Document
from flowstill_operator.cleanup import known_children
from flowstill_operator.clusters.interface import JOB_NAME_LABEL, Reads
from flowstill_operator.jobs import Owner, child_selector
from flowstill_operator.observation import INVALID_SPEC, explain, observe_child, owner_of, platform_problem, uri_fields
from flowstill_operator.platform import Platform
from flowstill_operator.ranks import is_ended
from flowstill_operator.steps import RUNNING_LOOK_SECONDS, ChildJob, Problem, Role, parse_timestamp, started
from flowstill_operator.told import size_problem

TERMINAL = frozenset({"Succeeded", "Failed"})
RESTARTING = "Restarting"
"""The attempt that ``status.attempts`` counts is decided on, and its Job is not made yet."""
NOT_STARTED = ("Pending", RESTARTING, *suspension.REASONS)
PARITY = "ParityVerified"
STEPS: tuple[tuple[Role, str], ...] = (("train", "Trained"), ("parity", PARITY))
"""Each child, and the condition that says how far it is."""


@dataclass(frozen=True)
class Observed:
    """One DistillJob and the child it is at. ``spec`` is None when ``problem`` says why.

    Attributes:
        image: of the trainer; pinned once it is in the status.
        validation_image: of the evaluator today; the plan pins it when its child starts.
        pods_left: pods of earlier attempts that have not ended; looked for when an attempt is over or about to begin,
            on one node after a suspension only.
        requests: what people ask for.
        jobs: all its Jobs; looked for when a request may need them, or when it has ended.
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
    pods_left: tuple[str, ...] = ()
    requests: tuple[Request, ...] = ()
    jobs: tuple[ChildJob, ...] = ()

    @property
    def attempt(self) -> int:
        """Which attempt of a training on several nodes it is, from 1; 0 on one node, where the Job counts them."""
        several = self.spec is not None and self.spec.runtime.nodes > 1
        return max(1, self.status.attempts) if several else 0

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
        spec = DistillJobSpec.model_validate(resource.get("spec"), by_alias=True, by_name=False)
        problem = platform_problem(uri_fields(resource["spec"]), spec.runtime, platform)
        problem = problem or size_problem(spec, spec.runtime, platform, tells_runtime=True)
        image = spec.runtime.image or image
    except ValidationError as error:
        problem = Problem(INVALID_SPEC, explain(error))
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
        requests=read_requests(resource["metadata"].get("annotations")),
    )


async def observe(cluster: Reads, resource: Document, platform: Platform, now: datetime) -> Observed:
    """The resource and the child it is at, as they are now."""
    observed = read_resource(resource, platform)
    status, ended = observed.status, observed.status.phase in TERMINAL
    if pending(observed.requests, status.actions, ended=ended) is not None:
        observed = replace(observed, jobs=await find_children(cluster, observed.owner))
    elif ended and observed.spec is not None:
        observed = replace(observed, jobs=await known_children(cluster, observed.owner, observed.spec.runtime))
    if ended or observed.problem is not None:
        return observed
    role = current_role(status)
    begun = started(status.conditions, dict(STEPS)[role], NOT_STARTED)
    condition = find_condition(status.conditions, dict(STEPS)[role])
    suspended = condition is not None and condition.reason in suspension.REASONS
    attempt = observed.attempt if role == "train" else 0
    child, reader = await observe_child(
        cluster,
        observed.owner,
        role,
        started=begun,
        look=role != "train" or _look_is_due(status, now),
        attempt=attempt,
    )
    between = child.state == "Failed" or (child.state == "Missing" and not begun)
    left = await _pods_left(cluster, observed.owner, role) if between and (attempt or suspended) else ()
    return replace(observed, children={role: child}, readers={role: reader}, pods_left=left)


async def _pods_left(cluster: Reads, owner: Owner, role: Role) -> tuple[str, ...]:
    """Pods of this resource's children of that role that have not ended, whatever became of their Jobs."""
    pods = await cluster.find_pods(owner.namespace, child_selector(owner, role))
    jobs = [(pod["metadata"].get("labels") or {}).get(JOB_NAME_LABEL, "") for pod in pods]
    ours = [pod for pod, job in zip(pods, jobs, strict=True) if job.endswith(f"-{owner.hash}")]
    return tuple(sorted(pod["metadata"]["name"] for pod in ours if not is_ended(pod)))


def current_role(status: DistillJobStatus) -> Role:
    """The child whose decision is not in the status yet; the status ends with the last one's."""
    trained = any(condition.type == "Trained" and condition.status == "True" for condition in status.conditions)
    return "parity" if trained else "train"


def _look_is_due(status: DistillJobStatus, now: datetime) -> bool:
    if status.progress is None or status.progress.last_updated_time is None:
        return True
    since = now - parse_timestamp(status.progress.last_updated_time)
    return abs(since.total_seconds()) >= RUNNING_LOOK_SECONDS - 1
