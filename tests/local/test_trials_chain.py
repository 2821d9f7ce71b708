"""Trials on a robot in the place of a simulator: parity, records and verdict of a tiny student, in this process."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml

from flowstill.api.children import JudgeTask, ParityTask, RolloutsTask
from flowstill.api.fields import ArtifactRef
from flowstill.api.studentrollout import StudentRolloutSpec
from flowstill.artifacts.stores import fetch, push
from flowstill.child.context import ChildContext
from flowstill.errors import ArtifactError, Interrupted, RecordsRejected
from flowstill_evaluator import evaluation, memory, parity
from flowstill_evaluator.judge import judge
from flowstill_operator import cli
from tests.support import tiny_smolvla
from tests.support.tiny_student import publish_student

EXAMPLE = Path(__file__).parents[2] / "examples" / "real_robot"
JOINTS = ("shoulder", "elbow")


class Quiet:
    """A progress tracker that nobody listens to."""

    def update(self, step, total, activity, loss=None, samples_per_second=None):
        """Nothing."""


@pytest.fixture(scope="module")
def place(exported, tmp_path_factory):
    """A store with a student that has learnt nothing, its teacher, and the dataset that it was distilled on."""
    root = tmp_path_factory.mktemp("trials")
    patch = pytest.MonkeyPatch()
    patch.setenv("FLOWSTILL_STORE", f"file://{root}/store")
    dataset = push(tiny_smolvla.write_dataset(root / "dataset"), "store://datasets/tiny")
    yield root, publish_student(exported, dataset=dataset)
    patch.undo()


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Fresh processes are what tests/local/test_train.py measures; here they would be all of the time."""
    sizes = {"teacher@10": [9e8, 9.1e8, 9.2e8], "student-draws": [3e8, 3.1e8, 3.2e8]}
    monkeypatch.setattr(memory, "measure", lambda arms, *_, **__: {arm.name: sizes[arm.name] for arm in arms})


def pushed(place, folder, name, capsys):
    """What the command line publishes and prints."""
    root, student = place
    command = ["records", "push", str(folder), f"store://evidence/{name}", "--store", f"{root}/store"]
    assert cli.main([*command, "--student", student.uri, "--baseline", "store://teachers/tiny"]) == 0
    uri, _, digest = capsys.readouterr().out.splitlines()[-1].partition("@")
    return ArtifactRef(uri=uri, digest=digest)


def spec_of(place, evidence):
    """The example's manifest, with its three references filled in."""
    _, student = place
    text = (EXAMPLE / "studentrollout.yaml").read_text()
    filled = text.replace("sha256:STUDENT", student.digest).replace("store://students/sha256-STUDENT", student.uri)
    spec = yaml.safe_load(filled.replace("sha256:EVIDENCE", evidence.digest))["spec"]
    spec["evaluation"]["evidence"]["uri"] = evidence.uri
    return spec


def task(place, kind, spec, **more):
    parsed = StudentRolloutSpec.model_validate(spec)
    gates = {"P2": {"minCalls": 100}, "P3": {"processes": 3}, "P4": {"observations": 8}}
    student = ArtifactRef(uri=parsed.student.uri, digest=parsed.student.digest)
    about = {"resource": "robots/kitchen-arm", "uid": "u", "work": "store://work/u", "student": student}
    return kind(**about, evaluation=parsed.evaluation, gates=gates, **more)


def context(root, stopped=False):
    stop = threading.Event()
    if stopped:
        stop.set()
    (root / "work").mkdir(exist_ok=True)
    return ChildContext(root / "work", stop, Quiet())


def judged(place, spec):
    """Parity, records, verdict: the result of each."""
    root, _ = place
    first = parity.run(task(place, ParityTask, spec), context(root))
    assert first.reason == "ParityHolds"
    second = evaluation.run(task(place, RolloutsTask, spec), context(root))
    rollouts = ArtifactRef(uri=second.rollouts.uri, digest=second.rollouts.digest)
    third = judge(task(place, JudgeTask, spec, rollouts=rollouts, parity_difference=first.difference), context(root))
    return first, second, third


def with_logs(folder, pairs):
    """As many pairs of two tasks, all of them good, with logs of joint velocities."""
    generator = np.random.default_rng(5)
    folder.mkdir()
    lines = []
    for name in ("lift-cup", "close-drawer"):
        for pair in range(pairs):
            for arm in ("student", "baseline"):
                path = f"{name}-{pair}-{arm}.csv"
                rows = generator.normal(size=(30, len(JOINTS))).round(4).tolist()
                text = "\n".join([",".join(JOINTS), *(",".join(map(str, row)) for row in rows)])
                (folder / path).write_text(text + "\n")
                lines.append({"task": name, "pair": pair, "arm": arm, "success": True, "clamped_steps": 0,
                              "steps": 30, "velocities": path})  # fmt: skip
    (folder / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_example_ends_inconclusive_and_says_what_is_missing(place, capsys):
    evidence = pushed(place, EXAMPLE / "trials", "kitchen-arm", capsys)
    _, second, third = judged(place, spec_of(place, evidence))
    assert second.message == "24 recorded pairs of trials of 2 tasks"
    said = {gate.name: (gate.verdict, gate.message) for gate in third.gates}
    assert said["S2"][0] == "Inconclusive"
    assert "log them in every control step" in said["S2"][1]
    assert said["S3"][0] == said["P1"][0] == "Inconclusive"
    assert {name: said[name][0] for name in ("P2", "P3")} == {"P2": said["P2"][0], "P3": "Pass"}
    assert said["P4"][0] in ("Pass", "Fail"), "measured on frames of the student's dataset"
    assert {arm.name: (round(arm.success * 24), arm.episodes) for arm in third.arms} == {
        "teacher@10": (22, 24),
        "student-draws": (23, 24),
    }
    folder = fetch(third.evidence, "evidence")
    assert "lift-cup" in (folder / "report.html").read_text()


def test_enough_trials_with_logs_pass_the_gates_that_look_at_them(place, tmp_path, capsys):
    evidence = pushed(place, with_logs(tmp_path / "t", 55), "many", capsys)
    spec = spec_of(place, evidence)
    spec["evaluation"]["episodesPerTask"] = 50
    _, second, third = judged(place, spec)
    verdicts = {gate.name: gate.verdict for gate in third.gates}
    assert {name: verdicts[name] for name in ("S1", "S2", "S3", "P1", "P5", "P6")} == dict.fromkeys(
        ("S1", "S2", "S3", "P1", "P5", "P6"), "Pass"
    )
    assert next(gate for gate in third.gates if gate.name == "P1").samples == 110, "every pair counts, not only 50"
    records = fetch(second.rollouts, "rollouts")
    with np.load(records / "joint_velocity.npz") as stored:
        assert {name: stored[name].shape for name in stored} == {
            "teacher@10": (110 * 30, 2),
            "student-draws": (110 * 30, 2),
            "joints": (2,),
        }
    run = json.loads((records / "run.json").read_text())
    assert run["evidence"] == {"uri": evidence.uri, "digest": evidence.digest}
    assert [(arm["name"], arm["runtime"]) for arm in run["arms"]] == [
        ("teacher@10", "torch"),
        ("student-draws", "onnx"),
    ]
    latency = json.loads((records / "latency.json").read_text())
    assert {arm: len(values["milliseconds"]) for arm, values in latency.items()} == {
        "teacher@10": 100,
        "student-draws": 100,
    }


def test_fewer_pairs_than_were_fixed_beforehand_decide_nothing(place, capsys):
    spec = spec_of(place, pushed(place, EXAMPLE / "trials", "kitchen-arm", capsys))
    spec["evaluation"]["episodesPerTask"] = 13
    _, _, third = judged(place, spec)
    verdicts = {gate.name: gate for gate in third.gates}
    assert {verdicts[name].verdict for name in ("S1", "S3", "P1", "P5", "P6")} == {"Inconclusive"}
    assert "12 of 13 episodes of task" in verdicts["P1"].message


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        (["lift-cup"], "has trials of close-drawer too"),
        (["lift-cup", "close-drawer", "wipe"], "has no trials of wipe"),
    ],
)
def test_a_choice_among_the_tasks_is_refused_by_the_first_child(place, capsys, tasks, words):
    spec = spec_of(place, pushed(place, EXAMPLE / "trials", "kitchen-arm", capsys))
    spec["evaluation"]["tasks"] = tasks
    with pytest.raises(RecordsRejected, match=words):
        parity.run(task(place, ParityTask, spec), context(place[0]))


def test_trials_of_another_student_are_refused(place, capsys):
    root, _ = place
    command = ["records", "push", str(EXAMPLE / "trials"), "store://evidence/other", "--store", f"{root}/store"]
    other = f"store://students/x@sha256:{'1' * 64}"
    assert cli.main([*command, "--student", other, "--baseline", "store://teachers/tiny"]) == 0
    uri, _, digest = capsys.readouterr().out.splitlines()[-1].partition("@")
    spec = spec_of(place, ArtifactRef(uri=uri, digest=digest))
    with pytest.raises(
        RecordsRejected, match=r"spec\.evaluation\.evidence: in these trials the student was sha256:111"
    ):
        parity.run(task(place, ParityTask, spec), context(root))


def test_a_dataset_that_is_gone_is_named(place, capsys):
    root, _ = place
    spec = spec_of(place, pushed(place, EXAMPLE / "trials", "kitchen-arm", capsys))
    spec["evaluation"]["seed"] = 2  # or it was judged before
    (root / "store/datasets/tiny").rename(root / "store/datasets/moved")
    try:
        with pytest.raises(ArtifactError, match=r"observations come from the dataset .*store://datasets/tiny"):
            parity.run(task(place, ParityTask, spec), context(root))
    finally:
        (root / "store/datasets/moved").rename(root / "store/datasets/tiny")


def test_it_can_be_stopped(place, capsys):
    spec = spec_of(place, pushed(place, EXAMPLE / "trials", "kitchen-arm", capsys))
    spec["evaluation"]["seed"] = 1
    with pytest.raises(Interrupted):
        evaluation.run(task(place, RolloutsTask, spec), context(place[0], stopped=True))
