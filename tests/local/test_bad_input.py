"""Bad input ends in an error that says what is wrong, where and what to do: at once, once, and with nothing lost.

What the files themselves show is refused before anything starts (``test_bad_manifests.py``); the rest is found by real
children, many in one ``flowstill run``, so that one bad resource is also shown not to hold up another.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from flowstill.api.fields import StatusRef
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.manifest import RolloutsProperties, read_manifest
from flowstill.artifacts.stores import publish
from flowstill.artifacts.uris import local_path
from tests.support import spoiled, tiny_smolvla
from tests.support.ground import Ground, resource
from tests.support.tiny_run import Tiny
from tests.support.tiny_student import Exported, publish_student
from tests.support.warm_children import WarmProcess

WRONG_DIGEST = "sha256:" + "0" * 64
FOUND_BY = {"train": "Trained", "parity": "Validated", "rollouts": "Evaluated"}
"""The condition that each child decides."""
GOOD_TEACHER, GOOD_DATASET = {"uri": "file://TEACHERS/good"}, {"uri": "file://DATASETS/good"}
TRAINING = {"steps": 40, "batchSize": 2, "warmupSteps": 0, "precision": "fp32", "checkpointEvery": 1, "seed": 0}


def distill(**changes: Any) -> dict[str, Any]:
    return {
        "teacher": {"uri": "store://t"},
        "dataset": {"uri": "store://d"},
        "training": {"steps": 1},
        "method": {"mixRatio": 0.5, "bankSize": 0, "refine": {"steps": 0}},
        **changes,
    }


def evaluate(**changes: Any) -> dict[str, Any]:
    return {
        "student": {"uri": "store://students/s", "digest": WRONG_DIGEST},
        "evaluation": {"suite": "metaworld", "tasks": ["reach-around"]} | changes,
    }


@dataclass(frozen=True)
class Case:
    """A resource that must fail, the child that finds out, the reason, and what its message has to have."""

    name: str
    spec: dict[str, Any]
    reason: str
    words: tuple[str, ...]
    role: str = "train"

    @property
    def kind(self) -> str:
        return "DistillJob" if self.role == "train" else "StudentRollout"


def teacher_cases() -> list[Case]:
    def case(name: str, *words: str, reason: str = "TeacherRejected", **more: Any) -> Case:
        spec = distill(teacher={"uri": f"file://TEACHERS/{name}", **more}, dataset=GOOD_DATASET)
        return Case(f"teacher-{name.partition('.')[0]}", spec, reason, words)

    here = "spec.teacher: "
    return [
        case("act", here + "the checkpoint is of type 'act'", "pi0, pi05, smolvla"),
        case("adapter", here, "is a PEFT adapter, not a whole policy; where peft is installed merge it first",
             "python -m flowstill.policies.merge_adapter "),
        case("missing-tensor", here, f"missing: {spoiled.TENSOR} (1 in all)", "Save the policy with LeRobot"),
        case("misshaped", here, f"of another shape: {spoiled.TENSOR}"),
        case("nan-weights", here, f"not finite: {spoiled.TENSOR}"),
        case("photographs", here, "lacks config.json", "save_pretrained"),
        case("student", here + "the checkpoint is a one-step student already"),
        case("file.safetensors", "spec.teacher.uri: ", "a file, and an artifact is a folder", "flowstill store push",
             reason="ArtifactUnreadable"),
        case("nowhere", "spec.teacher.uri: ", "nothing there", reason="ArtifactUnreadable"),
        case("good", "spec.teacher.digest: ", f"not {WRONG_DIGEST}", reason="DigestMismatch", digest=WRONG_DIGEST),
        Case("teacher-store", distill(teacher={"uri": "store://teachers/none"}), "ArtifactUnreadable",
             ("spec.teacher.uri: store://teachers/none cannot be read: nothing there", "flowstill store push")),
        Case("chunk", distill(teacher=GOOD_TEACHER, dataset=GOOD_DATASET, student={"actionSteps": 7}), "InvalidInput",
             ("spec.student.actionSteps: 7 is more",)),
        Case("precision", distill(teacher=GOOD_TEACHER, dataset=GOOD_DATASET, export={"precision": "bf16"}),
             "NoKernels", ("spec.export.precision: ONNX Runtime", "no bf16 kernel for MatMul in CPUExecutionProvider",
                           "choose fp16 or fp32")),
    ]  # fmt: skip


def dataset_cases() -> list[Case]:
    def case(name: str, *words: str, reason: str = "DatasetRejected", **more: Any) -> Case:
        spec = distill(teacher=GOOD_TEACHER, dataset={"uri": f"file://DATASETS/{name}", **more})
        return Case(f"dataset-{name}", spec, reason, words)

    here = "spec.dataset: "
    episodes = GOOD_DATASET | {"episodes": [1, 3]}
    renamed = GOOD_DATASET | {"renameMap": {"observation.a": "b"}}
    huge = {"uri": "file://DATASETS/huge-action"}
    loss = ("spec.training: step ", "on the dataset's frames 0", "kept in ")
    return [
        case("action-size", here + "action has shape (7,), the policy's has (4,)"),
        case("state-size", here + "observation.state has shape (9,), the policy's has (7,)"),
        case("camera", "spec.dataset.renameMap: the policy needs observation.images.front",
             "renameMap: {observation.images.top: observation.images.front}"),
        case("old", here + "the dataset is of LeRobot's format v2.1",
             "convert_dataset_v21_to_v30 --repo-id=local/dataset --push-to-hub=false --root=DATASETS/old"),
        case("empty", here + "the dataset has no episodes"),
        case("half", here, "does not open as a LeRobotDataset v3; copy it again"),
        case("photographs", here, "info.json cannot be read", "give the folder that holds meta and data"),
        case("nan-action", here + "action of frame 0 is not finite (1 frames in all)", "spec.dataset.episodes"),
        case("good", "spec.dataset.digest: ", f"not {WRONG_DIGEST}", reason="DigestMismatch", digest=WRONG_DIGEST),
        case("none", "spec.dataset.uri: ", "nothing there", reason="ArtifactUnreadable"),
        Case("dataset-episodes", distill(teacher=GOOD_TEACHER, dataset=episodes), "DatasetRejected",
             ("spec.dataset.episodes: there is no episode 3; the dataset has episodes 0 to 2",)),
        Case("dataset-rename", distill(teacher=GOOD_TEACHER, dataset=renamed),
             "DatasetRejected", ("spec.dataset.renameMap: the dataset has no feature 'observation.a'",)),
        Case("loss", distill(teacher=GOOD_TEACHER, dataset=huge, training=TRAINING), "NonFiniteLoss", loss),
    ]  # fmt: skip


def rollout_cases() -> list[Case]:
    def case(name: str, *words: str, reason: str = "InvalidInput", student: Any = "STUDENT", baseline: Any = None,
             teacher: Any = None, role: str = "parity", **evaluation: Any) -> Case:  # fmt: skip
        camera = {"renameMap": {"observation.images.top": tiny_smolvla.CAMERA}}
        spec = evaluate(**camera | evaluation) | {"student": student}
        more = {"baseline": baseline, "teacher": teacher}
        spec |= {key: value for key, value in more.items() if value is not None}
        return Case(f"rollout-{name}", spec, reason, (f"{role}: ", *words), role)

    teacher_uri = "file://TEACHERS/good"
    pinned = {"uri": teacher_uri, "digest": WRONG_DIGEST}
    return [
        case("task", "spec.evaluation.tasks: the suite metaworld has no task 'reach-under'", "reach-around",
             tasks=["reach-under"]),
        case("state", "spec.evaluation.tasks: the student was trained on states of 7 numbers, drawer-open-v3 has 4: ",
             tasks=["drawer-open-v3"], renameMap={"observation.images.black": tiny_smolvla.CAMERA}),
        case("camera", "spec.evaluation.renameMap: the student expects 'observation.images.front', drawer-open-v3 ",
             tasks=["drawer-open-v3"], renameMap={}),
        case("map", "spec.evaluation.renameMap: reach-around has no 'observation.a'",
             renameMap={"observation.a": "b"}),
        case("baseline-arm", "spec.evaluation.arms: the gates compare teacher@10; add it",
             arms=["teacher@4", "student-draws"]),
        case("served-arm", "spec.evaluation.arms: the gates compare student-draws; add it",
             arms=["teacher@10", "student"]),
        case("draws", "spec.evaluation.arms: the student has one draw; leave out student-draws",
             student="ONE-DRAW", arms=["teacher@10", "student", "student-draws"]),
        case("steps", "spec.evaluation.actionSteps: 7 is more than the student's chunk of 6", actionSteps=7),
        case("tampered", "spec.student.uri: ", "student.onnx has other bytes than its manifest says",
             reason="DigestMismatch", student="TAMPERED"),
        case("digest", "spec.student.digest: ", f"not {WRONG_DIGEST}", reason="DigestMismatch", student="OTHER"),
        case("none", "spec.student.uri: ", "nothing there", reason="ArtifactUnreadable",
             student={"uri": "store://students/none", "digest": WRONG_DIGEST}),
        case("no-student", "spec.student.uri: ", "is TEACHERS/good an artifact of Flowstill?",
             reason="ArtifactUnreadable", student="TEACHER"),
        case("teacher", "spec.teacher.digest: ", reason="DigestMismatch", teacher=pinned),
        case("baseline", "spec.baseline.digest: ", reason="DigestMismatch", baseline=pinned),
        case("baseline-kind", "spec.baseline: file://TEACHERS/act (arm baseline): ", "the checkpoint is of type 'act'",
             reason="TeacherRejected", baseline="ACT", role="rollouts", episodesPerTask=1),
    ]  # fmt: skip


CASES = [*teacher_cases(), *dataset_cases(), *rollout_cases()]


CASES = [*teacher_cases(), *dataset_cases(), *rollout_cases()]
BATCH = 13


@dataclass(frozen=True)
class Ended:
    """All cases after one run each; ``stand_ins`` are what the words in capitals stand for."""

    ground: Ground
    stand_ins: dict[str, Any]
    output: str

    def filled(self, value: Any) -> Any:
        """The value with real paths and references."""
        text = json.dumps(value)
        for name, real in self.stand_ins.items():
            text = text.replace(f'"{name}"', json.dumps(real)) if isinstance(real, dict) else text.replace(name, real)
        return json.loads(text)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, exported: Exported, warm: WarmProcess) -> Ended:
    """All of them, run once, some together."""
    root = tmp_path_factory.mktemp("bad")
    ground = Ground(root, warm)
    found = Ended(ground, make_inputs(root, tiny, exported, ground), "")
    documents = [resource(case.kind, case.name, found.filled(case.spec)) for case in CASES]
    documents.insert(1, resource("StudentRollout", "behind", evaluate() | {"student": {"distillJob": "teacher-act"}}))
    output = ""
    for start in range(0, len(documents), BATCH):
        said = ground.run(*documents[start : start + BATCH])
        assert (said.code, said.errors) == (1, "")
        output += said.output
    return replace(found, output=output)


def make_inputs(root: Path, tiny: Tiny, exported: Exported, ground: Ground) -> dict[str, Any]:
    """Every folder that a case names, and what the cases' capitals stand for."""
    teachers, datasets = root / "teachers", root / "datasets"
    student, one_draw, folder = make_students(exported, ground.store)
    shutil.copytree(tiny.teacher_folder, teachers / "good")
    shutil.copytree(folder / "policy", teachers / "student")
    shutil.copytree(tiny.dataset_folder, datasets / "good")
    spoiled.teachers(tiny.teacher_folder, teachers)
    spoiled.datasets(tiny.dataset_folder, datasets)
    shutil.copytree(teachers / "photographs", datasets / "photographs")
    tampered = shutil.copytree(folder, root / "tampered")
    spoiled.flip_a_bit(tampered / "onnx" / "student.onnx")
    return {
        "TEACHERS": str(teachers),
        "DATASETS": str(datasets),
        "STUDENT": student,
        "ONE-DRAW": one_draw,
        "TAMPERED": {"uri": f"file://{tampered}", "digest": student["digest"]},
        "OTHER": {"uri": student["uri"], "digest": WRONG_DIGEST},
        "TEACHER": {"uri": f"file://{teachers}/good", "digest": tree_digest(teachers / "good")},
        "ACT": {"uri": f"file://{teachers}/act", "digest": tree_digest(teachers / "act")},
    }


def make_students(exported: Exported, store: Path) -> tuple[dict[str, str], dict[str, str], Path]:
    """A published student, the same that says it has one draw, and the folder of the first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWSTILL_STORE", f"file://{store}")
        ref = publish_student(exported)
        folder = local_path(ref.uri)
        properties = read_manifest(folder).properties.model_copy(update={"draws": 1})
        one_draw = publish(exported.student, "Student", properties)
    return ref.model_dump(), one_draw.model_dump(), folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_fails_once_and_says_why(ended: Ended, case: Case) -> None:
    ground = ended.ground
    log = ground.log(case.name, case.role)
    status = ground.resource(case.kind, case.name)["status"]
    failed = ground.condition(case.kind, case.name, "Failed")
    assert failed is not None
    assert (status["phase"], failed["status"], failed["reason"]) == ("Failed", "True", case.reason), log
    words = ended.filled(list(case.words))
    assert [text for text in words if text not in failed["message"]] == [], failed["message"]
    step = ground.condition(case.kind, case.name, FOUND_BY[case.role])
    assert step is not None
    assert (step["status"], step["reason"]) == ("False", case.reason)
    assert f"{case.kind} {case.name}: Failed\n  {failed['message']}\n" in ended.output
    assert ground.starts(case.name, case.role) == 1
    assert "nobody foresaw" not in log


def test_a_rollout_behind_a_failed_distillation_fails_with_its_words(ended: Ended) -> None:
    failed = ended.ground.condition("StudentRollout", "behind", "Failed")
    assert failed is not None
    assert failed["reason"] == "DistillJobFailed"
    assert failed["message"].startswith("DistillJob teacher-act failed: spec.teacher: the checkpoint is of type 'act'")
    assert ended.ground.starts("behind", "parity") == 0


def test_a_loss_that_is_none_keeps_the_last_good_checkpoint(ended: Ended) -> None:
    message = ended.ground.resource("DistillJob", "loss")["status"]["message"]
    step = int(message.split("step ")[1].split(":")[0])
    folder = ended.ground.work("DistillJob", "loss", "train") / "checkpoints"
    assert step > 2
    assert sorted(path.name for path in folder.iterdir()) == [f"step-{s:09d}" for s in (step - 2, step - 1)]
    weights = load_file(folder / f"step-{step - 1:09d}" / "weights.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert str(folder) in message


def test_what_parity_found_is_kept_when_rollouts_fail(ended: Ended) -> None:
    status = ended.ground.resource("StudentRollout", "rollout-baseline-kind")["status"]
    assert status["parityDifference"] < 1e-3
    assert ended.ground.starts("rollout-baseline-kind", "parity") == 1


def test_get_shows_them_all(ended: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    said = ended.ground.give("get", "--state", str(ended.ground.state))
    lines = {words[0]: words[1] for words in map(str.split, said.output.splitlines()) if len(words) > 1}
    names = {name.partition("/")[2]: phase for name, phase in lines.items()}
    assert {names[case.name] for case in CASES} == {"Failed"}


@pytest.mark.parametrize("role", ["rollouts", "judge"])
def test_later_children_refuse_a_tampered_student_too(ended: Ended, tmp_path: Path, role: str) -> None:
    code, result = evaluate_child(ended, tmp_path, role, records(ended, tmp_path))
    assert (code, result["reason"]) == (65, "DigestMismatch")
    assert "spec.student.uri: " in result["message"]
    assert "student.onnx has other bytes" in result["message"]


def test_the_judge_refuses_tampered_records(ended: Ended, tmp_path: Path) -> None:
    ref = records(ended, tmp_path)
    spoiled.flip_a_bit(ended.ground.store / ref["uri"].removeprefix("store://") / "episodes.jsonl")
    code, result = evaluate_child(ended, tmp_path, "judge", ref, student="STUDENT")
    assert (code, result["reason"]) == (65, "DigestMismatch")
    assert result["message"].startswith("rollouts.uri: ")


def evaluate_child(
    ended: Ended, folder: Path, role: str, ref: dict[str, str], student: str = "TAMPERED"
) -> tuple[int, dict[str, Any]]:
    """One child with that student; its exit code and its result."""
    task = {
        "kind": role.capitalize(), "resource": "r", "uid": "u", "work": "store://work/u", "evaluation":
        evaluate()["evaluation"], "student": ended.stand_ins[student],
    } | ({"rollouts": ref, "parityDifference": 0.0} if role == "judge" else {})  # fmt: skip
    (folder / "spec.json").write_text(json.dumps(task))
    command = ["flowstill-evaluate", role, "--spec", str(folder / "spec.json"), "--output", str(folder / "work")]
    environment = os.environ | {"FLOWSTILL_STORE": f"file://{ended.ground.store}"}
    done = subprocess.run(ended.ground.warm.command(command), env=environment, cwd=folder, capture_output=True)
    return done.returncode, json.loads((folder / "work" / "result.json").read_text())


def records(ended: Ended, folder: Path) -> dict[str, str]:
    """Published records of nothing much."""
    (folder / "records").mkdir()
    (folder / "records" / "episodes.jsonl").write_text(f"{folder.name}\n")
    ref = StatusRef.model_validate(ended.stand_ins["STUDENT"])
    properties = RolloutsProperties(
        suite="metaworld", tasks=["reach-around"], arms=[], seeds=[0], versions={}, student=ref, teacher=ref,
        baseline=ref,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWSTILL_STORE", f"file://{ended.ground.store}")
        return publish(folder / "records", "Rollouts", properties, "store://evidence").model_dump()


def test_the_same_command_tries_what_failed_again(tmp_path: Path, warm: WarmProcess, tiny: Tiny) -> None:
    ground = Ground(tmp_path, warm)
    job = resource("DistillJob", "again", distill(teacher={"uri": "store://teachers/t"}))
    assert ground.run(job).code == 1
    uid = ground.resource("DistillJob", "again")["metadata"]["uid"]
    shutil.copytree(tiny.teacher_folder, ground.store / "teachers" / "t")
    said = ground.run(job)
    assert (said.code, ground.starts("again", "train")) == (1, 2)
    assert ground.resource("DistillJob", "again")["metadata"]["uid"] == uid
    failed = ground.condition("DistillJob", "again", "Failed")
    assert failed is not None
    assert failed["message"].startswith("spec.dataset.uri: store://d cannot be read"), "the teacher is there now"


@pytest.mark.long
def test_the_commands_as_they_are_installed(tmp_path: Path, tiny: Tiny) -> None:
    spec = distill(teacher={"uri": f"file://{tiny.dataset_folder}"})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(resource("DistillJob", "cold", spec)))
    flowstill = Path(sys.executable).with_name("flowstill")
    done = subprocess.run([flowstill, "run", "job.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"DistillJob cold: Failed\n  spec.teacher: {tiny.dataset_folder} lacks config.json" in done.stdout
    assert len(list(tmp_path.glob(".flowstill/state/jobs/cold-train-*/attempt-*"))) == 1
