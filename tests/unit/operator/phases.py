"""A status of every phase, made by the operator's own plans."""

from dataclasses import replace

from flowstill.api.actions import Request
from flowstill.api.children import ProgressReport
from flowstill_operator.children import Child
from flowstill_operator.distilljob import observe as distilljob_observe
from flowstill_operator.distilljob.plan import plan as plan_distilljob
from flowstill_operator.rollout import observe as rollout_observe
from flowstill_operator.rollout.plan import plan as plan_rollout
from flowstill_operator.rollout.promote import read_target
from flowstill_operator.rollout.signals import Check
from tests.unit.operator.builders import (
    NOW,
    PLATFORM,
    RESULTS,
    STUDENT,
    TARGET_SPEC,
    deployment,
    distill_spec,
    judged,
    later,
    resource,
    rollout_spec,
)

STUDENT_TEXT = f"{STUDENT.uri}@{STUDENT.digest}"
OTHER_TEXT = "store://students/other@sha256:" + "7" * 64
RUNNING = Child("Running", progress=ProgressReport(activity="training", step=30, total_steps=100))
JUDGED = ("parity", "rollouts", "judge")


def dump(status):
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def distilled(*children, spec=None):
    """A DistillJob that has seen its training in each of these states, one after the other."""
    status = None
    for seconds, child in enumerate((None, *children)):
        found = distilljob_observe.read_resource(resource("DistillJob", spec or distill_spec(), status), PLATFORM)
        found = replace(found, children={} if child is None else {"train": child})
        status = dump(plan_distilljob(found, later(seconds)).status)
    return status


def rollout(status, spec, target=None, now=NOW, requests=(), check=None, **children):
    """One pass over a rollout."""
    found = rollout_observe.read_resource(resource("StudentRollout", spec, status), PLATFORM)
    seen = None if target is None else read_target(target, found.spec.target.deployment)
    return dump(
        plan_rollout(replace(found, children=children, target=seen, requests=requests, check=check), now).status
    )


def rolled(*roles, target=None, verdict=None, **spec):
    """A rollout whose children of those roles have ended; ``verdict``: of the judge."""
    extra = {"target": TARGET_SPEC} if target is not None else {}
    whole = rollout_spec(**extra, **spec)
    status = rollout(None, whole, target)
    for role in roles:
        result = judged(verdict) if role == "judge" and verdict else RESULTS[role]()
        status = rollout(status, whole, target, **{role: Child("Succeeded", result=result)})
    return status


def rolled_back():
    spec = rollout_spec(target=TARGET_SPEC)
    status = rollout(rolled(*JUDGED, target=deployment()), spec, deployment())
    ours = deployment(STUDENT_TEXT, rollout="uid-1", available=False)
    abort = (Request("abort", "t", "alice", "it stutters"),)
    status = rollout(status, spec, ours, later(5), abort)
    return rollout(status, spec, deployment(), later(6), abort)


def monitored():
    spec = rollout_spec(target=TARGET_SPEC, monitoring={"window": "10m"})
    status = rolled(*JUDGED, target=deployment(), monitoring=spec["monitoring"])
    ours = deployment(STUDENT_TEXT, rollout="uid-1")
    for target in (deployment(), ours, ours):
        status = rollout(status, spec, target, check=Check({"robot-abc-1": 0}, {}))
    return status


def retried():
    """A DistillJob that failed, and that somebody asked to begin again."""
    status = distilled(Child("Failed", reason="BackoffLimitExceeded", message="it ended"))
    found = distilljob_observe.read_resource(resource("DistillJob", distill_spec(), status), PLATFORM)
    asked = replace(found, requests=(Request("retry", "t", "alice", "the node is mended"),))
    return dump(plan_distilljob(asked, later(5)).status)


DISTILLJOBS = {
    "Pending": retried,
    "Queued": lambda: distilled(),
    "Running": lambda: distilled(RUNNING),
    "Suspended": lambda: distilled(spec=distill_spec(suspend=True)),
    "Validating": lambda: distilled(
        Child("Succeeded", result=RESULTS["train"]()), spec=distill_spec(validation={"after": True})
    ),
    "Succeeded": lambda: distilled(RUNNING, Child("Succeeded", result=RESULTS["train"]())),
    "Failed": lambda: distilled(Child("Failed", reason="BackoffLimitExceeded", message="it ended")),
}
ROLLOUTS = {
    "Pending": lambda: rollout(None, rollout_spec(student={"distillJob": "dj"})),
    "Validating": lambda: rolled(),
    "Evaluating": lambda: rolled("parity"),
    "Judging": lambda: rolled("parity", "rollouts"),
    "AwaitingApproval": lambda: rolled(*JUDGED, approval="Manual"),
    "Suspended": lambda: rollout(None, rollout_spec(suspend=True)),
    "Promoting": lambda: rolled(*JUDGED, target=deployment()),
    "Monitoring": monitored,
    "Completed": lambda: rolled(*JUDGED),
    "Rejected": lambda: rolled(*JUDGED, verdict="Fail"),
    "Inconclusive": lambda: rolled(*JUDGED, verdict="Inconclusive"),
    "Superseded": lambda: rollout(
        rolled(*JUDGED, target=deployment()), rollout_spec(target=TARGET_SPEC), deployment(OTHER_TEXT)
    ),
    "RolledBack": rolled_back,
    "Failed": lambda: rollout(rolled(), rollout_spec(), parity=Child("Failed", reason="BackoffLimitExceeded")),
}
"""Of each kind, the status by its phase."""
