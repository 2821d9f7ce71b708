"""Which arms run, against what, and what is refused before anything is simulated."""

import pytest

from flowstill.api.children import RolloutsTask
from flowstill.api.fields import ArtifactRef, StatusRef
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.manifest import OnnxDescription, StudentProperties
from flowstill.artifacts.stores import publish
from flowstill.errors import ArtifactError, UserError
from flowstill_evaluator.arms import References, compare, reference_arm, resolve

TEACHER = StatusRef(uri="store://teachers/t", digest="sha256:" + "1" * 64)
STUDENT = StatusRef(uri="store://students/s", digest="sha256:" + "2" * 64)
OTHER = StatusRef(uri="store://students/o", digest="sha256:" + "3" * 64)


def properties(draws=8, teacher=TEACHER, **changes):
    return StudentProperties(
        policy_type="flowstill_smolvla",
        method={"name": "snapflow"},
        multi_step=False,
        draws=draws,
        draw_neighbours=3,
        action_steps=8,
        chunk_size=16,
        action_dim=4,
        padded_action_dim=32,
        teacher=teacher,
        teacher_steps=12,
        dataset=TEACHER,
        seed=0,
        inputs_digest="sha256:" + "4" * 64,
        trainer_version="0",
        versions={},
        precision="fp32",
        onnx=OnnxDescription(file="onnx/student.onnx", inputs=[], outputs=[]),
        parameters=1,
        training_seconds=1.0,
        **changes,
    )


def task(student=STUDENT, baseline=None, **evaluation):
    return RolloutsTask(
        resource="r",
        uid="u",
        work="store://work/u",
        student=ArtifactRef(uri=student.uri, digest=student.digest),
        baseline=baseline,
        evaluation={"suite": "metaworld", "tasks": ["reach-around"], **evaluation},
    )


def references(draws=8, baseline=TEACHER, baseline_is_student=False):
    return References(STUDENT, properties(draws), TEACHER, baseline, baseline_is_student)


def test_all_arms_with_the_teachers_own_steps():
    comparison = compare(task(), references())
    assert [(a.name, a.steps, a.draws, a.runtime) for a in comparison.arms] == [
        ("teacher@10", 12, 1, "torch"),
        ("teacher@4", 4, 1, "torch"),
        ("teacher@2", 2, 1, "torch"),
        ("teacher@1", 1, 1, "torch"),
        ("teacher@10-draws", 12, 8, "torch"),
        ("student", None, 1, "onnx"),
        ("student-draws", None, 8, "onnx"),
    ]
    assert (comparison.served, comparison.baseline, comparison.action_steps) == ("student-draws", "teacher@10", 8)
    assert comparison["student"].reference == f"{STUDENT.uri}@{STUDENT.digest}"
    assert reference_arm(references()) == comparison["teacher@10"]
    assert comparison["teacher@10-draws"].neighbours == properties().draw_neighbours


def test_a_student_of_one_draw_is_served_with_one():
    comparison = compare(task(), references(draws=1))
    assert comparison.served == "student"
    assert not [a.name for a in comparison.arms if "draws" in a.name]
    with pytest.raises(UserError, match=r"spec\.evaluation\.arms: the student has one draw"):
        compare(task(arms=["teacher@10", "student", "student-draws"]), references(draws=1))


@pytest.mark.parametrize(
    ("arms", "missing"), [(["teacher@10", "student"], "student-draws"), (["student", "student-draws"], "teacher@10")]
)
def test_arms_that_the_gates_need_must_be_there(arms, missing):
    with pytest.raises(UserError, match=rf"spec\.evaluation\.arms: the gates compare {missing}"):
        compare(task(arms=arms), references())


def test_another_student_as_baseline_is_an_arm_of_its_own():
    comparison = compare(task(arms=["student", "student-draws"]), references(baseline=OTHER, baseline_is_student=True))
    arm = comparison[comparison.baseline]
    assert (arm.name, arm.digest, arm.steps, arm.draws, arm.runtime) == ("baseline", OTHER.digest, None, None, "onnx")


def test_another_checkpoint_as_baseline_takes_the_teachers_steps():
    arm = compare(task(), references(baseline=OTHER))["baseline"]
    assert (arm.steps, arm.draws, arm.runtime) == (12, 1, "torch")


def test_runner_torch_is_for_students_too():
    assert {a.runtime for a in compare(task(runner="torch"), references()).arms} == {"torch"}


def test_action_steps():
    assert compare(task(actionSteps=3), references()).action_steps == 3
    with pytest.raises(UserError, match=r"spec\.evaluation\.actionSteps: 17 is more than .* 16"):
        compare(task(actionSteps=17), references())


def test_resolve_reads_and_pins(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWSTILL_STORE", f"file://{tmp_path}/store")
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "config.json").write_text("{}")
    pinned = StatusRef(uri=f"file://{teacher}", digest=tree_digest(teacher))
    folder = tmp_path / "student"
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "student.onnx").write_bytes(b"graph")
    student = publish(folder, "Student", properties(teacher=pinned))
    found = resolve(task(student))
    assert (found.teacher, found.baseline, found.baseline_is_teacher) == (pinned, pinned, True)
    assert found.properties == properties(teacher=pinned)
    again = resolve(task(student, baseline=ArtifactRef(uri=student.uri, digest=student.digest)))
    assert (again.baseline, again.baseline_is_student, again.baseline_is_teacher) == (student, True, False)
    (teacher / "config.json").write_text("{ }")
    with pytest.raises(ArtifactError, match=r"spec\.teacher\.digest"):
        resolve(task(student))
