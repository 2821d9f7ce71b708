"""The three children of a StudentRollout, and what their results mean: parity, rollouts, judge."""

from flowstill.api.children import (
    AnyTask,
    JudgeRoundsTask,
    JudgeTask,
    ParityTask,
    Result,
    ResultKind,
    RolloutsTask,
    RolloutTask,
    RoundWork,
)
from flowstill.api.fields import ArtifactRef, Source, StatusRef
from flowstill.api.overrides import measured as measured_verdict
from flowstill.api.studentrollout import ArmResult, StudentRolloutSpec
from flowstill_operator.jobs import work_uri
from flowstill_operator.parity import PARITY_FAILED, PARITY_FAILED_TEXT, measured
from flowstill_operator.rollout.observe import MORE_EPISODES, NOT_STARTED, STEPS, UNDECIDED, Observed
from flowstill_operator.rollout.outcome import StatusDraft, fail, reject
from flowstill_operator.rollout.overrides import gates_summary, weigh
from flowstill_operator.stage import Seen, Stage, run_stage
from flowstill_operator.steps import INCOMPLETE, INCOMPLETE_TEXT, Move, Role, timestamp

GATES = ("S1", "S2", "S3", "P1", "P2", "P3", "P4", "P5", "P6")
MOST_ROUNDS = 99
PARITY_PASSED = "ParityPassed"
EVALUATED = "Evaluated"
EVALUATED_TEXT = "all arms were run"
REUSED = "Reused"
"""The reason of Evaluated when the verdict was published before."""
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
        draft.condition("Validated", "False", PARITY_FAILED, found.text)
        return reject(draft, PARITY_FAILED, PARITY_FAILED_TEXT.format(measured=found.text))
    warned = f". But {result.warning}" if result.warning else ""
    draft.condition("Validated", "True", PARITY_PASSED, f"{found.text}{warned}")
    return _judged_before(spec, draft, result) if result.reused else None


def _judged_before(spec: StudentRolloutSpec, draft: StatusDraft, result: Result) -> Move | None:
    """The same question has a published verdict: it is this rollout's too, and no episode is run."""
    incomplete = _lacks(result)
    if incomplete is not None or result.evidence is None:
        return _incomplete(draft, "parity", incomplete or "evidence")
    text = f"{result.message or 'judged before'}: evidence {result.evidence.digest}; no episode was run"
    draft.condition("Evaluated", "True", REUSED, text)
    draft.set(gates=result.gates, arms=result.arms, evidence=result.evidence, **_successes(result.arms))
    draft.set(rollouts=result.rollouts, message=text[:1024])
    return weigh(draft, spec)


def _lacks(result: Result) -> str | None:
    """What a result needs to be a verdict; None when it is one."""
    if result.verdict is None or result.evidence is None or {gate.name for gate in result.gates} != set(GATES):
        return "a verdict, evidence and all nine gates"
    if result.verdict != measured_verdict(result.gates):
        return f"a verdict that agrees with its gates ({result.verdict})"
    return None


def evaluation_stage(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft) -> Move | None:
    """Run every arm."""
    result = _run(observed, spec, draft, "rollouts")
    if not isinstance(result, Result):
        return result
    if not in_parts(observed):
        if result.rollouts is None:
            return _incomplete(draft, "rollouts", "its records")
        draft.set(rollouts=result.rollouts)
    draft.condition("Evaluated", "True", EVALUATED, result.message or EVALUATED_TEXT)
    return None


def judge_stage(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft) -> Move | None:
    """Judge the records. A pass needs evidence and all nine gates; everything else is none."""
    result = _run(observed, spec, draft, "judge")
    if not isinstance(result, Result):
        return result
    draft.set(gates=result.gates, arms=result.arms, evidence=result.evidence, **_successes(result.arms))
    if result.rollouts is not None:
        draft.set(rollouts=result.rollouts)
    draft.set(gates_summary=gates_summary(result.gates))
    if result.verdict is None and result.wanted_episodes is not None:
        return _another_round(observed, spec, draft, result, result.wanted_episodes)
    incomplete = _lacks(result)
    return weigh(draft, spec) if incomplete is None else _incomplete(draft, "judge", incomplete)


def _another_round(
    observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft, result: Result, wanted: int
) -> Move:
    """What was run leaves gates open: write down that more is run, and only then run it."""
    present, most = sum(observed.rounds), spec.evaluation.most_episodes_per_task
    if not present < wanted <= most or len(observed.rounds) >= MOST_ROUNDS:
        return _incomplete(draft, "judge", f"a verdict, and wants {wanted} episodes of every task after {present}")
    undecided = ", ".join(gate.name for gate in result.gates if gate.verdict == "Inconclusive")
    text = f"{present} episodes of every task leave {undecided or 'gates'} undecided"
    rounds = [*observed.rounds, wanted - present]
    draft.set(rounds=rounds, round=len(rounds), episodes=wanted, phase=PHASES["rollouts"])
    draft.condition("GatesPassed", "Unknown", UNDECIDED, text)
    draft.condition("Evaluated", "Unknown", MORE_EPISODES, f"{text}; {wanted} of at most {most} are run")
    draft.set(message=f"{text}; running {wanted - present} more")
    return Move(requeue_after=0.0)


def in_parts(observed: Observed) -> bool:
    """Whether the records are in parts, which the judge merges."""
    return len(observed.rounds) > 1 or observed.shards(1) > 1


def _run(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft, role: Role) -> Result | Move | None:
    """The result of that child when it is there; None when it was decided before; else what to do."""
    kind = dict(STEPS)[role]
    if draft.is_true(kind):
        return None
    child = observed.child(role)
    number = observed.round_of(role)
    draft.set(phase=PHASES[role], image=draft.status.image or child.image or observed.image)
    if role == "rollouts":
        draft.set(rounds=list(observed.rounds), round=number, episodes=sum(observed.rounds))
    result = run_stage(
        draft,
        Stage(role, kind, RESULT_KINDS[role], NOT_STARTED),
        Seen(child, observed.reader(role), draft.status.image or observed.image, suspended=spec.suspend),
        task=lambda: _task(observed, spec, draft, role),
        # The evaluator's own "it is another graph" is a verdict about the student; all else is none.
        fail=lambda reason, message: (reject if reason == PARITY_FAILED else fail)(draft, reason, message),
        number=number,
        shards=observed.shards(number) if role == "rollouts" else 1,
    )
    if isinstance(result, Result):
        draft.set(active_seconds=None)  # the deadline is of each child
    return result


def _incomplete(draft: StatusDraft, role: Role, what: str) -> Move:
    message = INCOMPLETE_TEXT.format(role=role, what=what)
    draft.condition(dict(STEPS)[role], "False", INCOMPLETE, message)
    return fail(draft, INCOMPLETE, message)


def _task(observed: Observed, spec: StudentRolloutSpec, draft: StatusDraft, role: Role) -> AnyTask:
    status, owner, number = draft.status, observed.owner, observed.round_of(role)
    if status.student is None:
        raise ValueError("a child of a rollout needs a pinned student")
    common = RolloutTask(
        resource=f"{owner.namespace}/{owner.name}",
        uid=owner.uid,
        work=work_uri(owner, role, number),
        student=_pinned(status.student),
        teacher=Source(uri=status.teacher.uri, digest=status.teacher.digest) if status.teacher else spec.teacher,
        baseline=_pinned(status.baseline) if status.baseline else None,
        evaluation=spec.evaluation,
        gates=spec.gates,
        parity=spec.parity,
        overrides=spec.overrides,
        image=status.image or observed.image,
    )
    shared = dict(common)
    if role == "parity":
        return ParityTask(**shared)
    if role == "rollouts":
        *before, present = observed.rounds
        return RolloutsTask(**shared, first_episode=sum(before), episodes=present)
    if status.parity_difference is None:
        raise ValueError("the judge needs parity's difference")
    judging = shared | {"parity_difference": status.parity_difference, "asked": timestamp(draft.now)}
    if in_parts(observed):
        parts = [
            RoundWork(work=work_uri(owner, "rollouts", each), shards=observed.shards(each))
            for each in range(1, number + 1)
        ]
        total = sum(observed.rounds)
        return JudgeRoundsTask(**judging, rounds=parts, episodes=total)
    if status.rollouts is None:
        raise ValueError("the judge needs the records")
    return JudgeTask(**judging, rollouts=_pinned(status.rollouts))


def _pinned(ref: StatusRef) -> ArtifactRef:
    return ArtifactRef(uri=ref.uri, digest=ref.digest)


def _successes(arms: list[ArmResult]) -> dict[str, str]:
    """The served arm's and the baseline's success, as counts."""
    by_name = {arm.name: arm for arm in arms}
    served = by_name.get("student-draws") or by_name.get("student")
    baseline = by_name.get("baseline") or by_name.get("teacher@10")
    texts = {"success": served, "baseline_success": baseline}
    return {key: f"{round(arm.success * arm.episodes)}/{arm.episodes}" for key, arm in texts.items() if arm is not None}
