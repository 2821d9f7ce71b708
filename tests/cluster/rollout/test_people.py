"""What people do, typed as they type it, against a real API server; and what GitOps tools see of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flowstill_operator import cli
from tests.cluster.harness.processes import CommandError
from tests.cluster.resources import distill_job, student_rollout
from tests.cluster.scene import TARGET, Scene, student, text
from tests.cluster.waiting import until
from tests.unit.operator.builders import trained

FIRST = student("a")
SPEC = {"student": FIRST.model_dump(), "runtime": {"gpusPerNode": 0}}


@pytest.fixture
def typed(scene: Scene, capsys):
    """``flowstill`` with those words in the scene's namespace: its exit code, and all that it printed."""
    where = ("-n", scene.namespace, "--kubeconfig", str(scene.plane.kubeconfig))

    def run(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.main([*words, *where])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def start(scene: Scene, name: str, **spec) -> None:
    deployment = {"name": TARGET, "container": "policy"}
    target = {"deployment": deployment, "progressDeadlineSeconds": 120}
    scene.plane.apply(student_rollout(name, scene.namespace, **SPEC, target=target, **spec))


def test_a_rollout_waits_for_an_approval_and_its_promotion_can_be_aborted_and_tried_again(scene: Scene, typed) -> None:
    scene.deploy()
    start(scene, "careful", approval="Manual")
    assert "only a rollout that is AwaitingApproval" in typed("approve", "careful", "--reason", "early")[1]
    scene.judge("careful")
    digest = scene.await_phase("careful", "AwaitingApproval")["evidence"]["digest"]
    assert scene.entry() is None
    other = f"flowstill.dev/approve=sha256:{64 * '0'} eve: no"
    scene.plane.kubectl("annotate", "sr", "careful", other, "-n", scene.namespace)
    scene.await_condition("careful", "Approved", "OtherEvidence")
    code, said = typed("approve", "careful", "--reason", "saw all videos", "--evidence", digest)
    assert (code, "approve asked for by" in said) == (0, True), said
    scene.await_condition("careful", "Promoted", "WaitingForDeployment")
    assert scene.entry() == text(FIRST)

    assert typed("abort", "sr/careful", "--reason", "it stutters")[0] == 0
    status = scene.await_phase("careful", "RolledBack")
    assert scene.entry() is None
    who = scene.plane.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
    assert [(a["action"], a["by"], a["reason"]) for a in status["actions"]] == [
        ("approve", who, "saw all videos"),
        ("abort", who, "it stutters"),
    ]
    scene.await_available()
    assert typed("retry", "careful", "--reason", "mended")[0] == 0
    scene.await_condition("careful", "Approved", "ApprovalUsed")
    assert typed("approve", "careful", "--reason", "saw it again")[0] == 0
    scene.serve("careful")
    with pytest.raises(CommandError, match="until the student is promoted"):
        start(scene, "careful", approval="Automatic")
    described = typed("describe", "careful")[1]
    for words in ("ApprovalUsed", "careful-judge-", text(FIRST), "saw it again", "Nothing: it is done."):
        assert words in described
    code, said = typed("report", "careful")
    assert (code, "kubectl exec" in said) == (2, True)
    pod = said.partition("<<'END'\n")[2].partition("\nEND")[0]
    scene.plane.kubectl("create", "--dry-run=server", "-f", "-", stdin=pod)


def test_a_training_is_aborted_and_tried_again_and_made_again_without_training(scene: Scene, typed) -> None:
    job = distill_job("dj", scene.namespace)
    scene.plane.apply(job)
    scene.kubelet.run(scene.kubelet.child("dj", "train"))
    scene.await_condition("dj", "Trained", "Running", "distilljobs")
    before = scene.jobs()
    assert "Running" in typed("get", "dj/dj")[1]
    assert typed("abort", "dj", "--reason", "wrong dataset")[0] == 0
    scene.await_phase("dj", "Failed", "distilljobs")
    until(lambda: scene.jobs() == {}, "its Job is gone", scene.jobs)
    assert "there is nothing to abort" in typed("abort", "dj", "--reason", "again")[1]

    assert typed("retry", "dj", "--reason", "the right one is there")[0] == 0
    scene.play("dj", "train", trained())
    scene.await_phase("dj", "Succeeded", "distilljobs")
    assert scene.jobs().keys() == before.keys()
    assert scene.jobs() != before

    scene.objects.delete("distilljobs", "dj")
    until(lambda: scene.jobs() == {}, "what it owned is gone", scene.jobs)
    scene.plane.apply(job)
    scene.play("dj", "train", trained(reused=True))
    scene.await_phase("dj", "Succeeded", "distilljobs")
    assert scene.condition("dj", "Trained", "distilljobs")[:2] == ("True", "Reused")


def difference(scene: Scene, path: Path, *flags: str) -> str:
    """What ``kubectl diff`` says; empty when nothing would change."""
    try:
        return scene.plane.kubectl("diff", "-f", str(path), *flags)
    except CommandError as error:
        return str(error)


@pytest.mark.parametrize("flags", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_git_and_the_cluster_agree_after_the_operator_has_worked(scene: Scene, tmp_path: Path, flags) -> None:
    path = tmp_path / "manifests.json"
    resources = [
        distill_job("dj", scene.namespace),
        student_rollout("sr", scene.namespace, student={"distillJob": "dj"}),
    ]
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": resources}))
    scene.plane.kubectl("apply", "-f", str(path), *flags)
    scene.play("dj", "train")
    scene.await_phase("dj", "Succeeded", "distilljobs")
    scene.await_phase("sr", "Validating")
    scene.plane.kubectl("annotate", "dj,sr", "--all", "flowstill.dev/retry=token", "-n", scene.namespace)
    until(lambda: scene.status("dj", "distilljobs").get("actions"), "the operator has answered")
    assert difference(scene, path, *flags) == ""
    other = () if flags else ("--server-side",)
    scene.plane.kubectl("apply", "-f", str(path), *other)
    assert difference(scene, path, *other) == ""
    for plural, name in (("distilljobs", "dj"), ("studentrollouts", "sr")):
        found = scene.objects.get(plural, name)
        fields = [entry for entry in found["metadata"]["managedFields"] if "f:spec" in entry["fieldsV1"]]
        assert {entry["manager"].partition("-")[0] for entry in fields} == {"kubectl"}
        assert found["metadata"]["generation"] == 1


def test_kubectl_finds_the_plugin(scene: Scene) -> None:
    environment = scene.plane.environment()
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = [str(scene.plane.tools["kubectl"]), "flowstill", "get", "-A", "-o", "name"]
    assert subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60).returncode == 0
