"""``flowstill run`` of a StudentRollout to its verdict by the real children: other suites than Meta-World, overrides.

The students have learnt nothing, so nothing is said here of how good they are; what is measured and judged is real.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from flowstill.api.fields import StatusRef
from flowstill.artifacts.stores import push
from flowstill.artifacts.uris import local_path
from flowstill_evaluator.suites.libero_files import ASSETS_VARIABLE
from tests.local.test_libero import ASSETS, TASK
from tests.local.test_trials_chain import with_logs
from tests.support import tiny_smolvla
from tests.support.ground import Ground, resource
from tests.support.tiny_student import Exported, export_student, publish_student
from tests.support.warm_children import SIZES, WarmProcess

EXAMPLES = Path(__file__).parents[2] / "examples"
GATES = {"P2": {"minCalls": 100}, "P3": {"processes": 3}, "P4": {"observations": 8}}
ARMS = ["teacher@10", "student-draws"]
RESIDENT = {"teacher@10": [9e8, 9.1e8, 9.2e8], "student-draws": [3e8, 3.1e8, 3.2e8]}
BLACK = "observation.images.black"


@pytest.fixture
def ground(tmp_path: Path, warm: WarmProcess, monkeypatch: pytest.MonkeyPatch) -> Ground:
    """A folder with a store of its own."""
    ground = Ground(tmp_path, warm)
    monkeypatch.setenv("FLOWSTILL_STORE", f"file://{ground.store}")
    monkeypatch.setenv(SIZES, json.dumps(RESIDENT))
    return ground


def rollout(student: StatusRef, evaluation: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A StudentRollout that takes seconds."""
    spec = {"student": student.model_dump(), "evaluation": evaluation, "parity": {"samples": 8}, "gates": GATES}
    return resource("StudentRollout", "tiny", spec | {"runtime": {"gpusPerNode": 0}} | more)


def judged(ground: Ground, document: dict[str, Any]) -> tuple[int, dict[str, Any], Path]:
    """The exit code, what ``--json`` says of the only resource, and the folder of its evidence."""
    said = ground.run(document, options=("--json",))
    logs = [ground.log("tiny", role) for role in ("parity", "rollouts", "judge")]
    [found] = json.loads(said.output)["resources"]
    assert found["report"], (said.errors, logs)
    assert found["parity"]["holds"] is True
    evidence = Path(found["report"]).parent
    assert evidence == ground.store / found["evidence"]["uri"].removeprefix("store://")
    return said.code, found, evidence


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {gate["name"]: gate["verdict"] for gate in found["gates"]}


def test_environments_of_ones_own(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES / "custom_suite"))
    example = yaml.safe_load((EXAMPLES / "custom_suite/studentrollout.yaml").read_text())["spec"]["evaluation"]
    few = {"custom": {**example["custom"], "config": {"max_steps": "12"}}, "episodesPerTask": 3}
    names = {"renameMap": {BLACK: tiny_smolvla.CAMERA}}
    student = publish_student(export_student(ground.folder / "made", state_dim=6, action_dim=2))
    evaluation = example | few | names | {"maxEpisodesPerTask": 3, "arms": ARMS}
    code, found, evidence = judged(ground, rollout(student, evaluation))
    assert (code, found["verdict"]) in {(1, "Fail"), (3, "Inconclusive")}
    assert {arm["name"]: arm["episodes"] for arm in found["arms"]} == dict.fromkeys(ARMS, 6)
    said = verdicts(found)
    assert len(said) == 9
    assert {said[name] for name in ("S3", "P1")} == {"Inconclusive"}, "six pairs decide nothing"
    assert said["P3"] == "Pass"
    report = json.loads((evidence / "report.json").read_text())
    assert [task["task"] for task in report["tasks"]] == ["reach", "reach-past-post"]
    assert report["evaluation"]["custom"]["entryPoint"] == "planar_arm:make_env"
    assert report["subject"]["student"]["digest"] == student.digest

    # The same question under another name: parity finds the verdict, and no episode is run.
    again = ground.run(rollout(student, evaluation) | {"metadata": {"name": "again"}}, options=("--json",))
    [same] = json.loads(again.output)["resources"]
    assert (again.code, same["verdict"], same["evidence"]) == (code, found["verdict"], found["evidence"])
    assert {gate["name"]: gate["verdict"] for gate in same["gates"]} == said
    assert [ground.starts("again", role) for role in ("parity", "rollouts", "judge")] == [1, 0, 0]
    condition = ground.condition("StudentRollout", "again", "Evaluated")
    assert condition is not None
    assert condition["reason"] == "Reused"
    # Another code of the environments is another question.
    copy = ground.folder / "changed"
    shutil.copytree(EXAMPLES / "custom_suite", copy)
    with (copy / "planar_arm/environment.py").open("a") as code_of_it:
        code_of_it.write("# changed\n")
    monkeypatch.setenv("PYTHONPATH", str(copy))
    ground.run(rollout(student, evaluation) | {"metadata": {"name": "anew"}}, options=("--json",))
    assert [ground.starts("anew", role) for role in ("parity", "rollouts", "judge")] == [1, 1, 1]


def test_trials_on_the_robot_and_somebody_who_answers_for_what_did_not_pass(
    ground: Ground, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = push(tiny_smolvla.write_dataset(ground.folder / "dataset"), "store://datasets/tiny")
    student = publish_student(exported, dataset=dataset)
    # The student is the larger one in memory, so that P3 fails whatever the machine.
    monkeypatch.setenv(SIZES, json.dumps({"teacher@10": [1e8] * 3, "student-draws": [9e8] * 3}))
    folder = with_logs(ground.folder / "trials", 55)
    push_them = ("records", "push", str(folder), "store://evidence/kitchen", "--store", str(ground.store))
    printed = ground.give(*push_them, "--student", student.uri, "--baseline", "store://teachers/tiny")
    uri, _, digest = printed.output.splitlines()[-1].partition("@")
    example = yaml.safe_load((EXAMPLES / "real_robot/studentrollout.yaml").read_text())["spec"]["evaluation"]
    evaluation = example | {"episodesPerTask": 50, "evidence": {"uri": uri, "digest": digest}}
    answer = {"by": "ann@example.com", "reason": "more memory comes on Friday", "expires": "2100-01-01T00:00:00Z"}
    overrides = [{"gate": gate, **answer} for gate in ("P2", "P3", "P4")]
    code, found, evidence = judged(ground, rollout(student, evaluation, overrides=overrides))
    said = verdicts(found)
    assert {said[name] for name in ("S1", "S2", "S3", "P1", "P5", "P6")} == {"Pass"}
    assert said["P3"] == "Fail", "the verdict stays what was measured"
    assert (code, found["phase"], found["verdict"]) == (0, "Completed", "Fail")
    condition = ground.condition("StudentRollout", "tiny", "GatesPassed")
    assert condition is not None
    assert (condition["status"], condition["reason"]) == ("True", "GatesOverridden")
    assert "ann@example.com" in condition["message"]
    by = {gate["name"]: gate["override"] for gate in found["gates"] if gate.get("override")}
    assert by["P3"] | answer == by["P3"]
    for name in ("decision.json", "report.json"):
        gates = {gate["name"]: gate for gate in json.loads((evidence / name).read_text())["gates"]}
        assert (gates["P3"]["verdict"], gates["P3"]["override"]["by"]) == ("Fail", "ann@example.com")
    assert "ann@example.com" in (evidence / "report.html").read_text()


@pytest.mark.long
def test_libero(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ASSETS_VARIABLE, str(ASSETS))
    student = publish_student(export_student(ground.folder / "made", state_dim=8, action_dim=7))
    names = {"observation.images.image": tiny_smolvla.CAMERA}
    evaluation = {
        "suite": "libero", "tasks": [TASK], "episodesPerTask": 1, "maxEpisodesPerTask": 1, "arms": ARMS,
        "renameMap": names, "actionSteps": 6, "videos": "all",
    }  # fmt: skip
    code, found, evidence = judged(ground, rollout(student, evaluation))
    assert (code, found["verdict"]) in {(1, "Fail"), (3, "Inconclusive")}
    assert {arm["name"]: arm["episodes"] for arm in found["arms"]} == dict.fromkeys(ARMS, 1)
    rollouts = local_path(ground.resource("StudentRollout", "tiny")["status"]["rollouts"]["uri"])
    episodes = [json.loads(line) for line in (rollouts / "episodes.jsonl").read_text().splitlines()]
    assert {episode["task"] for episode in episodes} == {TASK}
    run = json.loads((rollouts / "run.json").read_text())
    assert run["lockstep"]["workers"] * run["lockstep"]["slots"] == 1
    with np.load(rollouts / "joint_velocity.npz") as velocities:
        assert {name: velocities[name].shape[1] for name in ARMS} == dict.fromkeys(ARMS, 7)
    assert "data:video/mp4" in (evidence / "report.html").read_text()
    assert "hf-libero" in run["versions"]
