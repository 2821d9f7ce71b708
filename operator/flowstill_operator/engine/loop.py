"""One pass over one resource: observe, plan, apply, write the status, then say what happened."""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Protocol

from flowstill_operator.children import Document, owned_by
from flowstill_operator.clusters.heard import Unheard
from flowstill_operator.clusters.interface import (
    AlreadyExists,
    Cluster,
    Conflict,
    FieldOwned,
    Gone,
    Reads,
    Refused,
    Unavailable,
)
from flowstill_operator.distilljob import manifests as distilljob_manifests
from flowstill_operator.distilljob import observe as distilljob_observe
from flowstill_operator.distilljob import plan as distilljob_plan
from flowstill_operator.engine.news import Recorder, record
from flowstill_operator.engine.queue import KeyQueue
from flowstill_operator.engine.status import same_status, status_document
from flowstill_operator.indexed import rank_service
from flowstill_operator.platform import Platform
from flowstill_operator.rollout import manifests as rollout_manifests
from flowstill_operator.rollout import observe as rollout_observe
from flowstill_operator.rollout import plan as rollout_plan
from flowstill_operator.rollout.promote import deployment_patch
from flowstill_operator.steps import READING, Note, Plan, Wanted

log = logging.getLogger(__name__)

ResourceKind = Literal["DistillJob", "StudentRollout"]
CONFLICT_RETRY_SECONDS = 0.2
MAX_REFUSALS = 4
MAX_CAUSE = 960
"""Of an error's text in an event, whose message has 1,024 characters: when it is tried again is never cut off."""


class Key(NamedTuple):
    """One resource."""

    kind: ResourceKind
    namespace: str
    name: str


class Observer(Protocol):
    """Who counts what the loop does."""

    def passed(self, key: Key, outcome: str, seconds: float) -> None:
        """One pass ended."""

    def phase(self, key: Key, phase: str | None) -> None:
        """The resource is in that phase now; None: it is gone."""

    def child_created(self, role: str) -> None:
        """A child Job was created."""

    def wrote(self, kind: ResourceKind, before: Document, after: Document) -> None:
        """A status was written in place of another."""


class Silent:
    """An observer that counts nothing."""

    def passed(self, key: Key, outcome: str, seconds: float) -> None:
        """Nothing."""

    def phase(self, key: Key, phase: str | None) -> None:
        """Nothing."""

    def child_created(self, role: str) -> None:
        """Nothing."""

    def wrote(self, kind: ResourceKind, before: Document, after: Document) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Controller:
    """The pure and the gathering parts of one kind. The observation's type is the kind's own business."""

    observe: Callable[[Reads, Document, Platform, datetime], Awaitable[Any]]
    plan: Callable[[Any, datetime], Plan[Any]]
    manifest: Callable[[Any, Wanted, Platform], Document]
    child_refused: Callable[[Any, Wanted, str, str], Any]
    target_refused: Callable[[Any, str, str], Any]


def _no_target(observed: object, reason: str, message: str) -> object:
    raise ValueError(f"a DistillJob has no target: {reason}: {message}")


CONTROLLERS: dict[ResourceKind, Controller] = {
    "DistillJob": Controller(
        distilljob_observe.observe,
        distilljob_plan.plan,
        distilljob_manifests.manifest,
        distilljob_plan.child_refused,
        _no_target,
    ),
    "StudentRollout": Controller(
        rollout_observe.observe,
        rollout_plan.plan,
        rollout_manifests.manifest,
        rollout_plan.child_refused,
        rollout_plan.target_refused,
    ),
}


class Outcome(NamedTuple):
    """What a pass ended with: whether the resource is still there, its phase, and when to look again (s)."""

    exists: bool
    phase: str | None
    requeue_after: float | None


class Reconciler:
    """Brings one resource one pass further. Harmless when run twice or killed between any two lines.

    ``hearsay``: what was heard of. A pass looks there first and asks nobody when there is nothing to do or only to tell
    how far a child is; whatever decides something is decided again on what the API server says now. ``recorder``: who
    posts events; by default the cluster, at once.
    """

    def __init__(
        self,
        cluster: Cluster,
        platform: Platform,
        observer: Observer | None = None,
        now: Callable[[], datetime] | None = None,
        hearsay: Reads | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.cluster = cluster
        self.recorder = recorder or cluster
        self.hearsay = hearsay
        self.platform = platform
        self.observer: Observer = observer or Silent()
        self.now = now or (lambda: datetime.now(UTC))

    async def reconcile(self, key: Key, *, doubted: bool = False) -> Outcome:
        """One pass. Raises Conflict when somebody else wrote meanwhile; other errors are failed attempts.

        ``doubted``: what was heard of may be wrong, so it is asked for.
        """
        outcome = None if doubted else await self._by_hearsay(key)
        if outcome is not None:
            return outcome
        resource = await self.cluster.get(key.kind, key.namespace, key.name)
        if resource is None or resource["metadata"].get("deletionTimestamp"):
            return Outcome(False, None, None)
        controller = CONTROLLERS[key.kind]
        now = self.now()
        observed = await controller.observe(self.cluster, resource, self.platform, now)
        plan = await self._apply(controller, observed, now, key)
        return await self._write(key, resource, plan)

    async def _by_hearsay(self, key: Key) -> Outcome | None:
        """The same without a question; None when something has to be known for certain."""
        if self.hearsay is None:
            return None
        controller, now = CONTROLLERS[key.kind], self.now()
        try:
            resource = await self.hearsay.get(key.kind, key.namespace, key.name)
            if resource is None or resource["metadata"].get("deletionTimestamp"):
                return None
            observed = await controller.observe(self.hearsay, resource, self.platform, now)
        except Unheard:
            return None
        plan = controller.plan(observed, now)
        stored = resource.get("status") or {}
        if is_decisive(plan, stored):
            return None
        return await self._write(key, resource, plan)

    async def _write(self, key: Key, resource: Document, plan: Plan[Any]) -> Outcome:
        stored = resource.get("status") or {}
        wanted = status_document(plan.status, stored)
        if not same_status(wanted, stored):
            await self.cluster.write_status(resource, wanted)
            self._wrote(key, stored, wanted)
        for note in plan.events:
            await record(self.recorder, resource, note)
        return Outcome(True, plan.status.phase, plan.requeue_after)

    def _wrote(self, key: Key, before: Document, after: Document) -> None:
        self.observer.wrote(key.kind, before, after)
        phase = after.get("phase")
        if before.get("phase") != phase:
            about = {"kind": key.kind, "resource": f"{key.namespace}/{key.name}", "phase": phase}
            log.info("%s %s/%s is %s: %s", *key, phase, after.get("message") or "", extra=about)

    async def _apply(self, controller: Controller, observed: Any, now: datetime, key: Key) -> Plan[Any]:
        """Carry the plan out; what the API refuses for good is planned again as an observation."""
        for _ in range(MAX_REFUSALS):
            plan = controller.plan(observed, now)
            refused = await self._carry_out(controller, observed, plan, key)
            if refused is None:
                return plan
            observed = refused
        raise RuntimeError(f"{key.kind} {key.namespace}/{key.name}: the plan does not accept the API's refusals")

    async def _carry_out(self, controller: Controller, observed: Any, plan: Plan[Any], key: Key) -> Any | None:
        for wanted in plan.create:
            try:
                await self._create(
                    controller.manifest(observed, wanted, self.platform), observed.owner.uid, wanted.role
                )
            except Refused as refusal:
                return controller.child_refused(observed, wanted, refusal.reason, str(refusal))
        for doomed in plan.delete:
            await self.cluster.delete_job(key.namespace, doomed.name, doomed.uid)
        if plan.target is not None:
            try:
                await self.cluster.apply_deployment(deployment_patch(plan.target, key.namespace))
            except (Refused, FieldOwned, Gone) as refusal:
                return controller.target_refused(observed, refusal.reason, str(refusal))
        return None

    async def _create(self, job: Document, uid: str, role: str) -> None:
        """Create the Job, after the Service by which its ranks find each other when it has several."""
        service = rank_service(job)
        if service is not None:
            await self._create_or_adopt("Service", service, uid)
        if await self._create_or_adopt("Job", job, uid):
            self.observer.child_created(role)

    async def _create_or_adopt(self, kind: Literal["Job", "Service"], manifest: Document, uid: str) -> bool:
        """Create it, or adopt it when it is ours from an earlier life of the operator; whether it was created."""
        name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
        try:
            await self.cluster.create(manifest)
        except AlreadyExists as error:
            found = await self.cluster.get(kind, namespace, name)
            if found is None:
                raise Conflict(f"{kind} {namespace}/{name} vanished while it was adopted") from error
            if "deletionTimestamp" in found["metadata"]:
                raise Conflict(f"{kind} {namespace}/{name} is still being deleted") from error
            if not owned_by(found, uid):
                raise Refused(f"a {kind} {name} exists and belongs to somebody else: delete or rename it") from error
            return False
        return True


def is_decisive(plan: Plan[Any], stored: Document) -> bool:
    """Whether the plan does or decides anything, and does not only tell how far a child is."""
    if plan.create or plan.delete or plan.target is not None:
        return True
    before = {c["type"]: (c["status"], c["reason"] == READING) for c in stored.get("conditions") or []}
    after = {c.type: (c.status, c.reason == READING) for c in plan.status.conditions}
    return before != after


class Worker:
    """Takes a key through a pass, and decides when it is looked at again."""

    def __init__(self, reconciler: Reconciler, queue: KeyQueue[Key], on_change: Callable[[Key], None]) -> None:
        self.reconciler = reconciler
        self.queue = queue
        self.on_change = on_change
        self.phases: dict[Key, str] = {}
        self._doubted: set[Key] = set()

    async def work(self, key: Key) -> None:
        """One pass with its errors handled: after a conflict look again at once, else after a back-off."""
        began = time.perf_counter()
        outcome_name = "ok"
        try:
            outcome = await self.reconciler.reconcile(key, doubted=key in self._doubted)
        except Conflict:
            outcome_name = "conflict"
            self._doubted.add(key)
            self.queue.add(key, CONFLICT_RETRY_SECONDS)
        except Gone:
            self._forget(key)
        except Exception as error:
            outcome_name = "error"
            self._doubted.add(key)
            asked_for = error.retry_after if isinstance(error, Unavailable) else 0.0
            wait = self.queue.failed(key, at_least=asked_for)
            about = {"kind": key.kind, "resource": f"{key.namespace}/{key.name}"}
            log.warning("%s %s/%s: %s; again in %.0f s", *key, error, wait, exc_info=True, extra=about)
            if not asked_for:
                # One that asks to be left alone is not asked for an event.
                cause = str(error)[:MAX_CAUSE] or type(error).__name__
                await self._warn(key, f"{cause}; trying again in {wait:.0f} s")
        else:
            self._went_well(key, outcome)
        self.reconciler.observer.passed(key, outcome_name, time.perf_counter() - began)

    def _went_well(self, key: Key, outcome: Outcome) -> None:
        self.queue.succeeded(key)
        self._doubted.discard(key)
        if not outcome.exists or outcome.phase is None:
            self._forget(key)
            return
        if self.phases.get(key) != outcome.phase:
            self.phases[key] = outcome.phase
            self.on_change(key)
        self.reconciler.observer.phase(key, outcome.phase)
        if outcome.requeue_after is not None:
            self.queue.add(key, outcome.requeue_after)

    def _forget(self, key: Key) -> None:
        self.queue.forget(key)
        self._doubted.discard(key)
        self.phases.pop(key, None)
        self.reconciler.observer.phase(key, None)
        self.on_change(key)

    async def _warn(self, key: Key, message: str) -> None:
        try:
            resource = await self.reconciler.cluster.get(key.kind, key.namespace, key.name)
            if resource is not None:
                note = Note("Warning", "ReconcileError", message)
                await self.reconciler.recorder.record_event(resource, note)
        except Exception:
            log.debug("the warning could not be recorded", exc_info=True)
