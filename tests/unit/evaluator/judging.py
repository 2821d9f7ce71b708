"""Teacher, student and records in the store, and the judge at work on them."""

import threading

from flowstill.api.children import JudgeTask
from flowstill.api.fields import ArtifactRef, StatusRef
from flowstill.artifacts.manifest import RolloutsProperties
from flowstill.artifacts.stores import publish, push
from flowstill.child.context import ChildContext
from flowstill_evaluator.judge import judge
from tests.unit.artifacts.samples import make_folder, student_properties
from tests.unit.evaluator import synthetic as syn


class Quiet:
    """A progress tracker that remembers what it was told."""

    def __init__(self):
        self.told = []

    def update(self, step, total, activity, loss=None, samples_per_second=None):
        self.told.append((step, total, activity))


def published_student(tmp_path, teacher, draws, curve):
    """A student that the synthetic records may be of; ``curve``: how it was watched, as JSON."""
    folder = make_folder(tmp_path / "student", **{"onnx/student.onnx": "graph"})
    if curve is not None:
        make_folder(folder, **{"fidelity/curve.json": curve, "fidelity/curve.png": "a picture"})
    properties = student_properties(
        policy_type="smolvla",
        method={"name": "snapflow", "targetSteps": 10, "mixRatio": 1.0},
        draws=draws,
        draw_neighbours=3 if draws > 1 else 1,
        teacher=teacher,
        dataset=StatusRef(uri="store://datasets/reach-around", digest="sha256:" + "3" * 64),
        inputs_digest="sha256:" + "4" * 64,
        parameters=1_214_336,
        training_seconds=231.4,
    )
    return publish(folder, "Student", properties)


def published_records(tmp_path, teacher, student, break_records, **records):
    """Synthetic records of these two, broken before they are published."""
    folder = syn.write_records(tmp_path / "records", **records)
    run = syn.read_json(folder, "run")
    for arm in run["arms"]:
        arm["digest"] = student.digest if arm["name"].startswith("student") else teacher.digest
    syn.write_json(folder, "run", run)
    if break_records:
        break_records(folder)
    about = RolloutsProperties(
        suite="metaworld",
        tasks=["reach-around"],
        arms=list(syn.RATES),
        seeds=[0],
        versions={},
        student=student,
        teacher=teacher,
        baseline=teacher,
    )
    return publish(folder, "Rollouts", about, "store://evidence")


def published(tmp_path, draws=8, break_records=None, curve=None, most=None, **records):
    """Teacher, student and records in the store; what a judge is asked about."""
    teacher = push(make_folder(tmp_path / "teacher", **{"config.json": "{}"}), "store://teachers/reach-around")
    student = published_student(tmp_path, teacher, draws, curve)
    rollouts = published_records(tmp_path, teacher, student, break_records, **records)
    episodes = records.get("episodes", 200)
    return JudgeTask(
        resource="default/reach-around",
        uid="1",
        work="store://work/1",
        student=ArtifactRef(uri=student.uri, digest=student.digest),
        evaluation={
            "suite": "metaworld",
            "tasks": ["reach-around"],
            "episodesPerTask": episodes,
            "maxEpisodesPerTask": most or episodes,
        },
        rollouts=ArtifactRef(uri=rollouts.uri, digest=rollouts.digest),
        parity_difference=3.4e-6,
    )


def run(task, tmp_path):
    """The judge's result, and what it told of its progress."""
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    quiet = Quiet()
    return judge(task, ChildContext(work, threading.Event(), quiet)), quiet
