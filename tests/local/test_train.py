"""``flowstill-train`` as a process: publishes, reuses, survives being killed, says what is wrong.

And the chain after it, to the verdict; all of it for every policy.
"""

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

from flowstill.api.children import RolloutsTask
from flowstill.artifacts.uris import local_path
from flowstill_evaluator.arms import compare, resolve
from flowstill_evaluator.memory import measure
from flowstill_evaluator.observations import Batch
from tests.support import tiny_smolvla
from tests.support.ground import Ground, resource
from tests.support.tiny_run import KINDS, Tiny, small, small_path
from tests.support.warm_children import SIZES, WarmProcess

REPOSITORY = Path(__file__).parents[2]
EVALUATION = {
    "suite": "metaworld", "tasks": ["reach-around"], "episodesPerTask": 2, "maxEpisodesPerTask": 2,
    "arms": ["teacher@10", "student-draws"], "videos": "none",
}  # fmt: skip
GATES = {"P2": {"minCalls": 100}, "P3": {"processes": 3}, "P4": {"observations": 8}}
NAMES = {"smolvla": "SmolVLA", "pi0": "π0", "pi05": "π0.5"}


@dataclass(frozen=True)
class Store:
    """A default store with a tiny teacher and a dataset; the trainer's processes are forks of the warm one."""

    root: Path
    kind: str
    warm: WarmProcess

    @classmethod
    def of(cls, root: Path, tiny: Tiny, warm: WarmProcess) -> "Store":
        """With copies of the tiny ones."""
        for name, folder in (("teachers", tiny.teacher_folder), ("datasets", tiny.dataset_folder)):
            shutil.copytree(folder, root / name / "tiny")
        return cls(root, tiny.kind, warm)


@pytest.fixture(scope="module", params=KINDS)
def store(request, tiny, warm, tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    if request.param == tiny.kind:
        return Store.of(root, tiny, warm)
    with small(request.param):
        return Store.of(root, Tiny(tmp_path_factory.mktemp("tiny"), request.param), warm)


def distill_spec(student=None, refine=None, **training):
    """A DistillJob's spec that takes seconds."""
    return {
        "teacher": {"uri": "store://teachers/tiny"},
        "dataset": {"uri": "store://datasets/tiny"},
        "student": student or {},
        "method": {"targetSteps": 4, "bankSize": 32, "mixRatio": 0.5, "refine": refine or {"steps": 0}},
        "training": {"steps": 8, "batchSize": 4, "warmupSteps": 2, "precision": "fp32", "checkpointEvery": 4}
        | training,
    }


def write_spec(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    task = {
        "kind": "Train",
        "resource": "tiny",
        "uid": "1",
        "work": f"file://{folder}",
        "spec": distill_spec(**changes),
    }
    (folder / "spec.json").write_text(json.dumps(task))
    return folder


def start(folder, store, *, fresh=False):
    """The trainer; SIGKILL is for a fresh process, as only it has nobody between."""
    flags = ["--spec", str(folder / "spec.json"), "--output", str(folder)]
    command = store.warm.command(["flowstill-train", *flags])
    if fresh:
        command = [sys.executable, "-m", "flowstill_trainer.cli", *flags]
    environment = os.environ | {
        "FLOWSTILL_STORE": f"file://{store.root}",
        "FLOWSTILL_TERMINATION_LOG": str(folder / "termination"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": small_path(),
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


def test_what_was_published_goes_through_to_the_verdict(store, tmp_path, monkeypatch):
    """All that comes after the training, as it is started for a user: parity twice, paired episodes, the judge."""
    monkeypatch.setenv("FLOWSTILL_STORE", f"file://{store.root}")
    monkeypatch.setenv(SIZES, json.dumps({"teacher@10": [9e8] * 3, "student-draws": [3e8] * 3}))
    ground = Ground(tmp_path, store.warm, store.root)
    spec = {"student": {"distillJob": "tiny"}, "evaluation": EVALUATION, "parity": {"samples": 8}, "gates": GATES}
    said = ground.run(
        resource("DistillJob", "tiny", distill_spec(fidelityEvery=3) | {"validation": {"after": True}}),
        resource("StudentRollout", "proven", spec | {"runtime": {"gpusPerNode": 0}}),
        options=("--json",),
    )
    logs = [ground.log("tiny", "parity"), *(ground.log("proven", role) for role in ("parity", "rollouts", "judge"))]
    distilled, proven = json.loads(said.output)["resources"]
    assert distilled["phase"] == "Succeeded", (said.errors, logs)
    assert 0 < ground.resource("DistillJob", "tiny")["status"]["parityDifference"] < 1e-3
    assert proven["report"], (said.errors, logs)
    assert proven["parity"]["holds"] is True
    assert (said.code, proven["verdict"]) in {(1, "Fail"), (3, "Inconclusive")}
    assert {arm["name"]: arm["episodes"] for arm in proven["arms"]} == dict.fromkeys(EVALUATION["arms"], 2)
    verdicts = {gate["name"]: gate["verdict"] for gate in proven["gates"]}
    assert len(verdicts) == 9
    assert (verdicts["P1"], verdicts["P3"]) == ("Inconclusive", "Pass"), "two pairs decide nothing"
    assert f"A {NAMES[store.kind]} policy was distilled" in Path(proven["report"]).read_text()

    rollouts = local_path(ground.resource("StudentRollout", "proven")["status"]["rollouts"]["uri"])
    arms = json.loads((rollouts / "run.json").read_text())["arms"]
    assert [(arm["steps"], arm["draws"], arm["runtime"]) for arm in arms] == [(10, 1, "torch"), (1, 8, "onnx")]
    fidelity = json.loads((rollouts / "fidelity.json").read_text())
    assert len(fidelity["cosine"]) == fidelity["observations"] == 8


def test_memory_is_that_of_fresh_processes(store, tmp_path, monkeypatch):
    """What P3 looks at, once for each arm; in the chain above it is given."""
    code, result = finish(write_spec(tmp_path / "a", fidelityEvery=3), store)
    assert code == 0, result
    monkeypatch.setenv("FLOWSTILL_STORE", f"file://{store.root}")
    monkeypatch.setenv("PYTHONPATH", small_path())
    task = RolloutsTask(
        resource="tiny", uid="u", work="store://work/u", student=result["student"], evaluation=EVALUATION, gates=GATES
    )
    comparison = compare(task, resolve(task))
    seen = tiny_smolvla.observations(2)
    batch = Batch({name: value for name, value in seen.items() if name != "task"}, tuple(seen["task"]))
    batch.save(tmp_path / "observations.npz")
    arms, heard = [comparison[name] for name in EVALUATION["arms"]], []
    sizes = measure(
        arms, tmp_path / "observations.npz", processes=1, provider="cpu", threads=1, at_once=2,
        heard=lambda: heard.append(1),
    )  # fmt: skip
    assert (list(sizes), len(heard)) == (EVALUATION["arms"], 2)
    [torch], [onnx] = sizes.values()
    assert 20e6 < onnx < torch / 2, "the process of ONNX Runtime must not load torch"


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
