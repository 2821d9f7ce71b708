"""What a DistillJob needs next. Pure: the same observation gives the same plan.

Stages run in order; the first that is not done says what is to do.
"""

from dataclasses import replace
from datetime import datetime

from flowstill.api.actions import Request
from flowstill.api.children import DatasetParityTask, ProgressReport, Result, TrainTask
from flowstill.api.conditions import find_condition
from flowstill.api.distilljob import DistillJobSpec, DistillJobStatus, Progress
from flowstill.api.fields import ArtifactRef
from flowstill.api.studentrollout import Parity
from flowstill_operator.actions import NOT_RETRIED_TEXT, begin_again, stop, take_requests
from flowstill_operator.admission import note_admission
from flowstill_operator.cleanup import clean_up
from flowstill_operator.distilljob.attempts import after_failure, wait_for_pods
from flowstill_operator.distilljob.observe import NOT_STARTED, PARITY, STEPS, TERMINAL, Observed, current_role
from flowstill_operator.distilljob.suspended import suspendable
from flowstill_operator.jobs import work_uri
from flowstill_operator.observation import INVALID_SPEC, INVALID_SPEC_TEXT
from flowstill_operator.parity import PARITY_FAILED, PARITY_FAILED_TEXT, measured
from flowstill_operator.stage import Seen, Stage, run_stage
from flowstill_operator.steps import (
    INCOMPLETE,
    INCOMPLETE_TEXT,
    READING,
    STOP,
    WAITING_TEXT,
    Draft,
    Move,
    Plan,
    Step,
    Wanted,
    condition_reason,
    judge_step,
    look_after,
    refused,
    started,
    timestamp,
)
from flowstill_operator.suspension import suspend

MAX_MESSAGE = 1024
VALID = "Valid"
VALID_TEXT = "the spec can work here"
SUCCEEDED = "Succeeded"
REUSED = "Reused"
REUSED_TEXT = "a student of the same inputs was published before"
PUBLISHED = "Published"
NAMELESS_TEXT = "the trainer succeeded without naming a student; this is an error of the trainer image"
PARITY_HOLDS = "ParityHolds"
KEPT = " (the student stays published, see status.student)"


def plan(observed: Observed, now: datetime) -> Plan[DistillJobStatus]:
    """The child that should exist, the status to write, and when to look again."""
    draft = Draft(observed.status, observed.generation, now)
    asked = _requests(observed, draft)
    if asked is not None:
        return draft.plan(asked)
    if observed.status.phase in TERMINAL:
        # What may be changed after the end was seen, or whoever waits for that generation waits for ever.
        seen = observed.status.model_copy(update={"observed_generation": observed.generation})
        runtime = None if observed.spec is None else observed.spec.runtime
        return clean_up(seen, runtime, observed.jobs, now)
    if observed.problem is not None or observed.spec is None:
        problem = observed.problem
        reason, message = (problem.reason, problem.message) if problem else (INVALID_SPEC, INVALID_SPEC_TEXT)
        draft.condition("Validated", "False", reason, message)
        return draft.plan(_fail(draft, reason, message))
    if not draft.is_true("Validated"):
        draft.condition("Validated", "True", VALID, VALID_TEXT)
    if draft.find("Trained") is None:
        draft.condition("Trained", "Unknown", NOT_STARTED[0])
    if observed.spec.validation.after and draft.find(PARITY) is None:
        draft.condition(PARITY, "Unknown", NOT_STARTED[0])
    note_admission(draft, observed.spec.runtime, observed.child(current_role(observed.status)))
    held = suspend(draft, suspendable(observed, observed.spec, draft))
    if held is not None:
        return draft.plan(held)
    for stage in (_train, _validate):
        move = stage(observed, observed.spec, draft)
        if move is not None:
            return draft.plan(move)
    return draft.plan(_complete(draft))


def _requests(observed: Observed, draft: Draft[DistillJobStatus]) -> Move | None:
    """Abort and retry."""
    phase = observed.status.phase

    def abort(request: Request) -> Move:
        return stop(draft, request, observed.jobs, STEPS, lambda reason, text: _fail(draft, reason, text))

    def retry(request: Request) -> Move | str:
        if phase != "Failed":
            return NOT_RETRIED_TEXT.format(phase=phase)
        move = begin_again(draft, request, observed.jobs, STEPS)
        if move is None:
            draft.set(attempts=0, disruptions=None, earlier_attempts=None, active_seconds=None)
        return move or Move(requeue_after=0.0)

    return take_requests(observed.requests, draft, phase, ended=phase in TERMINAL, abort=abort, retry=retry)


def child_refused(observed: Observed, wanted: Wanted, reason: str, message: str) -> Observed:
    """The observation after the API refused that child."""
    role = wanted.role
    if wanted.reader:
        return replace(observed, readers={**observed.readers, role: refused(observed.reader(role), message, reason)})
    return replace(observed, children={**observed.children, role: refused(observed.child(role), message, reason)})


def _train(observed: Observed, spec: DistillJobSpec, draft: Draft[DistillJobStatus]) -> Move | None:
    """Distill and publish; None when the student is there."""
    if draft.is_true("Trained"):
        return None
    status = observed.status
    before = find_condition(status.conditions, "Trained")
    reading = before is not None and before.reason == READING
    begun = started(status.conditions, "Trained", NOT_STARTED)
    child = observed.child("train")
    attempts = observed.attempt or max(status.attempts, (status.earlier_attempts or 0) + child.attempts)
    draft.set(attempts=attempts, image=status.image or child.image or observed.image)
    step = judge_step("Train", begun, reading, child, observed.reader("train"))
    if step.state == "failed":
        following = after_failure(observed, spec, draft, step)
        if isinstance(following, Move):
            return following
        step = following
    task = TrainTask(
        resource=f"{observed.owner.namespace}/{observed.owner.name}",
        uid=observed.owner.uid,
        work=work_uri(observed.owner, "train"),
        spec=spec,
    )
    image = draft.status.image or observed.image
    if status.start_time is None and step.state != "failed":
        draft.set(start_time=timestamp(draft.now))
    match step.state:
        case "start":
            waiting = wait_for_pods(observed, draft)
            if waiting is not None:
                return waiting
            draft.set(phase="Queued", message=WAITING_TEXT["queued"])
            draft.condition("Trained", "Unknown", "Queued", WAITING_TEXT["queued"])
            return Move((Wanted("train", task, image, attempt=observed.attempt),))
        case "read":
            draft.condition("Trained", "Unknown", READING, step.message)
            return Move((Wanted("train", task, image, reader=True),))
        case "queued" | "running":
            return _wait(draft, step, child.progress)
        case "done" if step.result is not None:
            return _publish(draft, step.result)
        case _:
            draft.condition("Trained", "False", condition_reason(step.reason), step.message)
            return _fail(draft, step.reason, step.message)


def _wait(draft: Draft[DistillJobStatus], step: Step, report: ProgressReport | None) -> Move:
    running = step.state == "running"
    draft.set(phase="Running" if running else "Queued", message=step.message or None)
    draft.condition("Trained", "Unknown", condition_reason(step.reason), step.message)
    if report is not None:
        draft.set(progress=_progress(report, timestamp(draft.now)), message=f"{report.activity}")
    return Move(requeue_after=look_after(step))


def _progress(report: ProgressReport, now: str) -> Progress:
    total = report.total_steps
    return Progress(
        step=report.step,
        total_steps=total,
        progress_percentage=min(100, 100 * report.step // total) if total else 0,
        estimated_remaining_seconds=report.estimated_remaining_seconds,
        loss=_rounded(report.loss),
        samples_per_second=_rounded(report.samples_per_second),
        last_updated_time=now,
    )


def _rounded(value: float | None) -> float | None:
    """Four digits: kubectl prints a number as it is."""
    return None if value is None else float(f"{value:.4g}")


def _publish(draft: Draft[DistillJobStatus], result: Result) -> Move | None:
    if result.student is None:
        draft.condition("Trained", "False", INCOMPLETE, NAMELESS_TEXT)
        return _fail(draft, INCOMPLETE, NAMELESS_TEXT)
    student = result.student
    reason, text = (REUSED, REUSED_TEXT) if result.reused else (SUCCEEDED, result.message)
    draft.condition("Trained", "True", reason, text)
    draft.condition("Published", "True", PUBLISHED, f"{student.uri}@{student.digest}")
    progress = draft.status.progress
    if progress is not None and not result.reused:
        total = progress.total_steps
        done = {"step": total, "progress_percentage": 100, "estimated_remaining_seconds": 0}
        draft.set(progress=progress.model_copy(update=done))
    # The deadline is of each child: what training has spent is not the next one's.
    draft.set(student=student, inputs_digest=result.inputs_digest, fidelity=result.fidelity, active_seconds=None)
    return None


def _validate(observed: Observed, spec: DistillJobSpec, draft: Draft[DistillJobStatus]) -> Move | None:
    """Is the exported graph the trained student? None when it is, or when nobody asked."""
    student = draft.status.student
    if not spec.validation.after:
        return None
    if student is None:
        raise ValueError("a trained DistillJob has a student")

    def fail(reason: str, message: str) -> Move:
        return _fail(draft, reason, message[: MAX_MESSAGE - len(KEPT)] + KEPT)

    def task() -> DatasetParityTask:
        return DatasetParityTask(
            resource=f"{observed.owner.namespace}/{observed.owner.name}",
            uid=observed.owner.uid,
            work=work_uri(observed.owner, "parity"),
            student=ArtifactRef(uri=student.uri, digest=student.digest),
            dataset=spec.dataset,
            parity=Parity(threshold=spec.validation.threshold),
        )

    child = observed.child("parity")
    image = draft.status.validation_image or child.image or observed.validation_image
    draft.set(phase="Validating", validation_image=image)
    seen = Seen(child, observed.reader("parity"), image, suspended=spec.suspend)
    result = run_stage(draft, Stage("parity", PARITY, "Parity", NOT_STARTED), seen, task, fail)
    if isinstance(result, Move):
        return result
    found = measured(result)
    if found is None:
        message = INCOMPLETE_TEXT.format(role="parity", what="difference and threshold")
        draft.condition(PARITY, "False", INCOMPLETE, message)
        return fail(INCOMPLETE, message)
    draft.set(parity_difference=found.difference)
    if not found.holds:
        draft.condition(PARITY, "False", PARITY_FAILED, found.text)
        return fail(PARITY_FAILED, PARITY_FAILED_TEXT.format(measured=found.text))
    draft.condition(PARITY, "True", PARITY_HOLDS, found.text)
    return None


def _complete(draft: Draft[DistillJobStatus]) -> Move:
    trained = draft.find("Trained")
    if trained is None:
        raise ValueError("what is complete was trained")
    draft.condition("Complete", "True", trained.reason, trained.message)
    draft.set(phase="Succeeded", completion_time=timestamp(draft.now), message=trained.message or None)
    return STOP


def _fail(draft: Draft[DistillJobStatus], reason: str, message: str) -> Move:
    message = message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 3] + "..."
    draft.condition("Failed", "True", condition_reason(reason), message)
    draft.set(phase="Failed", message=message, completion_time=timestamp(draft.now))
    return STOP
