"""``flowstill-evaluate parity`` and ``rollouts`` as processes: interrupted, continued, published.

The policy is a tiny SmolVLA that looks through a camera, which is really drawn. The processes are forks of the warm
one; what P3 measures of fresh ones is tested in test_train.py.
"""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from flowstill.api.children import JudgeRoundsTask, Result, RolloutsTask
from flowstill.artifacts.stores import fetch
from flowstill.child.context import ChildContext
from flowstill_evaluator.gathering import gather
from flowstill_evaluator.session import work_folder
from tests.support import tiny_smolvla
from tests.support.tiny_student import export_student, publish_student
from tests.support.warm_children import SIZES

EPISODES = 3
ARMS = ["teacher@10", "student", "student-draws"]
RESIDENT = {"teacher@10": [900, 910, 920], "student-draws": [300, 310, 320]}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate")
    return {
        **os.environ,
        "FLOWSTILL_STORE": f"file://{root}/store",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "ROOT": str(root),
        SIZES: json.dumps(RESIDENT),
    }


@pytest.fixture(scope="module")
def student(environment, exported):
    """A student that has learnt nothing, published, and its teacher."""
    patch = pytest.MonkeyPatch()
    patch.setenv("FLOWSTILL_STORE", environment["FLOWSTILL_STORE"])
    yield publish_student(exported)
    patch.undo()


@pytest.fixture(scope="module")
def evaluator(warm, environment):
    """Starts the real command."""
    return Evaluator(warm, environment)


def spec_file(environment, student, kind, **changes):
    value = {
        "kind": kind,
        "resource": "tiny",
        "uid": "u",
        "work": f"store://work/{kind}",
        "student": student.model_dump(),
        "evaluation": {
            "suite": "metaworld",
            "tasks": ["reach-around"],
            "episodesPerTask": EPISODES,
            "maxEpisodesPerTask": EPISODES,
            "arms": ARMS,
            **changes,
        },
        "gates": {"P2": {"minCalls": 100}, "P3": {"processes": 3}, "P4": {"observations": 8}},
    }
    path = Path(environment["ROOT"]) / f"{kind}.json"
    path.write_text(json.dumps(value))
    return path


class Evaluator:
    """``flowstill-evaluate`` as a process, with its environment."""

    def __init__(self, warm, environment):
        self.warm, self.environment = warm, environment

    def start(self, command, spec, work=None, **environment):
        work = work or Path(self.environment["ROOT"]) / "work" / spec.stem
        line = self.warm.command(["flowstill-evaluate", command, "--spec", str(spec), "--output", str(work)])
        given = self.environment | environment
        return subprocess.Popen(line, env=given, stderr=subprocess.PIPE, text=True), work

    def finish(self, command, spec, **environment):
        process, work = self.start(command, spec, **environment)
        _, said = process.communicate()
        return process.returncode, Result.model_validate_json((work / "result.json").read_text()), said


def test_parity_of_an_export_holds(evaluator, environment, student):
    code, result, said = evaluator.finish("parity", spec_file(environment, student, "Parity"))
    assert (code, result.reason) == (0, "ParityHolds"), said
    assert 0 < result.difference < result.threshold == 1e-3
    assert result.teacher == result.baseline


@pytest.mark.long
def test_parity_of_an_export_in_fp16_has_its_own_threshold(evaluator, environment, student, tmp_path):
    half = publish_student(export_student(tmp_path, precision="fp16"))
    code, result, said = evaluator.finish("parity", spec_file(environment, half, "Parity"))
    assert (code, result.reason) == (0, "ParityHolds"), said
    assert 1e-6 < result.difference < result.threshold == 2e-2


def test_a_camera_that_the_task_has_not_is_the_users_error(evaluator, environment, student):
    rename_map = {"observation.images.wrist": tiny_smolvla.CAMERA}
    code, result, _ = evaluator.finish("parity", spec_file(environment, student, "Parity", renameMap=rename_map))
    assert (code, result.outcome) == (65, "UserError")
    assert result.message.startswith("spec.evaluation.renameMap: reach-around has no 'observation.images.wrist'")


def test_a_custom_suite_is_tried_before_anything_runs(evaluator, environment, student):
    example = Path(__file__).parents[2] / "examples" / "custom_suite"
    custom = {"entryPoint": "planar_arm:make_env", "config": {"max_steps": "9"}}
    changes = {"custom": custom, "renameMap": {"observation.images.black": tiny_smolvla.CAMERA}}
    spec = spec_file(environment, student, "Parity", suite="custom", tasks=["reach"], **changes)
    code, result, _ = evaluator.finish("parity", spec)
    assert (code, result.outcome) == (65, "UserError")
    assert result.message.startswith("spec.evaluation.custom.entryPoint: planar_arm cannot be imported")
    code, result, _ = evaluator.finish("parity", spec, PYTHONPATH=str(example))
    assert (code, result.outcome) == (65, "UserError")
    assert "the student was trained on states of 7 numbers, reach has 6: agent_pos" in result.message


@pytest.fixture(scope="module")
def evaluated(evaluator, environment, student):
    """The records of an evaluation that was interrupted once."""
    spec = spec_file(environment, student, "Rollouts")
    process, work = evaluator.start("rollouts", spec)
    lines = work / "rollouts" / "episodes.jsonl"
    while process.poll() is None and not (lines.exists() and lines.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    before = lines.read_bytes()
    assert 1 <= before.count(b"\n") < EPISODES * len(ARMS)

    code, result, said = evaluator.finish("rollouts", spec)
    assert code == 0, said
    assert lines.read_bytes().startswith(before)
    return fetch(result.rollouts, "rollouts")


def test_rollouts_are_interrupted_continued_and_published(evaluated):
    folder = evaluated
    episodes = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert [(e["arm"], e["episode"]) for e in episodes] == [(a, i) for a in ARMS for i in range(EPISODES)]
    assert len({(e["episode"], e["seed"]) for e in episodes}) == EPISODES
    with np.load(folder / "joint_velocity.npz") as velocities:
        steps = {arm: sum(e["steps"] for e in episodes if e["arm"] == arm) for arm in ARMS}
        assert {arm: velocities[arm].shape for arm in velocities} == {arm: (steps[arm], 7) for arm in ARMS}
    latency = json.loads((folder / "latency.json").read_text())
    assert {arm: len(v["milliseconds"]) for arm, v in latency.items()} == {"teacher@10": 100, "student-draws": 100}
    memory = json.loads((folder / "memory.json").read_text())
    assert memory == RESIDENT
    fidelity = json.loads((folder / "fidelity.json").read_text())
    assert len(fidelity["cosine"]) == len(fidelity["teacher_self_cosine"]) == fidelity["observations"] == 8
    assert np.mean(fidelity["teacher_self_cosine"]) > 0.3
    description = json.loads((folder / "run.json").read_text())
    assert [(a["name"], a["steps"], a["draws"], a["runtime"]) for a in description["arms"]] == [
        ("teacher@10", 10, 1, "torch"),
        ("student", 1, 1, "onnx"),
        ("student-draws", 1, 8, "onnx"),
    ]
    filmed = [e["video"] for e in episodes if e["video"]]
    assert (description["videos"] is None) == bool(filmed), "films, or a note why there are none"
    assert all((folder / name).stat().st_size > 1000 for name in filmed)


@pytest.mark.long
def test_two_shards_are_what_one_is(evaluator, environment, student, evaluated, tmp_path):
    spec = spec_file(environment, student, "Rollouts", shards=2)
    works = [Path(environment["ROOT"]) / "store" / "work" / "shards" / str(index) for index in (0, 1)]
    # As if an attempt before had measured them, which takes longer than all else, and is measured above.
    folder = work_folder(works[0], RolloutsTask.model_validate_json(spec.read_text()))
    for name in ("latency.json", "memory.json"):
        shutil.copyfile(evaluated / name, folder / name)
    shards = [
        evaluator.start("rollouts", spec, work, JOB_COMPLETION_INDEX=str(index))[0] for index, work in enumerate(works)
    ]
    for shard in shards:
        _, said = shard.communicate()
        assert shard.returncode == 0, said
    fields = json.loads(spec.read_text()) | {"kind": "JudgeRounds", "parity_difference": 0.0, "episodes": EPISODES}
    task = JudgeRoundsTask(**fields, rounds=[{"work": "store://work/shards", "shards": 2}])
    context = ChildContext(tmp_path, threading.Event(), None)
    merged = gather(task, context)
    for name in ("episodes.jsonl", "fidelity.json"):
        assert (merged / name).read_bytes() == (evaluated / name).read_bytes()
    with np.load(merged / "joint_velocity.npz") as ours, np.load(evaluated / "joint_velocity.npz") as theirs:
        assert ours.files == theirs.files == ARMS
        for arm in ARMS:
            np.testing.assert_array_equal(ours[arm], theirs[arm])
    assert [p.name for p in merged.glob("videos/*")] == [p.name for p in evaluated.glob("videos/*")]
    assert len(json.loads((merged / "run.json").read_text())["parts"]) == 2
