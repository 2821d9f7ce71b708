"""``flowstill run`` with real processes that follow the child contract."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from flowstill.artifacts.stores import publish
from flowstill_operator import cli
from flowstill_operator.clusters import local_jobs
from flowstill_operator.clusters.interface import AlreadyExists, Conflict, Gone
from flowstill_operator.clusters.local import LocalCluster
from flowstill_operator.engine import loop
from flowstill_operator.platform import local_platform
from tests.unit.artifacts.samples import make_folder, student_properties
from tests.unit.operator.builders import distill_spec, rollout_spec

CHILD = Path(__file__).with_name("fake_child.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fake_children(monkeypatch):
    """The Jobs are the real manifests; only the first words of their command are replaced."""
    for kind, controller in list(loop.CONTROLLERS.items()):
        monkeypatch.setitem(loop.CONTROLLERS, kind, replace(controller, manifest=faked(controller.manifest)))
    monkeypatch.setattr(local_jobs, "back_off", lambda failures: 0.01)


def faked(manifest):
    def make(observed, wanted, platform):
        job = manifest(observed, wanted, platform)
        container = job["spec"]["template"]["spec"]["containers"][0]
        if not wanted.reader:
            command = container["command"]
            container["command"] = [sys.executable, str(CHILD), *command[command.index("--spec") :]]
        return job

    return make


def files(tmp_path, distill=None, rollout=None):
    path = tmp_path / "both.yaml"
    documents = [
        {
            "kind": "DistillJob",
            "metadata": {"name": "dj"},
            "spec": distill or distill_spec(runtime={"backoffLimit": 1}),
        },
        {
            "kind": "StudentRollout",
            "metadata": {"name": "sr"},
            "spec": rollout or rollout_spec(student={"distillJob": "dj"}),
        },
    ]
    path.write_text(yaml.safe_dump_all([{"apiVersion": "flowstill.dev/v1alpha1", **d} for d in documents]))
    return str(path)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Commands run in a folder of their own; what they leave in the process goes with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWSTILL_STORE", "")
    monkeypatch.delenv("FLOWSTILL_STORE")


def run(tmp_path, *more, path=None):
    return cli.main(["run", path or files(tmp_path), *more])


def states(tmp_path):
    return states_of(tmp_path / ".flowstill/state")


def states_of(folder):
    paths = folder.glob("[DS]*/*.json")
    return {path.stem: json.loads(path.read_text()) for path in paths}


def attempts(tmp_path, name, role):
    uid = states(tmp_path)[name]["metadata"]["uid"]
    path = tmp_path / ".flowstill/store/work" / uid / role / "attempts"
    return path.read_text().splitlines() if path.exists() else []


def test_the_chain_completes_and_is_remembered(tmp_path, capsys):
    assert run(tmp_path) == 0
    output = capsys.readouterr().out
    assert "DistillJob dj: Succeeded" in output
    assert "StudentRollout sr: Completed" in output
    assert "student-draws" in output
    assert run(tmp_path) == 0
    assert [
        len(attempts(tmp_path, *one))
        for one in (("dj", "train"), ("sr", "parity"), ("sr", "rollouts"), ("sr", "judge"))
    ] == [1] * 4
    store = attempts(tmp_path, "dj", "train")[0].split()[1]
    assert store == f"file://{tmp_path}/.flowstill/store"
    assert cli.main(["get"]) == 0
    assert "Completed" in capsys.readouterr().out


@pytest.mark.parametrize(("verdict", "code", "phase"), [("Fail", 1, "Rejected"), ("Inconclusive", 3, "Inconclusive")])
def test_verdicts_decide_the_exit_code(tmp_path, monkeypatch, capsys, verdict, code, phase):
    monkeypatch.setenv("FAKE_VERDICT", verdict)
    assert run(tmp_path, "--json") == code
    assert states(tmp_path)["sr"]["status"]["phase"] == phase
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert (document["exitCode"], document["command"]) == (code, "run")
    distilled, rolled = document["resources"]
    assert (distilled["kind"], distilled["phase"], distilled["verdict"]) == ("DistillJob", "Succeeded", None)
    assert (rolled["phase"], rolled["verdict"], len(rolled["gates"])) == (phase, verdict, 9)
    assert rolled["parity"]["holds"] is True
    assert list(rolled["logs"]) == ["parity", "rollouts", "judge"]
    assert all(Path(path).is_file() for path in (*rolled["logs"].values(), *distilled["logs"].values()))
    assert f"StudentRollout sr: {phase}" in said.err
    assert f"log of judge: {rolled['logs']['judge']}" in said.err


@pytest.mark.parametrize(("verdict", "code"), [("Pass", 0), ("Inconclusive", 3), ("Fail", 1)])
def test_eval_runs_the_manifest_that_it_writes(tmp_path, monkeypatch, capsys, verdict, code):
    monkeypatch.setenv("FAKE_VERDICT", verdict)
    monkeypatch.setenv("FLOWSTILL_STORE", f"file://{tmp_path}/.flowstill/store")
    student = publish(make_folder(tmp_path / "work"), "Student", student_properties())
    line = [
        "eval",
        student.uri,
        "--suite",
        "metaworld",
        "--tasks",
        "reach-v3",
        "--num-episodes",
        "50",
        "--name",
        "mine",
    ]
    assert cli.main([*line, "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    [resource] = document["resources"]
    assert (document["command"], document["exitCode"], resource["verdict"]) == ("eval", code, verdict)
    assert (resource["student"]["digest"], document["manifest"]) == (student.digest, "mine-eval.yaml")
    assert run(tmp_path, path="mine-eval.yaml") == code
    assert len(attempts(tmp_path, "mine", "judge")) == 1
    assert cli.main([*line, "--seed", "1"]) == 2
    assert "--name: StudentRollout mine was run with other flags" in capsys.readouterr().err


def test_a_users_error_is_tried_once_and_ends_the_rollout_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_TRAIN", "user-error")
    assert run(tmp_path) == 1
    found = states(tmp_path)
    assert found["dj"]["status"]["message"] == "spec.teacher: no policy"
    assert found["sr"]["status"]["phase"] == "Failed"
    assert len(attempts(tmp_path, "dj", "train")) == 1
    assert "spec.teacher: no policy" in capsys.readouterr().out


@pytest.mark.parametrize(("wish", "code", "tries"), [("crash", 1, 2), ("crash-once", 0, 2)])
def test_crashes_are_retried_up_to_the_backoff_limit(tmp_path, monkeypatch, wish, code, tries):
    monkeypatch.setenv("FAKE_TRAIN", wish)
    assert run(tmp_path) == code
    assert len(attempts(tmp_path, "dj", "train")) == tries
    reasons = {c["type"]: c["reason"] for c in states(tmp_path)["dj"]["status"]["conditions"]}
    assert reasons["Trained"] == ("Succeeded" if code == 0 else "BackoffLimitExceeded")


def sharded(**evaluation):
    limits = {"episodesPerTask": 4, "maxEpisodesPerTask": 16, "shards": 2, **evaluation}
    evaluation = {"suite": "metaworld", "tasks": ["reach-around"], **limits}
    return rollout_spec(student={"distillJob": "dj"}, evaluation=evaluation, runtime={"backoffLimit": 1})


@pytest.mark.parametrize("wish", ["crash-once", "mute"])
def test_shards_run_one_after_another_and_only_the_one_that_crashed_again(tmp_path, monkeypatch, wish):
    monkeypatch.setenv("FAKE_ROLLOUTS_1", wish)
    assert run(tmp_path, path=files(tmp_path, rollout=sharded())) == 0
    tries = [len(attempts(tmp_path, "sr", f"rollouts/{shard}")) for shard in (0, 1)]
    assert tries == [1, 2 if wish == "crash-once" else 1]
    [path] = (tmp_path / ".flowstill/state/jobs").glob("sr-rollouts-????????/job.json")
    stored = json.loads(path.read_text())
    indexes = [pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] for pod in stored["pods"]]
    assert indexes == ["0", "1", "1"][: sum(tries)]
    assert stored["job"]["status"]["succeeded"] == 2


def test_a_shard_that_fails_too_often_fails_the_rollout_and_is_tried_again_when_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_ROLLOUTS_1", "crash")
    path = files(tmp_path, rollout=sharded())
    assert run(tmp_path, path=path) == 1
    message = states(tmp_path)["sr"]["status"]["message"]
    assert message.startswith("rollouts: shard 2 of 2 failed 2 times, the last with exit code 1; 2 attempts failed")
    monkeypatch.delenv("FAKE_ROLLOUTS_1")
    assert run(tmp_path, path=path) == 0
    assert len(attempts(tmp_path, "sr", "rollouts/1")) == 3


def test_rounds_go_on_until_there_is_a_verdict(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_ROUNDS", "3")
    assert run(tmp_path, path=files(tmp_path, rollout=sharded())) == 0
    status = states(tmp_path)["sr"]["status"]
    assert (status["phase"], status["round"], status["episodes"], status["rounds"]) == ("Completed", 3, 16, [4, 4, 8])
    for role in ("rollouts", "rollouts-2", "rollouts-3"):
        assert [len(attempts(tmp_path, "sr", f"{role}/{shard}")) for shard in (0, 1)] == [1, 1]
    assert [len(attempts(tmp_path, "sr", role)) for role in ("judge", "judge-2", "judge-3")] == [1, 1, 1]
    assert "4 episodes of every task leave P1 undecided; 8 of at most 16 are run" in capsys.readouterr().out


def test_a_mute_child_is_read_from_its_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_PARITY", "mute")
    assert run(tmp_path) == 0
    assert len(attempts(tmp_path, "sr", "parity")) == 1
    assert len(list((tmp_path / ".flowstill/state/jobs").glob("*-parity-read-*"))) == 1


def test_a_deadline_ends_the_child(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_TRAIN", "sleep")
    path = files(tmp_path, distill=distill_spec(runtime={"activeDeadlineSeconds": 2}))
    assert run(tmp_path, path=path) == 1
    reasons = {c["type"]: c["reason"] for c in states(tmp_path)["dj"]["status"]["conditions"]}
    assert reasons["Failed"] == "DeadlineExceeded"


def test_another_spec_of_the_same_name_is_refused_unless_fresh(tmp_path, capsys):
    assert run(tmp_path) == 0
    first = states(tmp_path)["dj"]["metadata"]["uid"]
    path = files(tmp_path, distill=distill_spec(training={"steps": 5}))
    assert run(tmp_path, path=path) == 2
    assert "immutable" in capsys.readouterr().err
    assert states(tmp_path)["dj"]["metadata"]["uid"] == first
    assert run(tmp_path, "--fresh", path=path) == 0
    assert states(tmp_path)["dj"]["metadata"]["uid"] != first


def test_bad_input_starts_nothing(tmp_path, capsys):
    path = files(tmp_path, rollout=rollout_spec(student={"distillJob": "other"}))
    assert run(tmp_path, path=path) == 2
    assert "spec.student.distillJob" in capsys.readouterr().err
    assert run(tmp_path, path=files(tmp_path, distill=distill_spec(typo=1))) == 2
    assert "spec.typo" in capsys.readouterr().err
    assert run(tmp_path, "--store", "pvc://x") == 2
    assert not (tmp_path / ".flowstill/state/jobs").exists()


def test_store_push_fills_the_default_store(tmp_path, capsys):
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert cli.main(["store", "push", str(folder), "store://teachers/t"]) == 0
    assert "store://teachers/t@sha256:" in capsys.readouterr().out
    assert (tmp_path / ".flowstill/store/teachers/t/config.json").read_text() == "{}"
    assert cli.main(["store", "push", str(tmp_path / "none"), "store://teachers/u"]) == 2


PROGRAM = """
import sys
sys.path[:0] = [{root!r}]
from dataclasses import replace
from flowstill_operator import cli
from flowstill_operator.engine import loop
from tests.local.test_run import faked
for kind, controller in list(loop.CONTROLLERS.items()):
    loop.CONTROLLERS[kind] = replace(controller, manifest=faked(controller.manifest))
sys.exit(cli.main(["run", {path!r}]))
"""


def in_background(tmp_path, **env):
    program = PROGRAM.format(root=str(ROOT), path=files(tmp_path))
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True
    )


def wait_for(condition):
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def sleeping(tmp_path):
    return list(tmp_path.glob(".flowstill/store/work/*/train/ready"))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_an_interrupt_saves_and_the_next_run_continues(tmp_path):
    process = in_background(tmp_path, FAKE_TRAIN="sleep")
    wait_for(lambda: sleeping(tmp_path))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command continues" in output
    pid = int(attempts(tmp_path, "dj", "train")[0].split()[0])
    assert not alive(pid)
    assert sleeping(tmp_path)[0].with_name("checkpoint").exists()
    assert run(tmp_path) == 0
    assert len(attempts(tmp_path, "dj", "train")) == 2


def test_a_killed_run_leaves_a_child_that_the_next_run_ends(tmp_path):
    process = in_background(tmp_path, FAKE_TRAIN="sleep")
    wait_for(lambda: sleeping(tmp_path))
    process.kill()
    process.communicate()
    pid = int(attempts(tmp_path, "dj", "train")[0].split()[0])
    assert alive(pid)
    assert run(tmp_path) == 0
    assert not alive(pid)
    assert len(attempts(tmp_path, "dj", "train")) == 2


def test_a_suspended_run_saves_rests_and_goes_on(tmp_path, monkeypatch, capsys):
    """The files say ``suspend``: what runs is ended after its checkpoint, nothing is begun, and nobody waits."""
    process = in_background(tmp_path, FAKE_TRAIN="sleep")
    wait_for(lambda: sleeping(tmp_path))
    process.kill()
    process.communicate()
    pid = int(attempts(tmp_path, "dj", "train")[0].split()[0])
    held = files(tmp_path, distill=distill_spec(runtime={"backoffLimit": 1}, suspend=True))
    assert run(tmp_path, path=held) == 3
    output = capsys.readouterr().out
    assert "DistillJob dj: Suspended" in output
    assert "without it the same command goes on" in output
    assert not alive(pid)
    assert sleeping(tmp_path)[0].with_name("checkpoint").exists()
    found = states(tmp_path)
    assert [found[name]["status"]["phase"] for name in ("dj", "sr")] == ["Suspended", "Pending"]
    assert found["dj"]["metadata"]["generation"] == 2
    assert run(tmp_path, path=held) == 3
    assert len(attempts(tmp_path, "dj", "train")) == 1
    assert run(tmp_path) == 0
    assert len(attempts(tmp_path, "dj", "train")) == 2
    assert states(tmp_path)["dj"]["status"]["attempts"] == 2


async def test_a_deleted_job_is_ended_by_its_process_and_then_forgotten(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_TRAIN", "sleep")
    cluster, changed = LocalCluster(tmp_path / "state"), []
    cluster.changed = changed.append
    resource = cluster.declare("DistillJob", "dj", distill_spec(), fresh=False)
    key = loop.Key("DistillJob", "local", "dj")
    reconciler = loop.Reconciler(cluster, local_platform(f"file://{tmp_path}/store"))
    await reconciler.reconcile(key)
    while not list(tmp_path.glob("store/work/*/train/ready")):
        await asyncio.sleep(0.05)
    suspended = cluster.declare("DistillJob", "dj", distill_spec(suspend=True), fresh=False)
    assert suspended["metadata"]["uid"] == resource["metadata"]["uid"]
    for _ in range(2):
        await reconciler.reconcile(key)
    [path] = tmp_path.glob("state/jobs/*/job.json")
    assert "deletionTimestamp" in path.read_text()
    changed.clear()
    while path.exists():
        await asyncio.sleep(0.05)
    assert key in changed
    assert list(tmp_path.glob("store/work/*/train/checkpoint"))
    assert await cluster.running() == []
    await reconciler.reconcile(key)
    assert states_of(tmp_path / "state")["dj"]["status"]["phase"] == "Suspended"
    await cluster.stop()


def test_two_runs_do_not_share_a_state_folder(tmp_path, capsys):
    process = in_background(tmp_path, FAKE_TRAIN="sleep")
    wait_for(lambda: sleeping(tmp_path))
    assert run(tmp_path) == 2
    assert "another flowstill run" in capsys.readouterr().err
    process.terminate()
    process.communicate()


async def test_progress_is_asked_from_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_TRAIN", "sleep")
    cluster = LocalCluster(tmp_path / "state")
    cluster.declare("DistillJob", "dj", distill_spec(), fresh=False)
    reconciler = loop.Reconciler(cluster, local_platform(f"file://{tmp_path}/store"))
    key = loop.Key("DistillJob", "local", "dj")
    await reconciler.reconcile(key)
    while not list(tmp_path.glob("store/work/*/train/ready")):
        await asyncio.sleep(0.05)
    await reconciler.reconcile(key)
    found = await cluster.get("DistillJob", "local", "dj")
    assert found["status"]["phase"] == "Running"
    assert found["status"]["progress"]["progressPercentage"] == 75
    [(job, report)] = await cluster.running()
    assert (job["metadata"]["labels"]["flowstill.dev/role"], report.step) == ("train", 3)
    await cluster.stop()
    assert await cluster.running() == []


async def test_the_local_cluster_keeps_the_apis_promises(tmp_path):
    cluster = LocalCluster(tmp_path)
    first = cluster.declare("DistillJob", "dj", {"a": 1}, fresh=False)
    await cluster.write_status(first, {"phase": "Running"})
    with pytest.raises(Conflict):
        await cluster.write_status(first, {"phase": "Failed"})
    cluster.declare("DistillJob", "dj", {"a": 1}, fresh=True)
    with pytest.raises(Gone):
        await cluster.write_status(first, {"phase": "Failed"})
    assert await cluster.get("Job", "local", "none") is None
    job_path = tmp_path / "jobs/j/job.json"
    job_path.parent.mkdir(parents=True)
    job_path.write_text("{}")
    with pytest.raises(AlreadyExists):
        await cluster.create({"metadata": {"name": "j"}})
