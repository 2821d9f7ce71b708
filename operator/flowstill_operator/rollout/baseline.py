"""What a student is compared with, and whether it is still what the target serves. Pure."""

from dataclasses import replace

from flowstill.api.fields import ArtifactRef, StatusRef
from flowstill.api.studentrollout import StudentRolloutSpec
from flowstill_operator.rollout.observe import STEPS, WAITING_FOR_TARGET, Observed, is_replaced
from flowstill_operator.rollout.outcome import StatusDraft, fail, supersede
from flowstill_operator.rollout.promote import parse_reference, reference
from flowstill_operator.steps import Move, timestamp

CHANGED = "BaselineChanged"
UNPINNED = "BaselineUnpinned"
UNPINNED_TEXT = (
    "the target serves {served}, which is not URI@sha256:DIGEST, so it is no baseline; pin it, or give the initial "
    "policy by envFrom instead of env"
)
WAITING_TEXT = "{problem}; this rollout waits for it, without a deadline"
CHANGED_TEXT = "the target serves {now}{by}; this rollout compares with {then}"


def replaced_stage(observed: Observed, draft: StatusDraft) -> Move | None:
    """Until the promotion: what is compared with must be served, or hours of evaluation say nothing about it.

    Two rollouts towards one Deployment end so: the first to promote makes the other one's comparison void.
    """
    target = observed.target
    if target is None or not is_replaced(observed.status, target, observed.owner.uid):
        return None
    by = f", put by rollout {target.rollout}" if target.rollout and target.policy == target.served else ""
    text = CHANGED_TEXT.format(now=target.says, by=by, then=draft.status.previous or "the initial policy")
    current = next((kind for _, kind in STEPS if draft.find(kind) is not None and not draft.is_true(kind)), None)
    for kind in (current, "Promoted"):
        if kind is not None and draft.find(kind) is not None:
            draft.condition(kind, "False", CHANGED, text)
    unfinished = tuple(job for job in observed.jobs if not job.finished and not job.ending)
    return replace(supersede(draft, CHANGED, text), delete=unfinished)


def baseline_stage(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft) -> Move | None:
    """Pin what the student is compared with, and remember what the target serves."""
    if draft.status.start_time is not None:
        return None
    given = spec.baseline
    if observed.target is not None:
        if observed.target.problem is not None:
            text = WAITING_TEXT.format(problem=observed.target.problem)
            draft.condition("Validated", "Unknown", WAITING_FOR_TARGET, text)
            draft.set(phase="Pending", message=text)
            return Move()
        student = draft.status.student
        # A rollout that was deleted and created again finds its own student: it compares with what that replaced.
        compared = observed.target.before(reference(student)) if student is not None else observed.target.served
        served = parse_reference(compared)
        if compared and served is None:
            message = UNPINNED_TEXT.format(served=compared)
            draft.condition("Validated", "False", UNPINNED, message)
            return fail(draft, UNPINNED, message)
        if served is not None and given is not None and served.digest != given.digest:
            return supersede(
                draft,
                CHANGED,
                f"the target serves {served.digest}, not spec.baseline {given.digest}",
            )
        draft.set(previous=observed.target.served)
        given = given or (ArtifactRef(uri=served.uri, digest=served.digest) if served is not None else None)
    if given is not None:
        draft.set(baseline=StatusRef(uri=given.uri, digest=given.digest))
    draft.set(start_time=timestamp(draft.now))
    return None
