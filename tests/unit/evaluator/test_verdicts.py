"""A question that was judged before gets the published verdict, and nothing is run for it."""

import shutil
import threading
from pathlib import Path

import pytest

from flowstill.api.children import MAX_RESULT_BYTES, ParityTask
from flowstill.api.fields import ArtifactRef
from flowstill.artifacts.manifest import read_manifest
from flowstill.artifacts.stores import fetch, lookup_by_inputs, publish, record_by_inputs
from flowstill.artifacts.uris import local_path
from flowstill.child.context import ChildContext
from flowstill.errors import ArtifactError, DigestMismatch
from flowstill_evaluator import parity
from flowstill_evaluator.arms import resolve
from flowstill_evaluator.verdicts import question
from tests.unit.evaluator.judging import Quiet, published, run

OVERRIDE = {"gate": "P2", "by": "ann", "reason": "a faster arm comes", "expires": "2026-12-31T23:59:59Z"}


class Measured(Exception):
    """Parity went on to load the policies."""


@pytest.fixture
def asked(store, tmp_path, monkeypatch):
    """A judged question, its result, and how another rollout asks."""

    def load(task, properties):
        raise Measured

    monkeypatch.setattr(parity, "_both_runtimes", load)
    task = published(tmp_path)
    result, _ = run(task, tmp_path)
    shared = {name: getattr(task, name) for name in ParityTask.model_fields if name in type(task).model_fields}
    shared |= {"kind": "Parity", "resource": "robots/again", "uid": "2", "work": "store://work/2"}
    return task, result, ParityTask.model_validate(shared)


def ask(task):
    return parity.run(task, ChildContext(Path("unused"), threading.Event(), Quiet()))


def test_the_published_verdict_is_the_answer(asked):
    task, judged, again = asked
    found = ask(again)
    assert (found.kind, found.outcome, found.reason, found.reused) == ("Parity", "Succeeded", "Reused", True)
    assert (found.verdict, found.evidence, found.arms) == (judged.verdict, judged.evidence, judged.arms)
    assert [(g.name, g.verdict, g.measured) for g in found.gates] == [
        (g.name, g.verdict, g.measured) for g in judged.gates
    ]
    assert (found.rollouts.digest, found.difference, found.threshold) == (task.rollouts.digest, 3.4e-6, 1e-3)
    assert found.baseline == found.teacher
    assert "judged before as default/reach-around" in found.message
    assert len(found.model_dump_json(by_alias=True)) <= MAX_RESULT_BYTES


def other(task, **changes):
    return task.model_copy(update=changes)


def of_evaluation(**changes):
    return lambda task: other(task, evaluation=task.evaluation.model_copy(update=changes))


CHANGES = {
    "more episodes": of_evaluation(max_episodes_per_task=400),
    "another seed": of_evaluation(seed=1),
    "another task": of_evaluation(tasks=["reach-around", "push-v3"]),
    "a tighter gate": lambda task: ParityTask.model_validate({**task.model_dump(), "gates": {"S3": {"margin": 0.05}}}),
    "more samples of parity": lambda task: other(task, parity=task.parity.model_copy(update={"samples": 65})),
    "an override": lambda task: ParityTask.model_validate({**task.model_dump(), "overrides": [OVERRIDE]}),
    "another evaluator": lambda task: other(task, image="evaluator:2"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_question_is_evaluated(asked, change):
    with pytest.raises(Measured):
        ask(CHANGES[change](asked[2]))


@pytest.mark.parametrize("package", [True, False])
def test_another_code_of_a_suite_is_another_question(asked, tmp_path, monkeypatch, package):
    code = tmp_path / "code" / ("arena/environment.py" if package else "arena.py")
    code.parent.mkdir(parents=True)
    code.write_text("raise RuntimeError('it is looked at, and not imported')\n")
    if package:
        (code.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    custom = {"suite": "custom", "custom": {"entryPoint": "arena.environment:make" if package else "arena:make"}}
    evaluation = {"tasks": ["reach"], "episodesPerTask": 2, **custom}
    task = ParityTask.model_validate({**asked[2].model_dump(), "evaluation": evaluation})
    references = resolve(task)
    before = question(task, references)
    (code.parent / "__pycache__").mkdir()
    (code.parent / "__pycache__" / "x.pyc").write_bytes(b"compiled")
    assert question(task, references) == before
    code.write_text(code.read_text() + "LIMIT = 2\n")
    assert question(task, references) != before


def test_shards_are_no_other_question(asked):
    again = asked[2]
    sharded = other(again, evaluation=again.evaluation.model_copy(update={"shards": 4}))
    assert ask(sharded).reused


def test_the_digests_are_what_counts_and_not_the_addresses(asked):
    task, _, again = asked
    references = resolve(again)
    elsewhere = ArtifactRef(uri=task.student.uri.replace("students", "copies"), digest=task.student.digest)
    shutil.copytree(local_path(task.student.uri), local_path(elsewhere.uri))
    moved = other(again, student=elsewhere)
    assert question(moved, resolve(moved)) == question(again, references)


def test_evidence_that_was_removed_is_no_verdict(asked):
    _, judged, again = asked
    shutil.rmtree(local_path(judged.evidence.uri))
    with pytest.raises(Measured):
        ask(again)


def test_evidence_that_was_changed_is_refused(asked):
    _, judged, again = asked
    page = local_path(judged.evidence.uri) / "report.html"
    page.write_bytes(page.read_bytes() + b" ")
    with pytest.raises(DigestMismatch):
        ask(again)


def test_evidence_about_another_student_is_refused(asked, tmp_path):
    _, judged, again = asked
    folder, references = fetch(judged.evidence, "evidence"), resolve(again)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    properties = read_manifest(copy).properties
    (copy / "manifest.json").unlink()
    wrong = properties.model_copy(update={"student": references.teacher})
    forged = publish(copy, "Evidence", wrong, "store://evidence")
    record_by_inputs(question(again, references), forged)
    with pytest.raises(ArtifactError, match="remove it"):
        ask(again)


def test_the_first_verdict_stays(asked, tmp_path):
    task, judged, again = asked
    second, _ = run(task.model_copy(update={"resource": "robots/second"}), tmp_path)
    assert second.evidence != judged.evidence
    assert ask(again).evidence == judged.evidence
    assert lookup_by_inputs(question(again, resolve(again))) == judged.evidence
