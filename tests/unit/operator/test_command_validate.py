"""``flowstill validate``: from flags to the child's task, and what its answer means."""

import json
from pathlib import Path

import pytest

from flowstill.api.children import DatasetParityTask
from flowstill.api.fields import StatusRef
from flowstill.api.studentrollout import GateResult
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.stores import publish
from flowstill_operator import cli
from flowstill_operator.children import Child
from flowstill_operator.command import validate
from flowstill_operator.command.single import Answer
from tests.unit.artifacts.samples import make_folder, student_properties
from tests.unit.operator.builders import parity


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The tasks that were asked, each answered by ``answers``; a folder with student, teacher and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWSTILL_STORE", f"file://{tmp_path}/.flowstill/store")
    for name in ("teacher", "data", "mine"):
        make_folder(tmp_path / name, **{"content": name})
    data = StatusRef(uri=f"file://{tmp_path}/data", digest=tree_digest(tmp_path / "data"))
    made = publish(make_folder(tmp_path / "work"), "Student", student_properties(dataset=data))
    Path(".flowstill/store", made.uri.removeprefix("store://")).rename("student")
    asked = []

    async def answer(owner, wanted, command, state, platform, display):
        asked.append((owner, wanted.task, command))
        return Answer(Asked.child, {"parity": Path("/log")})

    monkeypatch.setattr(validate, "ask", answer)
    Asked.child = Child("Succeeded", result=parity(reason="ParityHolds", message="they agree"))
    return asked


class Asked:
    """What the child answers."""

    child: Child | None


def give(capsys, *arguments):
    code = cli.main(["validate", "student", "--json", *arguments])
    said = capsys.readouterr()
    return code, json.loads(said.out), said.err


def test_the_students_own_data_and_precision_are_the_defaults(tmp_path, asked, capsys):
    code, document, said = give(capsys)
    [(owner, task, command)] = asked
    assert isinstance(task, DatasetParityTask)
    assert (owner.kind, owner.name, command) == ("Validation", "student", ["flowstill-evaluate", "parity"])
    assert (task.student.uri, task.student.digest) == (f"file://{tmp_path}/student", tree_digest(tmp_path / "student"))
    assert (task.dataset.uri, task.dataset.digest) == (f"file://{tmp_path}/data", tree_digest(tmp_path / "data"))
    assert (task.reference, task.parity.threshold, task.parity.samples) == (None, 1e-3, 64)
    assert task.uid == owner.uid
    assert task.work == f"store://work/{owner.uid}/parity"
    [resource] = document["resources"]
    assert (code, resource["phase"], resource["verdict"], resource["reason"]) == (0, "Completed", "Pass", "ParityHolds")
    assert resource["parity"] == {"holds": True, "difference": 1e-6, "threshold": 1e-3}
    assert resource["logs"] == {"parity": "/log"}
    assert "Validation student: Completed" in said


def test_the_seeds_line_and_every_other_flag(tmp_path, asked, capsys):
    line = ("--reference", "./teacher/", "--threshold", "1e-4", "--samples", "8", "--dataset", "mine")
    code, _, _ = give(capsys, *line, "--rename-map", "a=b", "--name", "other")
    [(owner, task, _)] = asked
    assert (code, owner.name) == (0, "other")
    assert (task.reference.uri, task.reference.digest) == (
        f"file://{tmp_path}/teacher",
        tree_digest(tmp_path / "teacher"),
    )
    assert (task.parity.threshold, task.parity.samples) == (1e-4, 8)
    assert (task.dataset.uri, task.dataset.digest, task.dataset.rename_map) == (
        f"file://{tmp_path}/mine",
        None,
        {"a": "b"},
    )


def test_two_validations_are_two_children(asked, capsys):
    give(capsys)
    give(capsys)
    assert len({owner.uid for owner, _, _ in asked}) == 2


def gate(verdict):
    return GateResult(name="P4", gate_class="performance", verdict=verdict, message="m")


FAILED = parity(outcome="UserError", reason="ParityFailed", message="they differ", difference=0.5)


@pytest.mark.parametrize(
    ("child", "code", "phase", "verdict", "holds", "reason"),
    [
        (Child("Failed", result=FAILED), 1, "Rejected", "Fail", False, "ParityFailed"),
        (Child("Succeeded", result=parity(gates=[gate("Pass")])), 0, "Completed", "Pass", True, "NearTeacher"),
        (Child("Succeeded", result=parity(gates=[gate("Fail")])), 1, "Rejected", "Fail", True, "FarFromTeacher"),
        (
            Child("Succeeded", result=parity(gates=[gate("Inconclusive")])),
            3,
            "Inconclusive",
            "Inconclusive",
            True,
            "Inconclusive",
        ),
        (
            Child("Failed", result=parity(outcome="UserError", reason="DatasetRejected", difference=None)),
            1,
            "Failed",
            None,
            None,
            "DatasetRejected",
        ),
        (Child("Failed", reason="BackoffLimitExceeded"), 1, "Failed", None, None, "BackoffLimitExceeded"),
        (Child("Succeeded"), 1, "Failed", None, None, "ChildFailed"),
        (Child("Succeeded", result=parity(difference=None)), 1, "Failed", None, None, "Measured"),
    ],
)
def test_what_the_answer_means(asked, capsys, child, code, phase, verdict, holds, reason):
    Asked.child = child
    found, document, _ = give(capsys)
    [resource] = document["resources"]
    assert (found, document["exitCode"], resource["phase"], resource["verdict"]) == (code, code, phase, verdict)
    assert resource["reason"] == reason
    assert (resource["parity"] or {"holds": None})["holds"] is holds
    assert len(resource["gates"]) == len(child.result.gates if child.result else [])


def test_an_interrupt(asked, capsys):
    Asked.child = None
    code, document, said = give(capsys)
    assert (code, document["outcome"], document["resources"]) == (130, "interrupted", [])
    assert "Stopped" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threshold", "0"], "--threshold: 0: Input should be greater than 0"),
        (["--samples", "0"], "--samples: 0: Input should be greater than or equal to 1"),
        (["--reference", "none"], "--reference: none is no folder here"),
        (["--dataset", "none"], "--dataset: none is no folder here"),
        (["--dataset", "store://d"], "--dataset: store://d cannot be read"),
        (["--rename-map", "a"], "--rename-map: 'a': use OLD=NEW"),
        (["--name", "No"], "--name: 'No': use 1 to 40"),
    ],
)
def test_bad_values_name_the_flag_and_ask_nothing(asked, capsys, arguments, words):
    code, document, _ = give(capsys, *arguments)
    assert (code, asked) == (2, [])
    assert document["error"]["message"].startswith(words)


def test_data_that_is_gone_or_changed_asks_for_other_data(tmp_path, asked, capsys):
    (tmp_path / "data/content").write_text("other")
    code, document, _ = give(capsys)
    assert (code, asked) == (2, [])
    assert document["error"]["message"].startswith("--dataset: the data of the student's distillation cannot be read")
    assert give(capsys, "--dataset", "mine")[0] == 0


def test_what_is_no_student_is_refused(asked, capsys):
    assert cli.main(["validate", "teacher"]) == 2
    assert "STUDENT: " in (said := capsys.readouterr().err)
    assert "is no student" in said
