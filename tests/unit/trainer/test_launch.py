"""The processes of one node: what each is told, how the node ends, and who hears SIGTERM. Real, small processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowstill_trainer import launch

TELL = """
import json, os, sys
names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK MASTER_ADDR MASTER_PORT FLOWSTILL_PROGRESS_PORT".split()
with open(os.path.join(sys.argv[1], os.environ["RANK"]), "w") as file:
    json.dump({name: os.environ.get(name) for name in names}, file)
"""
END = "import os, sys; sys.exit(int(sys.argv[1 + int(os.environ['RANK'])]))"
# Rank 1 never hears: as one that hangs in a collective.
HANG = """
import os, signal, sys, time
if os.environ["RANK"] == "0":
    sys.exit(1)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""
SAVE = """
import os, pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3)
    pathlib.Path(sys.argv[1], "saved" + os.environ["RANK"]).touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[1], "ready" + os.environ["RANK"]).touch()
time.sleep(600)
"""


def node(program, *arguments, processes=2, more=()):
    return launch.main(
        [*more, "--processes", str(processes), "--", sys.executable, "-c", program, *map(str, arguments)]
    )


@pytest.fixture(autouse=True)
def _own_signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def told(folder):
    return [json.loads((folder / str(rank)).read_text()) for rank in sorted(int(p.name) for p in folder.iterdir())]


def test_every_process_is_told_its_rank_and_rank_0_alone_serves_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWSTILL_PROGRESS_PORT", "8090")
    assert node(TELL, tmp_path) == 0
    first, second = told(tmp_path)
    assert (first["RANK"], first["LOCAL_RANK"], first["FLOWSTILL_PROGRESS_PORT"]) == ("0", "0", "8090")
    assert (second["RANK"], second["LOCAL_RANK"], second["FLOWSTILL_PROGRESS_PORT"]) == ("1", "1", "0")
    assert {one["WORLD_SIZE"] for one in (first, second)} == {"2"}
    assert first["MASTER_ADDR"] == "127.0.0.1"
    assert int(first["MASTER_PORT"]) > 0
    assert first["MASTER_PORT"] == second["MASTER_PORT"]


SEVERAL = ["--nodes", "3", "--node-rank", "1", "--job", "j", "--service", "s", "--port", "29500"]


def test_on_several_nodes_ranks_go_on_counting_and_rank_0_is_on_the_first(tmp_path, monkeypatch):
    looked_up, tries = [], iter([False, True, True, True, True, True])
    monkeypatch.setattr(launch, "_resolves", lambda name: looked_up.append(name) or next(tries))
    monkeypatch.setattr(launch, "LOOK_UP_SECONDS", 0.0)
    assert node(TELL, tmp_path, more=SEVERAL) == 0
    assert looked_up == ["j-0.s", "j-1.s", "j-2.s"] * 2
    found = told(tmp_path)
    assert [one["RANK"] for one in found] == ["2", "3"]
    assert [one["LOCAL_RANK"] for one in found] == ["0", "1"]
    assert {(one["WORLD_SIZE"], one["LOCAL_WORLD_SIZE"], one["GROUP_RANK"]) for one in found} == {("6", "2", "1")}
    assert {(one["MASTER_ADDR"], one["MASTER_PORT"]) for one in found} == {("j-0.s", "29500")}


@pytest.mark.parametrize(
    ("codes", "node_code"),
    [((0, 0), 0), ((65, 65), 65), ((1, 65), 65), ((65, 0), 65), ((0, 1), 1), ((143, 143), 143)],
)
def test_the_node_ends_as_its_processes_do(codes, node_code):
    assert node(END, *codes) == node_code


def test_a_process_that_hangs_is_ended_when_another_failed(monkeypatch):
    monkeypatch.setattr(launch, "FAILED_GRACE_SECONDS", 0.5)
    assert node(HANG) == 1


def test_sigterm_reaches_every_process_which_saves_in_its_own_time(tmp_path):
    command = [sys.executable, "-m", "flowstill_trainer.launch", "--processes", "2", "--", sys.executable, "-c", SAVE]
    started = subprocess.Popen([*command, str(tmp_path)], env=os.environ)
    while len(list(tmp_path.glob("ready*"))) < 2:
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    assert started.wait(60) == 143
    assert {path.name for path in Path(tmp_path).glob("saved*")} == {"saved0", "saved1"}


def test_sigterm_ends_the_wait_for_a_node_that_has_no_place(monkeypatch):
    monkeypatch.setattr(launch, "_resolves", lambda name: os.kill(os.getpid(), signal.SIGTERM) or False)
    monkeypatch.setattr(launch, "LOOK_UP_SECONDS", 0.0)
    assert node(END, 0, 0, more=SEVERAL) == 143


@pytest.mark.parametrize("more", [["--nodes", "2"], ["--processes", "0"], ["--node-rank", "1"]])
def test_a_command_line_that_makes_no_sense(more):
    with pytest.raises(SystemExit) as caught:
        launch.main([*more, "--", "true"])
    assert caught.value.code == 2
