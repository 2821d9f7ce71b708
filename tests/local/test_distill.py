"""``flowstill distill`` on this machine: the real trainer and evaluator on a tiny SmolVLA, and what the user gets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import flowstill
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.manifest import verify
from tests.support import tiny_smolvla
from tests.support.ground import Ground, Said
from tests.support.tiny_run import Tiny
from tests.support.warm_children import WarmProcess

QUICK = (
    "--steps", "6", "--batch-size", "2", "--target-steps", "4", "--bank-size", "8", "--refine-steps", "0",
    "--precision", "fp32",
)  # fmt: skip


class Desk(Ground):
    """A user's folder; the store is shared, so that equal inputs are distilled once."""

    def __init__(self, folder: Path, warm: WarmProcess, tiny: Tiny, store: Path) -> None:
        super().__init__(folder, warm, store)
        self.inputs = (str(tiny.teacher_folder), "--dataset", str(tiny.dataset_folder))

    def distill(self, *flags: str) -> Said:
        """The command with few steps; later flags win."""
        return self.give("distill", *self.inputs, "--name", "tiny", "--store", str(self.store), *QUICK, *flags)

    def reasons(self, name: str = "tiny") -> dict[str, str]:
        """Of every condition."""
        found = self.resource("DistillJob", name)["status"]["conditions"]
        return {condition["type"]: condition["reason"] for condition in found}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default store."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def desk(tmp_path: Path, warm: WarmProcess, tiny: Tiny, store: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A folder of its own; the store that the command sets in this process goes with the test."""
    monkeypatch.setenv("FLOWSTILL_STORE", "")
    return Desk(tmp_path, warm, tiny, store)


def test_from_a_teacher_to_a_validated_students_folder(desk: Desk) -> None:
    said = desk.distill("--validate-after", "--output", "out")
    assert said.code == 0, (said.output, said.errors, desk.log("tiny", "train"), desk.log("tiny", "parity"))
    assert "INFO ONNX (fp32) differs from PyTorch by" in desk.log("tiny", "train")
    assert "INFO Succeeded: ParityHolds" in desk.log("tiny", "parity")
    assert desk.reasons() == {
        "Validated": "Valid",
        "Trained": "Succeeded",
        "ParityVerified": "ParityHolds",
        "Published": "Published",
        "Complete": "Succeeded",
    }
    status = desk.resource("DistillJob", "tiny")["status"]
    assert 0 < status["parityDifference"] < 1e-3
    output = desk.folder / "out"
    assert f"output: {output}" in said.output
    assert tree_digest(output) == status["student"]["digest"]
    assert verify(output).kind == "Student"
    runner = flowstill.load(f"file://{output}@{status['student']['digest']}")
    assert runner.info.draws == 8

    # The same command again: nothing is trained, compared or copied.
    before = {path: path.stat().st_ino for path in output.rglob("*")}
    assert desk.distill("--validate-after", "--output", "out").code == 0
    assert {path: path.stat().st_ino for path in output.rglob("*")} == before
    # The manifest that was kept is the same order.
    assert yaml.safe_load((desk.folder / "out.yaml").read_text())["spec"]["validation"] == {"after": True}
    assert desk.give("run", "out.yaml", "--store", str(desk.store)).code == 0
    assert (desk.starts("tiny", "train"), desk.starts("tiny", "parity")) == (1, 1)

    # Other flags: the name is taken, then the folder is; nothing was started, and the manifest is the old one.
    kept = (desk.folder / "out.yaml").read_text()
    said = desk.distill("--seed", "1", "--output", "out")
    assert (said.code, "--output: " in said.errors) == (2, True)
    said = desk.distill("--seed", "1", "--output", "other")
    assert (said.code, "--name: DistillJob tiny was run with other flags" in said.errors) == (2, True)
    assert (desk.folder / "out.yaml").read_text() == kept
    assert not (desk.folder / "other.yaml").exists()
    assert desk.starts("tiny", "train") == 1


def test_its_student_is_validated_and_an_evaluation_of_another_graph_is_rejected(desk: Desk) -> None:
    """The student is that of the test before when that ran; the evaluator's real children answer."""
    assert desk.distill("--output", "out").code == 0
    store = ("--store", str(desk.store), "--json")
    said = desk.give("validate", "out", "--reference", str(desk.inputs[0]), "--samples", "8", *store)
    [found] = (document := json.loads(said.output))["resources"]
    assert found["parity"]["holds"] is True, said.errors
    assert 0 < found["parity"]["difference"] < found["parity"]["threshold"] == 1e-3
    [gate] = found["gates"]
    assert (gate["name"], gate["samples"], found["verdict"]) == ("P4", 8, gate["verdict"])
    assert (said.code, document["exitCode"]) == ({"Pass": 0, "Fail": 1, "Inconclusive": 3}[gate["verdict"]],) * 2
    assert Path(found["logs"]["parity"]).is_file()

    said = desk.give("validate", "out", "--threshold", "1e-12", *store)
    [found] = json.loads(said.output)["resources"]
    assert (said.code, found["verdict"], found["reason"]) == (1, "Fail", "ParityFailed")
    assert found["parity"]["holds"] is False

    line = ("eval", "out", "--suite", "metaworld", "--tasks", "reach-around", "--num-episodes", "2", "--samples", "4")
    said = desk.give(*line, "--threshold", "1e-12", *store)
    [found] = json.loads(said.output)["resources"]
    assert (said.code, found["phase"], found["verdict"], found["reason"]) == (1, "Rejected", "Fail", "ParityFailed")
    assert (found["parity"]["holds"], desk.starts("out", "rollouts")) == (False, 0)


def test_a_failed_parity_ends_the_job_and_keeps_the_student(desk: Desk) -> None:
    said = desk.distill("--validate-after", "--threshold", "1e-12", "--output", "out")
    assert said.code == 1
    reasons = desk.reasons()
    # The inputs are those of the test before, so the student is its one when that ran.
    assert reasons["Trained"] in ("Succeeded", "Reused")
    assert (reasons["ParityVerified"], reasons["Failed"]) == ("ParityFailed", "ParityFailed")
    status = desk.resource("DistillJob", "tiny")["status"]
    assert "the student stays published" in status["message"]
    assert "the student stays published" in said.output
    published = desk.store / status["student"]["uri"].removeprefix("store://")
    assert verify(published).kind == "Student"
    assert not (desk.folder / "out").exists()
    assert desk.starts("tiny", "parity") == 1


def test_a_dataset_with_other_names_of_cameras(desk: Desk, tmp_path: Path) -> None:
    folder = tiny_smolvla.write_dataset(tmp_path / "dataset", camera="observation.images.top")
    inputs = (desk.inputs[0], "--dataset", str(folder))
    command = ("distill", *inputs, "--name", "renamed", *QUICK, "--validate-after")
    said = desk.give(*command)
    assert said.code == 1
    assert "spec.dataset.renameMap" in said.output
    assert not (desk.folder / "student-export").exists()
    said = desk.give(*command, "--rename-map", f"observation.images.top={tiny_smolvla.CAMERA}", "--fresh")
    assert said.code == 0, (said.output, said.errors, desk.log("renamed", "parity"))
    assert verify(desk.folder / "student-export").kind == "Student"


def test_the_installed_command_needs_no_kubernetes_client(tmp_path: Path) -> None:
    """A laptop that installed the trainer only."""
    program = (
        "import sys; sys.modules['kubernetes'] = sys.modules['kopf'] = None; sys.modules['aiohttp'] = None\n"
        "from flowstill_operator.cli import main; sys.exit(main(sys.argv[1:]))"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, "distill", "store://t", "--dataset", "store://d", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ), check=False)

    printed = run("--dry-run")
    assert printed.returncode == 0, printed.stderr
    assert json.loads(json.dumps(yaml.safe_load(printed.stdout)))["kind"] == "DistillJob"
    refused = run("--runtime", "kubernetes")
    assert (refused.returncode, "install flowstill[operator]" in refused.stderr) == (2, True)
