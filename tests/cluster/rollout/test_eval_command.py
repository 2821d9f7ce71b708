"""``flowstill eval --runtime kubernetes`` against a real API server, and what the operator makes of it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flowstill_operator.jobs import SPEC_ANNOTATION
from tests.cluster.scene import Scene, student, text

FLOWSTILL = str(Path(sys.executable).parent / "flowstill")
STUDENT = student("a")
TASKS = ["reach-v3", "push-v3"]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def evaluate(scene: Scene, tmp_path: Path) -> Command:
    """The installed command with a kubeconfig, in a folder of its own."""

    def give(*flags: str) -> subprocess.CompletedProcess[str]:
        line = [FLOWSTILL, "eval", text(STUDENT), "--suite", "metaworld", "--tasks", ",".join(TASKS)]
        line += ["--runtime", "kubernetes", "--namespace", scene.namespace, "--gpus", "0", "--name", "asked", *flags]
        environment = scene.plane.environment()
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return give


def test_it_is_applied_and_the_operator_brings_it_to_its_verdict(
    scene: Scene, evaluate: Command, tmp_path: Path
) -> None:
    said = evaluate("--num-episodes", "50", "--arms", "teacher@10,student-draws", "--json")
    assert said.returncode == 0, said.stderr
    document = json.loads(said.stdout)
    where = {"server": scene.plane.server, "namespace": scene.namespace, "kind": "StudentRollout", "name": "asked"}
    assert (document["outcome"], document["applied"], document["resources"]) == ("completed", where, [])
    found = scene.objects.get("studentrollouts", "asked")
    assert found is not None
    assert found["spec"]["student"] == STUDENT.model_dump()
    evaluation = found["spec"]["evaluation"]
    assert (evaluation["tasks"], evaluation["arms"]) == (TASKS, ["teacher@10", "student-draws"])
    assert (evaluation["episodesPerTask"], evaluation["maxEpisodesPerTask"]) == (25, 25)

    # The operator's children are told what the flags said; the command again changes nothing.
    pod = scene.kubelet.child("asked", "parity")
    task = json.loads(pod["metadata"]["annotations"][SPEC_ANNOTATION])
    assert (task["kind"], task["evaluation"]["tasks"], task["evaluation"]["episodesPerTask"]) == ("Parity", TASKS, 25)
    assert evaluate("--num-episodes", "50", "--arms", "teacher@10,student-draws").returncode == 0
    kept = yaml.safe_load((tmp_path / "asked-eval.yaml").read_text())
    assert (kept["metadata"]["namespace"], kept["spec"]["student"]) == (scene.namespace, STUDENT.model_dump())
    scene.judge("asked", "Inconclusive")
    scene.await_phase("asked", "Inconclusive")
    after = scene.objects.get("studentrollouts", "asked")
    assert after is not None
    assert (after["metadata"]["uid"], after["metadata"]["generation"]) == (found["metadata"]["uid"], 1)

    said = evaluate("--num-episodes", "100", "--arms", "teacher@10,student-draws")
    assert said.returncode == 2
    assert "immutable" in said.stderr
    assert said.stderr.rstrip().endswith("give another --name")


def test_the_cluster_keeps_the_evidence_so_a_folder_for_it_is_refused(scene: Scene, evaluate: Command) -> None:
    said = evaluate("--output", "here")
    assert said.returncode == 2
    assert "--output" in said.stderr
    assert scene.objects.get("studentrollouts", "asked") is None
