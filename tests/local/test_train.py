"""``flowstill-train`` as a process: publishes, reuses, survives being killed, says what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.tiny_run import Tiny, small
from tests.support.warm_children import WarmProcess

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Store:
    """A default store with a tiny teacher and a dataset.

    Attributes:
        warm: where the trainer's processes are forked from; None: they are fresh.
    """

    root: Path
    kind: str
    warm: WarmProcess | None

    @classmethod
    def of(cls, root: Path, tiny: Tiny, warm: WarmProcess | None) -> "Store":
        """With copies of the tiny ones."""
        for name, folder in (("teachers", tiny.teacher_folder), ("datasets", tiny.dataset_folder)):
            shutil.copytree(folder, root / name / "tiny")
        return cls(root, tiny.kind, warm)


@pytest.fixture(scope="module", params=["smolvla", "pi0", "pi05"])
def store(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    if request.param == "smolvla":
        return Store.of(root, request.getfixturevalue("tiny"), request.getfixturevalue("warm"))
    with small(request.param):  # only fresh processes build LeRobot's other policies small
        return Store.of(root, Tiny(tmp_path_factory.mktemp("tiny"), request.param), None)


def write_spec(folder, student=None, refine=None, **training):
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "teacher": {"uri": "store://teachers/tiny"},
        "dataset": {"uri": "store://datasets/tiny"},
        "student": student or {},
        "method": {"targetSteps": 4, "bankSize": 32, "mixRatio": 0.5, "refine": refine or {"steps": 0}},
        "training": {"steps": 8, "batchSize": 4, "warmupSteps": 2, "precision": "fp32", "checkpointEvery": 4}
        | training,
    }
    task = {"kind": "Train", "resource": "tiny", "uid": "1", "work": f"file://{folder}", "spec": spec}
    (folder / "spec.json").write_text(json.dumps(task))
    return folder


def start(folder, store, *, fresh=False):
    """The trainer; SIGKILL is for a fresh process, as only it has nobody between."""
    flags = ["--spec", str(folder / "spec.json"), "--output", str(folder)]
    if fresh or store.warm is None:
        command = [sys.executable, "-m", "tests.support.train_small", store.kind, *flags]
    else:
        command = store.warm.command(["flowstill-train", *flags])
    environment = os.environ | {
        "FLOWSTILL_STORE": f"file://{store.root}",
        "FLOWSTILL_TERMINATION_LOG": str(folder / "termination"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(command, env=environment, cwd=REPOSITORY, stderr=(folder / "stderr").open("a"))


def finish(folder, store):
    code = start(folder, store).wait(600)
    return code, json.loads((folder / "termination").read_text())


def until_checkpoint(folder, process, where="checkpoints"):
    while not list((folder / where).glob("step-*/state.json")):
        assert process.poll() is None, (folder / "stderr").read_text()
        time.sleep(0.05)


def artifact(store, result):
    return store.root / "students" / result["student"]["digest"].replace(":", "-")


def test_publishes_a_student_and_then_reuses_it(store, tmp_path):
    code, result = finish(write_spec(tmp_path / "a", fidelityEvery=3), store)
    assert (code, result["outcome"], result["reason"]) == (0, "Succeeded", "Published"), result
    folder = artifact(store, result)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["kind"] == "Student"
    assert {f["path"] for f in manifest["files"]} >= {
        "policy/config.json", "policy/model.safetensors", "policy/policy_preprocessor.json", "onnx/student.onnx",
    }  # fmt: skip
    assert manifest["properties"]["policyType"] == f"flowstill_{store.kind}"
    parity = manifest["properties"]["onnx"]["parity"]
    assert [p["batch"] for p in parity if p["draws"] == 8] == list(range(1, 9))
    assert all(0 < p["difference"] < 1e-4 for p in parity)
    assert manifest["properties"]["inputsDigest"] == result["inputsDigest"]
    assert [f["name"] for f in result["fidelity"]][-1] == "student-draws"
    curve = json.loads((folder / "fidelity" / "curve.json").read_text())
    assert [look["step"] for look in curve["looks"]] == [3, 6, 8]
    assert curve["publishedStep"] == manifest["properties"]["publishedStep"]
    assert f"published step {curve['publishedStep']} of 8: {curve['reason']}" in result["message"]
    assert (folder / "fidelity" / "curve.png").read_bytes().startswith(b"\x89PNG")

    code, again = finish(write_spec(tmp_path / "b", checkpointEvery=2, fidelityEvery=3), store)
    assert (code, again["reason"], again["reused"]) == (0, "AlreadyPublished", True)
    assert again["student"] == result["student"]
    assert not (tmp_path / "b" / "checkpoints").exists()


def test_what_was_published_holds_parity_on_its_dataset(store, tmp_path):
    """The next child of the chain, in a process of its own, as ``spec.validation.after`` asks for it."""
    code, result = finish(write_spec(tmp_path / "a", fidelityEvery=3), store)
    task = {
        "kind": "DatasetParity",
        "resource": "tiny",
        "uid": "1",
        "work": f"file://{tmp_path}/parity",
        "student": result["student"],
        "dataset": {"uri": "store://datasets/tiny"},
    }
    (tmp_path / "parity.json").write_text(json.dumps(task))
    flags = ["--spec", str(tmp_path / "parity.json"), "--output", str(tmp_path / "parity")]
    command = [sys.executable, "-m", "tests.support.evaluate_small", store.kind, "parity", *flags]
    environment = os.environ | {"FLOWSTILL_STORE": f"file://{store.root}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    found = json.loads((tmp_path / "parity" / "result.json").read_text())
    assert (code, done.returncode, found["reason"]) == (0, 0, "ParityHolds"), done.stderr
    assert 0 < found["difference"] < found["threshold"]


def stop_after_a_checkpoint(work, store, phase):
    """Start it again, send SIGTERM when it has saved once more; the message that it leaves."""
    process = start(work, store)
    before = max((work / phase).glob("step-*")).name
    while max((work / phase).glob("step-*")).name == before:
        assert process.poll() is None, (work / "stderr").read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143
    said = json.loads((work / "termination").read_text())
    assert said["outcome"] == "Interrupted"
    return said["message"]


@pytest.mark.long
def test_killed_and_stopped_runs_give_the_same_weights(store, tmp_path):
    options = {"steps": 200, "seed": 3, "checkpointEvery": 20, "fidelityEvery": 15}
    killed = write_spec(tmp_path / "killed", **options)
    process = start(killed, store, fresh=True)
    until_checkpoint(killed, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL

    assert "checkpoint is saved" in stop_after_a_checkpoint(killed, store, "checkpoints")

    code, result = finish(killed, store)
    assert (code, result["reused"]) == (0, False)
    weights = (artifact(store, result) / "policy" / "model.safetensors").read_bytes()
    (store.root / "by-inputs").rename(tmp_path / "forgotten")
    code, whole = finish(write_spec(tmp_path / "whole", **options), store)
    assert (code, whole["reused"]) == (0, False)
    assert (artifact(store, whole) / "policy" / "model.safetensors").read_bytes() == weights
    curves = [(artifact(store, found) / "fidelity" / "curve.json").read_bytes() for found in (result, whole)]
    assert curves[0] == curves[1]
    state = json.loads(max((killed / "checkpoints").glob("step-*/state.json")).read_text())
    assert state["teacher"] == json.loads((artifact(store, whole) / "manifest.json").read_text())["properties"][
        "teacher"]["digest"]  # fmt: skip


def test_a_refined_student_is_for_one_step(store, tmp_path):
    code, result = finish(write_spec(tmp_path / "refined", refine={"steps": 4}), store)
    assert (code, result["outcome"], result["reason"]) == (0, "Succeeded", "Published"), result
    assert result["message"].startswith("12 steps in ")  # 8 of training, 4 of refinement
    assert "published step 12 of 12: refined for 4 steps from step 8, nearest" in result["message"]
    curve = json.loads((artifact(store, result) / "fidelity" / "curve.json").read_text())
    assert [(look["step"], look["phase"]) for look in curve["looks"]] == [(8, "training"), (12, "refinement")]
    properties = json.loads((artifact(store, result) / "manifest.json").read_text())["properties"]
    assert properties["multiStep"] is False
    assert (properties["publishedStep"], properties["refinedSteps"]) == (12, 4)
    assert properties["method"]["refine"] == {
        "name": "dmd", "steps": 4, "learningRate": 1e-4, "fakeLearningRate": 3e-4, "fakeSteps": 2,
    }  # fmt: skip
    assert json.loads((artifact(store, result) / "policy" / "config.json").read_text())["multi_step"] is False
    said = (tmp_path / "refined" / "stderr").read_text()
    assert "training: 1 of 12" in said
    assert "refining: 9 of 12" in said
    assert "refining: 12 of 12" in said


@pytest.mark.long
def test_a_run_killed_in_its_refinement_does_not_train_again_and_gives_the_same_weights(store, tmp_path):
    options = {"refine": {"steps": 60}, "seed": 4}
    killed = write_spec(tmp_path / "killed", **options)
    process = start(killed, store, fresh=True)
    until_checkpoint(killed, process, "refine")
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    (killed / "stderr").unlink()
    trained = {path: path.stat().st_mtime_ns for path in (killed / "checkpoints").rglob("*")}

    assert "of refinement; the checkpoint is saved" in stop_after_a_checkpoint(killed, store, "refine")

    code, result = finish(killed, store)
    assert (code, result["reused"]) == (0, False), result
    assert "training: " not in (killed / "stderr").read_text()
    assert {path: path.stat().st_mtime_ns for path in (killed / "checkpoints").rglob("*")} == trained
    weights = (artifact(store, result) / "policy" / "model.safetensors").read_bytes()
    (store.root / "by-inputs").rename(tmp_path / "forgotten")
    code, whole = finish(write_spec(tmp_path / "whole", **options), store)
    assert (code, whole["reused"]) == (0, False)
    assert (artifact(store, whole) / "policy" / "model.safetensors").read_bytes() == weights


@pytest.mark.long
def test_a_wrong_teacher_is_the_users_error(store, tmp_path):
    folder = write_spec(tmp_path / "wrong")
    (store.root / "teachers" / "other").mkdir()
    (store.root / "teachers" / "other" / "config.json").write_text('{"type": "act"}')
    text = (folder / "spec.json").read_text().replace("teachers/tiny", "teachers/other")
    (folder / "spec.json").write_text(text)
    code, result = finish(folder, store)
    assert (code, result["outcome"], result["reason"]) == (65, "UserError", "TeacherRejected")
    assert "spec.teacher" in result["message"]


@pytest.mark.long
def test_state_out_is_for_policies_with_the_state_in_their_prompt(store, tmp_path):
    code, result = finish(write_spec(tmp_path / "out", student={"stateOut": True}), store)
    if store.kind != "pi05":
        assert (code, result["outcome"]) == (65, "UserError")
        assert "spec.student.stateOut" in result["message"]
        return
    assert (code, result["outcome"]) == (0, "Succeeded"), result
    assert json.loads((artifact(store, result) / "policy" / "config.json").read_text())["state_out"] is True
