"""``flowstill-evaluate judge``: published records in, a verdict with its evidence out."""

import shutil
from datetime import datetime
from pathlib import Path

import flowstill
from flowstill.api.children import JudgeRoundsTask, JudgeTask, JudgingTask, Result, Task
from flowstill.api.fields import StatusRef
from flowstill.api.overrides import attach, counts
from flowstill.api.studentrollout import GateResult, Verdict
from flowstill.artifacts.curve import PICTURE, read_curve
from flowstill.artifacts.manifest import EvidenceProperties
from flowstill.artifacts.stores import fetch, publish
from flowstill.child.context import ChildContext
from flowstill.errors import UserError
from flowstill_evaluator.arms import Comparison, References, compare, resolve
from flowstill_evaluator.decision import decision_json, fitted_result
from flowstill_evaluator.evidence import Evidence, Expected, Gap, load_evidence
from flowstill_evaluator.gates.chain import overall, run_gates
from flowstill_evaluator.gathering import gather, publish_merged
from flowstill_evaluator.report.build import build_report
from flowstill_evaluator.report.document import as_json
from flowstill_evaluator.report.media import choose_films, data_uri, data_uris
from flowstill_evaluator.report.page import render_page
from flowstill_evaluator.report.subject import Artifact, Subject, Training
from flowstill_evaluator.report.summary import Summary, arm_results, summarise
from flowstill_evaluator.stopping import looks_of, wanted
from flowstill_evaluator.verdicts import record_verdict

EVIDENCE_PARENT = "store://evidence"
_REASONS: dict[Verdict, str] = {
    "Pass": "GatesPassed",
    "Fail": "GatesFailed",
    "Inconclusive": "EvidenceInconclusive",
}
_STEPS = 4


def judge(task: Task, context: ChildContext) -> Result:
    """Judge the records of one evaluation, merged first when they are in parts; publish decision, report and numbers.

    Raises:
        ArtifactError: student, teacher, baseline or records cannot be read, or differ from their digests.
        UserError: the spec leaves out an arm that the gates compare.
    """
    if not isinstance(task, JudgeTask | JudgeRoundsTask):
        raise UserError(f"judge needs a task of kind Judge or JudgeRounds, not {task.kind}", field="kind")
    context.progress.update(0, _STEPS, "Reading the records")
    references = resolve(task)
    in_parts = isinstance(task, JudgeRoundsTask)
    records = gather(task, context) if isinstance(task, JudgeRoundsTask) else fetch(task.rollouts, "rollouts")
    comparison = compare(task, references)
    evidence = load_evidence(records, expected_of(task, references, comparison))

    context.progress.update(1, _STEPS, "Judging by nine gates")
    gates = run_gates(evidence, task.gates)
    recorded = with_overrides(gates, task)
    summary = summarise(evidence, recorded, overall(gates))
    more = wanted(evidence, task.gates, {gate.name for gate in recorded if counts(gate)})
    if more > task.episodes_per_task:
        return fitted_result(undecided(summary, more))
    if isinstance(task, JudgeRoundsTask):
        task = publish_merged(task, references, records)
        records = fetch(task.rollouts, "rollouts")

    context.progress.update(2, _STEPS, "Writing the report")
    folder = context.work / "evidence"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    training = training_of(references)
    write_evidence(folder, task, subject_of(task, references), evidence, summary, records, training)

    context.progress.update(3, _STEPS, "Publishing the evidence")
    reference = publish(folder, "Evidence", evidence_properties(task, references, summary), EVIDENCE_PARENT)
    record_verdict(task, references, reference)
    context.progress.update(_STEPS, _STEPS, summary.verdict)
    return fitted_result(
        Result(
            kind="Judge",
            outcome="Succeeded",
            reason=_REASONS[summary.verdict],
            message=summary.sentence,
            verdict=summary.verdict,
            gates=gates,
            arms=arm_results(summary.arms),
            rollouts=StatusRef(uri=task.rollouts.uri, digest=task.rollouts.digest) if in_parts else None,
            evidence=reference,
        )
    )


def undecided(summary: Summary, more: int) -> Result:
    """No verdict, and no evidence to publish: what is open after this look, and how many episodes the next takes."""
    return Result(
        kind="Judge",
        outcome="Succeeded",
        reason="MoreEpisodes",
        message=summary.sentence,
        wanted_episodes=more,
        gates=list(summary.gates),
        arms=arm_results(summary.arms),
    )


def with_overrides(gates: list[GateResult], task: JudgingTask) -> list[GateResult]:
    """The gates as the record has them: the verdicts as they were measured, and the overrides beside them."""
    return attach(gates, task.overrides, datetime.fromisoformat(task.asked)) if task.asked else gates


def write_evidence(
    folder: Path,
    task: JudgeTask,
    subject: Subject,
    evidence: Evidence,
    summary: Summary,
    records: Path,
    training: Training | None,
) -> None:
    """Write ``decision.json``, ``report.json`` and ``report.html``; the same input gives the same bytes."""
    expected = evidence.expected
    pairs = 0 if isinstance(evidence.pairs, Gap) else len(evidence.pairs)
    decision = decision_json(subject, summary, expected.suite, len(expected.tasks), pairs)
    (folder / "decision.json").write_text(decision + "\n", encoding="utf-8")
    films = choose_films(records, evidence)
    report = build_report(task, subject, evidence, summary, films, training)
    (folder / "report.json").write_text(as_json(report), encoding="utf-8")
    page = render_page(report, data_uris(records, films), None if training is None else training.picture)
    (folder / "report.html").write_text(page, encoding="utf-8")


def expected_of(task: JudgeTask | JudgeRoundsTask, references: References, comparison: Comparison) -> Expected:
    """What the records have to be about."""
    evaluation = task.evaluation
    return Expected(
        suite=evaluation.suite,
        tasks=tuple(dict.fromkeys(evaluation.tasks)),
        episodes_per_task=task.episodes_per_task,
        served=comparison.served,
        baseline=comparison.baseline,
        student_digest=references.student.digest,
        baseline_digest=references.baseline.digest,
        looks=() if evaluation.evidence is not None else looks_of(evaluation),
    )


def subject_of(task: JudgeTask, references: References) -> Subject:
    """What was distilled, from the student's manifest."""
    properties = references.properties
    options = dict(properties.method)
    return Subject(
        resource=task.resource,
        policy_type=properties.policy_type,
        method=str(options.pop("name", "unknown")),
        options=options,
        draws=properties.draws,
        teacher_steps=properties.teacher_steps,
        student=_artifact(references.student),
        teacher=_artifact(references.teacher),
        baseline=_artifact(references.baseline),
        dataset=_artifact(properties.dataset),
        rollouts=Artifact(task.rollouts.uri, task.rollouts.digest),
        parity_difference=task.parity_difference,
        parameters=properties.parameters,
        training_seconds=properties.training_seconds,
        trainer_version=properties.trainer_version,
        evaluator_version=flowstill.__version__,
        published_step=properties.published_step,
    )


def training_of(references: References) -> Training | None:
    """The student's own record of its training; None: it was made before there was one.

    Raises:
        ArtifactError: it cannot be read.
    """
    folder = fetch(references.student, "spec.student")
    curve = read_curve(folder)
    return None if curve is None else Training(curve, data_uri(folder / PICTURE))


def evidence_properties(task: JudgeTask, references: References, summary: Summary) -> EvidenceProperties:
    """The manifest's description of the evidence."""
    return EvidenceProperties(
        suite=task.evaluation.suite,
        tasks=list(dict.fromkeys(task.evaluation.tasks)),
        arms=[arm.name for arm in summary.arms],
        seeds=[task.evaluation.seed],
        versions={"flowstill": flowstill.__version__},
        student=references.student,
        teacher=references.teacher,
        baseline=references.baseline,
        rollouts=StatusRef(uri=task.rollouts.uri, digest=task.rollouts.digest),
        verdict=summary.verdict,
        gates=list(summary.gates),
    )


def _artifact(reference: StatusRef) -> Artifact:
    return Artifact(reference.uri, reference.digest)
