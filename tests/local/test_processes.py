"""Several processes train one student: the same student as one does, and they end alike."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.local.test_train import REPOSITORY, artifact, write_spec
from tests.local.test_train import Store as TrainStore
from tests.support.train_together import REFINED, SIZE, WAYS, meeting_point, rank_variables, together

OTHERS = [pytest.param(kind, marks=pytest.mark.long) for kind in ("pi0", "pi05")]


@pytest.fixture(scope="module", params=["smolvla", *OTHERS])
def found(request, tmp_path_factory):
    """What two processes found, each; only fresh ones build LeRobot's other policies small."""
    folder = tmp_path_factory.mktemp("together")
    warm = request.getfixturevalue("warm") if request.param == "smolvla" else None
    with (folder / "log").open("w") as log:
        processes = together(request.param, folder, log, warm)
        assert [process.wait(900) for process in processes] == [0] * SIZE, (folder / "log").read_text()
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(SIZE)]


@pytest.mark.parametrize("way", WAYS)
def test_the_same_curve_and_the_same_weights_as_alone(found, way):
    for rank in found:
        assert len(rank["alone"]["losses"]) == 6
        assert rank[way]["losses"] == pytest.approx(rank["alone"]["losses"], rel=1e-5)
        assert rank[way]["norms"] == pytest.approx(rank["alone"]["norms"], rel=1e-4)  # AdamW would hide their scale
        assert rank[way]["difference"] < 1e-4
    assert found[0][way] == found[1][way]


def test_all_go_on_with_the_step_that_rank_0_chose(found):
    for rank in found:
        assert set(rank["chosen"]["trained"]) == {7.0}


@pytest.mark.parametrize("way", REFINED)
def test_a_refinement_by_all_is_that_of_one(found, way):
    for rank in found:
        alone, both = rank["refined alone"], rank[f"refined {way}"]
        assert (len(alone["losses"]), len(alone["norms"])) == (5, 15)
        assert both["losses"] == pytest.approx(alone["losses"], rel=1e-4)
        assert both["norms"] == pytest.approx(alone["norms"], rel=1e-3)
        assert both["difference"] < 1e-4
    assert found[0][f"refined {way}"] == found[1][f"refined {way}"]


def test_a_stopped_refinement_of_fsdp_is_continued_by_ddp(found):
    for rank in found:
        assert rank["refined stopped"]["error"].startswith("Interrupted: stopped at step 3 of 5 of refinement")
        assert list(rank["refined resumed"]["losses"]) == ["4", "5"]
        assert rank["refined resumed"]["difference"] < 1e-4


def test_all_stop_at_the_step_of_the_one_that_was_told_to(found):
    for rank in found:
        assert rank["stopped"]["error"].startswith("Interrupted: stopped at step 3 of 6")
        assert list(rank["stopped"]["losses"]) == ["1", "2", "3"]


def test_a_checkpoint_of_fsdp_is_continued_by_ddp(found):
    for rank in found:
        expected = {step: rank["alone"]["losses"][step] for step in ("4", "5", "6")}
        assert rank["resumed"]["losses"] == pytest.approx(expected, rel=1e-5)
        assert rank["resumed"]["difference"] < 1e-4


def test_nan_in_one_process_stops_all(found):
    for rank in found:
        assert rank["poisoned"]["error"].startswith("NonFiniteLoss: spec.training: step 4: loss nan")
    assert found[0]["poisoned"]["error"] == found[1]["poisoned"]["error"]


class Rank:
    """One of the processes of ``flowstill-train``, a fork of the warm one."""

    def __init__(self, warm, folder, environment):
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(warm.socket))
        self._log = (folder / "stderr").open("a")
        command = ["flowstill-train", "--spec", str(folder / "spec.json"), "--output", str(folder)]
        request = json.dumps({"command": command, "environment": environment, "folder": str(folder)})
        files = [self._log.fileno()] * 2
        socket.send_fds(self._connection, [f"{len(request.encode()):10d}".encode()], files)
        self._connection.sendall(request.encode())
        self._answers = self._connection.makefile()
        self._connection.settimeout(600)
        self.pid = int(self._answers.readline())

    def alive(self):
        """Whether it is still there."""
        return Path(f"/proc/{self.pid}").exists()

    def wait(self):
        code = int(self._answers.readline())
        self._connection.close()
        self._log.close()
        return code


@pytest.fixture(scope="module")
def store(tiny, tmp_path_factory):
    return TrainStore.of(tmp_path_factory.mktemp("store"), tiny, None)


def start(warm, folder, store, size=SIZE):
    common = (
        dict(os.environ)
        | meeting_point()
        | {
            "FLOWSTILL_STORE": f"file://{store.root}",
            "FLOWSTILL_TERMINATION_LOG": str(folder / "termination"),
            "FLOWSTILL_PROGRESS_PORT": meeting_point()["MASTER_PORT"],
            "OMP_NUM_THREADS": "1",
        }
    )
    ranks = range(size)
    return [Rank(warm, folder, common | rank_variables(rank) | {"WORLD_SIZE": str(size)}) for rank in ranks]


def checkpoints(folder):
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))


def ended_after_a_checkpoint(warm, folder, store, rank, number):
    """A run that has written a new checkpoint when one of its processes gets the signal."""
    before = checkpoints(folder)
    ranks = start(warm, folder, store)
    while checkpoints(folder)[-1:] == before[-1:]:
        assert ranks[rank].alive(), (folder / "stderr").read_text()
        time.sleep(0.02)
    os.kill(ranks[rank].pid, number)
    return ranks


def finish(ranks, folder):
    codes = [rank.wait() for rank in ranks]
    said = folder / "termination"
    assert said.exists(), f"{codes} without a word: {(folder / 'stderr').read_text()[-4000:]}"
    return codes, json.loads(said.read_text())


def weights(store, result):
    return (artifact(store, result) / "policy" / "model.safetensors").read_bytes()


@pytest.mark.long
def test_killed_and_stopped_runs_give_the_same_weights(warm, store, tmp_path):
    options = {"steps": 120, "seed": 3, "checkpointEvery": 10}
    whole = write_spec(tmp_path / "whole", **options)
    codes, result = finish(start(warm, whole, store), whole)
    log = (whole / "stderr").read_text()
    assert codes == [0] * SIZE, log
    assert (result["reason"], "no progress on port" in log) == ("Published", False)
    expected = weights(store, result)
    again = write_spec(tmp_path / "again", **options)
    codes, result = finish(start(warm, again, store), again)
    assert (codes, result["reason"]) == ([0] * SIZE, "AlreadyPublished")
    (store.root / "by-inputs").rename(tmp_path / "forgotten")

    killed = write_spec(tmp_path / "killed", **options)
    codes, result = finish(ended_after_a_checkpoint(warm, killed, store, 1, signal.SIGKILL), killed)
    assert (codes, result["outcome"]) == ([1, 128 + signal.SIGKILL], "Error")
    codes, _ = finish(ended_after_a_checkpoint(warm, killed, store, 0, signal.SIGKILL), killed)
    assert codes == [128 + signal.SIGKILL, 1]
    codes, result = finish(ended_after_a_checkpoint(warm, killed, store, 1, signal.SIGTERM), killed)
    assert (codes, result["outcome"]) == ([143] * SIZE, "Interrupted")
    assert "checkpoint is saved" in result["message"]

    codes, result = finish(start(warm, killed, store), killed)
    assert (codes, result["reason"]) == ([0] * SIZE, "Published")
    assert weights(store, result) == expected


def test_too_few_samples_for_all_is_the_users_error(warm, store, tmp_path):
    folder = write_spec(tmp_path, gradientAccumulation=3)
    codes, result = finish(start(warm, folder, store), folder)
    assert (codes, result["outcome"]) == ([65] * SIZE, "UserError")
    assert result["message"].startswith("spec.training.batchSize: 4 samples")
    assert "at least 6" in result["message"]


@pytest.mark.parametrize(("parallel", "refine"), [("ddp", {}), ("fsdp", {"refine": {"steps": 2}})])
def test_rank_0_looks_at_the_whole_student(warm, store, tmp_path, parallel, refine):
    def published(name, ranks):
        options = {"steps": 8, "seed": 6, "fidelityEvery": 3, "ema": 0.9, "parallel": parallel} | refine
        folder = write_spec(tmp_path / name, **options)
        if (known := store.root / "by-inputs").exists():
            known.rename(tmp_path / f"forgotten-{name}")
        codes, result = finish(ranks(folder), folder)
        assert set(codes) == {0}, (folder / "stderr").read_text()
        assert ("refining: 10 of 10" in (folder / "stderr").read_text()) == bool(refine)
        distances = {arm["name"]: arm["distance"] for arm in result["fidelity"]}
        return json.loads((artifact(store, result) / "fidelity" / "curve.json").read_text()), distances

    both, distances = published("both", lambda folder: start(warm, folder, store))
    alone, expected = published("alone", lambda folder: start(warm, folder, store, size=1))
    assert distances == pytest.approx(expected, abs=1e-4)
    assert [look["step"] for look in both["looks"]] == [3, 6, 8] + [10] * bool(refine)
    assert both["publishedStep"] == alone["publishedStep"]
    for ours, theirs in zip(both["looks"], alone["looks"], strict=True):
        assert ours["distances"] == pytest.approx(theirs["distances"], abs=1e-4)
        assert ours["mseMean"] == pytest.approx(theirs["mseMean"], rel=1e-3)


LAUNCHERS = {
    "torchrun": ["torchrun", "--nproc-per-node", "2", "--master-port"],
    "accelerate": ["accelerate", "launch", "--num_processes", "2", "--multi_gpu", "--main_process_port"],
}


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_other_launchers_start_the_same_processes(store, tmp_path, launcher):
    """Fresh ones, as a person starts them. Two are too many for what three parts of 4 samples allow."""
    name, *flags = LAUNCHERS[launcher]
    for parts, outcome in ((3, "UserError"), (1, "Succeeded")):
        folder = write_spec(tmp_path / str(parts), steps=4, seed=len(name), gradientAccumulation=parts)
        environment = os.environ | {
            "FLOWSTILL_STORE": f"file://{store.root}",
            "FLOWSTILL_TERMINATION_LOG": str(folder / "termination"),
            "OMP_NUM_THREADS": "1",
        }
        command = [str(Path(sys.executable).parent / name), *flags, meeting_point()["MASTER_PORT"]]
        command += ["-m", "flowstill_trainer.cli", "--spec", str(folder / "spec.json"), "--output", str(folder)]
        ended = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=900)
        result = json.loads((folder / "termination").read_text())
        assert (result["outcome"], ended.returncode == 0) == (outcome, parts == 1), ended.stderr[-4000:]
        assert ("2 processes" in result["message"]) == (parts == 3)
