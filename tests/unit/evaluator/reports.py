"""Reports of synthetic records, made by the judge's own code."""

from flowstill.api.children import JudgeTask
from flowstill.api.fields import ArtifactRef
from flowstill_evaluator.gates.chain import overall, run_gates
from flowstill_evaluator.report.build import build_report
from flowstill_evaluator.report.media import choose_films, data_uris
from flowstill_evaluator.report.page import render_page
from flowstill_evaluator.report.subject import Artifact, Subject
from flowstill_evaluator.report.summary import summarise
from tests.unit.evaluator import synthetic as syn


def subject(**changes):
    teacher = Artifact("store://teachers/reach-around", syn.TEACHER)
    values = {
        "resource": "default/reach-around",
        "policy_type": "smolvla",
        "method": "snapflow",
        "options": {"targetSteps": 10, "mixRatio": 1.0, "consistencyWeight": 1.0, "bankSize": 4096},
        "draws": 8,
        "teacher_steps": 10,
        "student": Artifact("store://students/sha256-" + "5" * 64, syn.STUDENT),
        "teacher": teacher,
        "baseline": teacher,
        "dataset": Artifact("store://datasets/reach-around", "sha256:" + "3" * 64),
        "rollouts": Artifact("store://evidence/sha256-" + "2" * 64, "sha256:" + "2" * 64),
        "parity_difference": 3.4e-6,
        "parameters": 1_214_336,
        "training_seconds": 231.4,
        "trainer_version": "0.1.0",
        "evaluator_version": "0.1.0",
    }
    return Subject(**(values | changes))


def judge_task(about=None, gates=None, tasks=("reach-around",), episodes=200):
    """What the judge would have been asked."""
    about = about or subject()
    return JudgeTask(
        resource=about.resource,
        uid="1",
        work="store://work/1",
        student=ArtifactRef(uri=about.student.uri, digest=about.student.digest),
        evaluation={"suite": "metaworld", "tasks": list(tasks), "episodesPerTask": episodes},
        gates=gates or {},
        rollouts=ArtifactRef(uri=about.rollouts.uri, digest=about.rollouts.digest),
        parity_difference=about.parity_difference,
    )


def report_of(folder, about=None, gates=None, training=None, **changes):
    """The document of a records folder."""
    about = about or subject()
    task = judge_task(about, gates, **changes)
    evidence = syn.load(folder, **changes)
    results = run_gates(evidence, task.gates)
    summary = summarise(evidence, results, overall(results))
    return build_report(task, about, evidence, summary, choose_films(folder, evidence), training)


def page_of(folder, about=None, gates=None, training=None, **changes):
    """The page of a records folder."""
    report = report_of(folder, about, gates, training, **changes)
    return render_page(report, data_uris(folder, report.films), None if training is None else training.picture)
