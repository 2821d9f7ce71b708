"""The chain over the network: a teacher in a bucket, frames in the hub, a student that is published in the bucket."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowstill.policies.loading import load_policy
from flowstill_operator import cli
from tests.support.ground import Ground
from tests.support.hub_server import TOKEN, Hub, hub_server
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, s3_server
from tests.support.tiny_run import Tiny
from tests.support.warm_children import WarmProcess

REPOSITORY = Path(__file__).parents[2]
ZEROS = f"sha256:{'0' * 64}"
STORE = "s3://models/flowstill"


class Stores:
    """A bucket as the default store, a hub, and one volume on which every child works."""

    def __init__(self, server: S3Server, hub: Hub, work: Path, warm: WarmProcess) -> None:
        self.bucket, self.hub, self.work, self.warm = server.bucket("models"), hub, work, warm
        self.environment = server.environment() | {
            "FLOWSTILL_STORE": STORE,
            "FLOWSTILL_WORK": str(work),
            "FLOWSTILL_S3_BUCKETS": "models",
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def child(self, command: list[str], name: str, **task: Any) -> tuple[int, dict[str, Any], str]:
        """Its exit code, its last words, and its log."""
        folder = self.work / "uid" / name
        folder.mkdir(parents=True)
        spec, log, words = folder / "given.json", folder / "log", folder / "words"
        spec.write_text(json.dumps({"resource": name, "uid": "uid", "work": f"store://work/uid/{name}", **task}))
        environment = os.environ | self.environment | {"FLOWSTILL_TERMINATION_LOG": str(words)}
        flags = ["--spec", str(spec), "--output", str(folder)]
        with log.open("w") as output:
            code = subprocess.run(
                self.warm.command([*command, *flags]), env=environment, cwd=REPOSITORY, stderr=output, timeout=600
            ).returncode
        return code, json.loads(words.read_text()), log.read_text()


@pytest.fixture(scope="module")
def stores(warm: WarmProcess, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    with s3_server() as server, hub_server() as hub, pytest.MonkeyPatch.context() as patch:
        made = Stores(server, hub, tmp_path_factory.mktemp("work"), warm)
        for name, value in made.environment.items():
            patch.setenv(name, value)
        assert cli.main(["store", "push", str(tiny.teacher_folder), f"{STORE}/teachers/tiny"]) == 0
        yield made


@pytest.fixture(scope="module")
def frames(stores: Stores, tiny: Tiny) -> str:
    files = {
        path.relative_to(tiny.dataset_folder).as_posix(): path.read_bytes()
        for path in tiny.dataset_folder.rglob("*")
        if path.is_file()
    }
    return f"hf://datasets/org/frames@{stores.hub.commit('datasets/org/frames', files)}"


def spec(frames: str, **changes: Any) -> dict[str, Any]:
    return {
        "teacher": {"uri": "store://teachers/tiny"},
        "dataset": {"uri": frames},
        "method": {"targetSteps": 4, "bankSize": 32, "refine": {"steps": 0}},
        "training": {"steps": 2, "batchSize": 4, "warmupSteps": 1, "precision": "fp32", "checkpointEvery": 2},
    } | changes


def test_a_student_is_distilled_published_reused_and_checked(
    stores: Stores, frames: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, result, log = stores.child(["flowstill-train"], "train", kind="Train", spec=spec(frames))
    assert (code, result["outcome"], result["reason"]) == (0, "Succeeded", "Published"), log
    student = result["student"]
    name = student["digest"].replace(":", "-")
    assert student["uri"] == f"store://students/{name}"
    assert (stores.bucket / "flowstill/students" / name / "onnx/student.onnx").is_file()
    assert f"downloading {STORE}/teachers/tiny, " in log
    assert f"publishing to {STORE}/students/{name}, " in log
    assert not (stores.work / "students").exists()

    code, again, log = stores.child(["flowstill-train"], "again", kind="Train", spec=spec(frames))
    assert (code, again["reason"], again["student"]) == (0, "AlreadyPublished", student), log
    assert "downloading" not in log

    code, parity, log = stores.child(
        ["flowstill-evaluate", "parity"], "parity", kind="DatasetParity", student=student, dataset={"uri": frames},
        reference={"uri": "store://teachers/tiny"}, parity={"samples": 8},
    )  # fmt: skip
    assert (code, parity["outcome"]) == (0, "Succeeded"), log
    assert parity["difference"] < 1e-3

    for variable, value in (stores.environment | {"FLOWSTILL_CACHE": str(stores.work / "robot")}).items():
        monkeypatch.setenv(variable, value)
    runner = load_policy(f"{student['uri']}@{student['digest']}")
    assert runner is not None
    written = [path for path in (stores.work / "uid").rglob("*") if path.is_file() and path.stat().st_size < 10**6]
    said = [path.read_text(errors="replace") for path in written]
    assert len(said) > 6
    assert not any(secret in text for text in said for secret in (ACCESS_KEY, SECRET_KEY, TOKEN))


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"teacher": {"uri": "store://teachers/none"}}, "ArtifactUnreadable", "spec.teacher.uri: s3://models/flowstill"),
        ({"teacher": {"uri": "s3://others/x"}}, "ArtifactUnreadable", "spec.teacher.uri: s3://others may not be used"),
        ({"teacher": {"uri": "store://teachers/tiny", "digest": ZEROS}}, "DigestMismatch", "not sha256:000"),
        ({"dataset": {"uri": f"hf://datasets/org/frames@{'0' * 40}"}}, "ArtifactUnreadable", "spec.dataset.uri: hf://"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_ends_the_child_with_the_field(
    stores: Stores, frames: str, changes: dict[str, Any], reason: str, words: str
) -> None:
    name = f"bad-{abs(hash(words))}"
    code, result, log = stores.child(["flowstill-train"], name, kind="Train", spec=spec(frames, **changes))
    assert (code, result["outcome"], result["reason"]) == (65, "UserError", reason), log
    assert words in result["message"]


def test_the_command_line_of_this_machine_reads_them_and_pushes_the_student(
    stores: Stores, frames: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in stores.environment.items():
        monkeypatch.setenv(variable, value)
    for variable in ("FLOWSTILL_STORE", "FLOWSTILL_WORK"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("FLOWSTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    desk = Ground(tmp_path, stores.warm)
    quick = ("--steps", "2", "--batch-size", "2", "--target-steps", "4", "--bank-size", "8", "--refine-steps", "0")
    quick += ("--precision", "fp32")
    said = desk.give("distill", f"{STORE}/teachers/tiny", "--dataset", frames, "--name", "tiny", *quick)
    assert said.code == 0, (said.output, said.errors, desk.log("tiny", "train"))
    student = desk.resource("DistillJob", "tiny")["status"]["student"]
    stores.hub.commit("models/org/student", {"README.md": b"# ours"})
    said = desk.give("store", "push", str(tmp_path / "student-export"), "hf://org/student")
    assert said.code == 0, said.errors
    reference = f"hf://org/student@{stores.hub.head('models/org/student')}@{student['digest']}"
    assert said.output.strip() == reference
    said = desk.give("validate", reference, "--dataset", frames)
    assert (said.code, said.errors) == (0, ""), said.output
    assert load_policy(reference) is not None
