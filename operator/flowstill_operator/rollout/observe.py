"""Gathering what the plan of a StudentRollout decides on."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from pydantic import ValidationError

from flowstill.api.actions import Request, read_requests
from flowstill.api.distilljob import DistillJobStatus
from flowstill.api.fields import StatusRef
from flowstill.api.monitoring import Monitoring
from flowstill.api.studentrollout import StudentRolloutSpec, StudentRolloutStatus
from flowstill_operator import suspension
from flowstill_operator.actions import find_children, pending
from flowstill_operator.children import MISSING, Child, Document
from flowstill_operator.cleanup import known_children
from flowstill_operator.clusters.interface import Reads
from flowstill_operator.jobs import Owner
from flowstill_operator.observation import INVALID_SPEC, explain, observe_child, owner_of
from flowstill_operator.platform import Platform
from flowstill_operator.rollout.promote import Target, read_target, reference
from flowstill_operator.rollout.refusals import place_problem
from flowstill_operator.rollout.signals import Check, is_due, restarts_by_pod
from flowstill_operator.steps import ChildJob, Problem, Role, started

TERMINAL = frozenset({"Completed", "Rejected", "Inconclusive", "Superseded", "RolledBack", "Failed"})
STEPS: tuple[tuple[Role, str], ...] = (
    ("parity", "Validated"),
    ("rollouts", "Evaluated"),
    ("judge", "GatesPassed"),
)
"""Each child, and the condition that says how far it is."""
MORE_EPISODES, UNDECIDED = "MoreEpisodes", "Undecided"
"""The reasons of Evaluated and GatesPassed when another round is decided on, and its Jobs are not made yet."""
WAITING_FOR_DISTILL_JOB, WAITING_FOR_TARGET = "WaitingForDistillJob", "WaitingForTarget"
NOT_STARTED = (
    "Pending",
    WAITING_FOR_DISTILL_JOB,
    WAITING_FOR_TARGET,
    MORE_EPISODES,
    UNDECIDED,
    *suspension.REASONS,
)


@dataclass(frozen=True)
class Distilled:
    """The DistillJob that a rollout waits for."""

    exists: bool = False
    phase: str = "Pending"
    message: str = ""
    student: StatusRef | None = None


@dataclass(frozen=True)
class Observed:
    """One StudentRollout, the child it is at, its target, and what people ask for.

    ``jobs``: all its Jobs; looked for when a request may need them, or when it has ended. ``check``: the signals of
    what is watched, when they were to be looked at. ``unwatched``: the rollout whose student the target serves, and of
    which the target says that it watches, has ended or was deleted.
    """

    owner: Owner
    generation: int
    spec: StudentRolloutSpec | None
    problem: Problem | None
    status: StudentRolloutStatus
    image: str
    distilled: Distilled = Distilled()
    children: Mapping[Role, Child] = field(default_factory=dict)
    readers: Mapping[Role, Child] = field(default_factory=dict)
    target: Target | None = None
    target_refused: Problem | None = None
    requests: tuple[Request, ...] = ()
    jobs: tuple[ChildJob, ...] = ()
    check: Check | None = None
    unwatched: bool = False

    @property
    def rounds(self) -> tuple[int, ...]:
        """Episodes of every task in each round so far, the present one last."""
        first = self.spec.evaluation.episodes_per_task if self.spec is not None else 1
        return tuple(self.status.rounds) or (first,)

    def round_of(self, role: Role) -> int:
        """Which Job of that role it is at: parity is measured once."""
        return 1 if role == "parity" else len(self.rounds)

    def shards(self, number: int) -> int:
        """Shards of that round (from 1); none has no episode at all."""
        evaluation = self.spec.evaluation if self.spec is not None else None
        return min(evaluation.shards, len(evaluation.tasks) * self.rounds[number - 1]) if evaluation else 1

    def child(self, role: Role) -> Child:
        """The child of that role."""
        return self.children.get(role, MISSING)

    def reader(self, role: Role) -> Child:
        """The reader of that role."""
        return self.readers.get(role, MISSING)


def read_resource(resource: Document, platform: Platform) -> Observed:
    """The resource itself, without what surrounds it."""
    status = StudentRolloutStatus.model_validate(resource.get("status") or {})
    spec: StudentRolloutSpec | None = None
    image = platform.evaluator_image
    try:
        spec = StudentRolloutSpec.model_validate(resource.get("spec"), by_alias=True, by_name=False)
        problem = place_problem(spec, resource["spec"], status, platform)
        image = spec.runtime.image or image
    except ValidationError as error:
        problem = Problem(INVALID_SPEC, explain(error))
    generation = resource["metadata"].get("generation", 0)
    requests = read_requests(resource["metadata"].get("annotations"))
    return Observed(owner_of(resource), generation, spec, problem, status, status.image or image, requests=requests)


async def observe(cluster: Reads, resource: Document, platform: Platform, now: datetime) -> Observed:
    """The resource, the DistillJob it waits for, the child it is at, and its target, as they are now."""
    observed = read_resource(resource, platform)
    spec, status, ended = observed.spec, observed.status, observed.status.phase in TERMINAL
    if pending(observed.requests, status.actions, ended=ended) is not None:
        observed = replace(observed, jobs=await find_children(cluster, observed.owner))
    elif ended and observed.spec is not None:
        observed = replace(observed, jobs=await known_children(cluster, observed.owner, observed.spec.runtime))
    if ended and spec is not None and spec.target is not None:
        # What has ended costs no request: what its Deployment serves was heard.
        deployment = await cluster.known_deployment(observed.owner.namespace, spec.target.deployment.name)
        if deployment is not None:
            return replace(observed, target=read_target(deployment, spec.target.deployment))
    if ended or observed.problem is not None or spec is None:
        return observed
    if spec.student.distill_job is not None and status.student is None:
        name = spec.student.distill_job
        distilled = read_distilled(await cluster.get("DistillJob", observed.owner.namespace, name))
        observed = replace(observed, distilled=distilled)
    if spec.monitoring is not None and not status.conditions:
        problem = await _unaskable(cluster, spec.monitoring)
        if problem is not None:
            return replace(observed, problem=problem)
    if spec.target is not None:
        wanted = spec.target.deployment
        deployment = await cluster.get("Deployment", observed.owner.namespace, wanted.name)
        observed = replace(observed, target=read_target(deployment, wanted))
    if is_replaced(status, observed.target, observed.owner.uid):
        return replace(observed, jobs=await find_children(cluster, observed.owner))
    role = current_role(status)
    if role is None:
        unwatched = await _unwatched(cluster, observed, now)
        return replace(observed, check=await _check(cluster, observed, spec, now), unwatched=unwatched)
    begun = started(status.conditions, dict(STEPS)[role], NOT_STARTED)
    number = observed.round_of(role)
    child, reader = await observe_child(
        cluster,
        observed.owner,
        role,
        started=begun,
        look=True,
        number=number,
        indexed=role == "rollouts" and observed.shards(number) > 1,
    )
    return replace(observed, children={role: child}, readers={role: reader})


def is_replaced(status: StudentRolloutStatus, target: Target | None, uid: str) -> bool:
    """Whether the target serves something else than what is compared with, before this rollout has promoted."""
    if target is None or target.problem is not None or status.start_time is None:
        return False
    return target.rollout != uid and status.promotion_time is None and target.served != status.previous


def waits_for(observed: Observed, now: datetime) -> str | None:
    """UID of the rollout whose student the target serves until its window is over; None where nobody waits for one."""
    target = observed.target
    if target is None or observed.status.promotion_time is not None or target.rollout in ("", observed.owner.uid):
        return None
    return target.rollout if target.soaking_until is not None and target.soaking_until > now else None


async def _unwatched(cluster: Reads, observed: Observed, now: datetime) -> bool:
    """Whether whoever is waited for watches no more: it may leave the record of it behind."""
    uid = waits_for(observed, now)
    if uid is None:
        return False
    other = await cluster.find_rollout(observed.owner.namespace, uid)
    return other is None or (other.get("status") or {}).get("phase") in TERMINAL


async def _unaskable(cluster: Reads, monitoring: Monitoring) -> Problem | None:
    """Queries that Prometheus cannot parse, said before hours are spent on what they should watch."""
    samples = await asyncio.gather(*(cluster.measure(query.query) for query in monitoring.queries))
    refused = [
        f"spec.monitoring.queries, {query.name}: {sample.why}; create a rollout with a new name and another query"
        for query, sample in zip(monitoring.queries, samples, strict=True)
        if sample.refused
    ]
    return Problem("QueryRefused", "; ".join(refused)) if refused else None


async def _check(cluster: Reads, observed: Observed, spec: StudentRolloutSpec, now: datetime) -> Check | None:
    """All signals of the student that is watched, when it is time to look; none of a target that serves another."""
    monitoring, target, student = spec.monitoring, observed.target, observed.status.student
    if monitoring is None or spec.target is None or target is None or student is None:
        return None
    if not is_due(monitoring, observed.status, now) or target.served != reference(student):
        return None
    pods = await cluster.find_pods(observed.owner.namespace, target.selector)
    wanted = spec.target.deployment
    samples = await asyncio.gather(*(cluster.measure(query.query) for query in monitoring.queries))
    return Check(
        restarts_by_pod(pods, wanted.name, target.container, wanted.env, target.served),
        {query.name: sample for query, sample in zip(monitoring.queries, samples, strict=True)},
    )


def current_role(status: StudentRolloutStatus) -> Role | None:
    """The first child whose decision is not in the status yet."""
    true = {condition.type for condition in status.conditions if condition.status == "True"}
    return next((role for role, kind in STEPS if kind not in true), None)


def read_distilled(resource: Document | None) -> Distilled:
    """What a rollout needs to know of its DistillJob."""
    if resource is None:
        return Distilled()
    status = DistillJobStatus.model_validate(resource.get("status") or {})
    return Distilled(True, status.phase, status.message or "", status.student)
