"""The three children of a StudentRollout, and what their results mean: parity, rollouts, judge."""

from flowstill.api.children import AnyTask, JudgeTask, ParityTask, Result, ResultKind, RolloutsTask, RolloutTask
from flowstill.api.fields import ArtifactRef, Source, StatusRef
from flowstill.api.studentrollout import ArmResult, StudentRolloutSpec
from flowstill_operator.jobs import work_uri
from flowstill_operator.parity import measured
from flowstill_operator.rollout.observe import NOT_STARTED, STEPS, Observed
from flowstill_operator.rollout.outcome import StatusDraft, fail, inconclusive, reject
from flowstill_operator.stage import Seen, Stage, run_stage
from flowstill_operator.steps import Move, Role

GATES = ("S1", "S2", "S3", "P1", "P2", "P3", "P4", "P5", "P6")
PHASES = {"parity": "Validating", "rollouts": "Evaluating", "judge": "Judging"}
RESULT_KINDS: dict[Role, ResultKind] = {"parity": "Parity", "rollouts": "Rollouts", "judge": "Judge"}


def parity_stage(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft) -> Move | None:
    """Is the exported graph the trained student?"""
    result = _run(observed, spec, draft, "parity")
    if not isinstance(result, Result):
        return result
    found = measured(result)
    if found is None or result.baseline is None:
        return _incomplete(draft, "parity", "difference, threshold and baseline")
    draft.set(parity_difference=found.difference, teacher=result.teacher or draft.status.teacher)
    if draft.status.baseline is None:
        draft.set(baseline=result.baseline)
    if not found.holds:
        draft.condition("Validated", "False", "ParityFailed", found.text)
        return reject(draft, "ParityFailed", f"the exported graph is not the trained student: {found.text}")
    warned = f". But {result.warning}" if result.warning else ""
    draft.condition("Validated", "True", "ParityPassed", f"{found.text}{warned}")
    return None


def evaluation_stage(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft) -> Move | None:
    """Run every arm."""
    result = _run(observed, spec, draft, "rollouts")
    if not isinstance(result, Result):
        return result
    if result.rollouts is None:
        return _incomplete(draft, "rollouts", "its records")
    draft.set(rollouts=result.rollouts)
    draft.condition("Evaluated", "True", "Evaluated", result.message or "all arms were run")
    return None


def judge_stage(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft) -> Move | None:
    """Judge the records. A pass needs evidence and all nine gates; everything else is none."""
    result = _run(observed, spec, draft, "judge")
    if not isinstance(result, Result):
        return result
    passed = [gate.name for gate in result.gates if gate.verdict == "Pass"]
    draft.set(gates=result.gates, arms=result.arms, evidence=result.evidence)
    draft.set(gates_summary=f"{len(passed)}/{len(GATES)} Pass", **_successes(result.arms))
    if result.verdict is None or result.evidence is None or {gate.name for gate in result.gates} != set(GATES):
        return _incomplete(draft, "judge", "a verdict, evidence and all nine gates")
    others = ", ".join(f"{gate.name} {gate.verdict}" for gate in result.gates if gate.verdict != "Pass")
    if result.verdict == "Fail":
        draft.condition("GatesPassed", "False", "GatesFailed", others)
        return reject(draft, "GatesFailed", f"gates: {others}")
    if result.verdict == "Inconclusive":
        draft.condition("GatesPassed", "Unknown", "Inconclusive", others)
        return inconclusive(draft, f"gates: {others}; more episodes per task decide")
    if others:
        return _incomplete(draft, "judge", f"a verdict that agrees with its gates ({others})")
    draft.condition("GatesPassed", "True", "GatesPassed", f"{len(passed)} of {len(GATES)} gates passed")
    return None


def _run(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft, role: Role) -> Result | Move | None:
    """The result of that child when it is there; None when it was decided before; else what to do."""
    kind = dict(STEPS)[role]
    if draft.is_true(kind):
        return None
    child = observed.child(role)
    draft.set(phase=PHASES[role], image=draft.status.image or child.image or observed.image)
    return run_stage(
        draft,
        Stage(role, kind, RESULT_KINDS[role], NOT_STARTED),
        Seen(child, observed.reader(role), draft.status.image or observed.image),
        task=lambda: _task(observed, spec, draft, role),
        fail=lambda reason, message: fail(draft, reason, message),
    )


def _incomplete(draft: StatusDraft, role: Role, what: str) -> Move:
    message = f"the {role} child succeeded without {what}; a verdict without evidence is not a pass"
    draft.condition(dict(STEPS)[role], "False", "ResultIncomplete", message)
    return fail(draft, "ResultIncomplete", message)


def _task(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft, role: Role) -> AnyTask:
    status, owner = draft.status, observed.owner
    if status.student is None:
        raise ValueError("a child of a rollout needs a pinned student")
    common = RolloutTask(
        resource=f"{owner.namespace}/{owner.name}",
        uid=owner.uid,
        work=work_uri(owner, role),
        student=_pinned(status.student),
        teacher=Source(uri=status.teacher.uri, digest=status.teacher.digest) if status.teacher else spec.teacher,
        baseline=_pinned(status.baseline) if status.baseline else None,
        evaluation=spec.evaluation,
        gates=spec.gates,
    )
    shared = dict(common)
    if role == "parity":
        return ParityTask(**shared, parity=spec.parity)
    if role == "rollouts":
        return RolloutsTask(**shared)
    if status.rollouts is None or status.parity_difference is None:
        raise ValueError("the judge needs the records and parity's difference")
    return JudgeTask(**shared, rollouts=_pinned(status.rollouts), parity_difference=status.parity_difference)


def _pinned(ref: StatusRef) -> ArtifactRef:
    return ArtifactRef(uri=ref.uri, digest=ref.digest)


def _successes(arms: list[ArmResult]) -> dict[str, str]:
    """The served arm's and the baseline's success, as counts."""
    by_name = {arm.name: arm for arm in arms}
    served = by_name.get("student-draws") or by_name.get("student")
    baseline = by_name.get("baseline") or by_name.get("teacher@10")
    texts = {"success": served, "baseline_success": baseline}
    return {key: f"{round(arm.success * arm.episodes)}/{arm.episodes}" for key, arm in texts.items() if arm is not None}
