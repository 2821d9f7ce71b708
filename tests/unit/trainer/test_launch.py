"""The launcher: what it tells the processes, and that it ends as they do."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from flowstill_trainer import launch

RANKS = [{"RANK": "0"}, {"RANK": "1"}]


def python(text):
    return [sys.executable, "-c", f"import os, signal, sys, time; rank = int(os.environ['RANK']); {text}"]


def started(monkeypatch, *arguments):
    seen = {}
    monkeypatch.setattr(launch, "run", lambda command, ranks: seen.update(command=command, ranks=ranks) or 7)
    assert launch.main([*arguments, "--", "--spec", "s", "--output", "o"]) == 7
    return seen["command"], seen["ranks"]


def test_one_node(monkeypatch):
    command, ranks = started(monkeypatch, "--nproc-per-node", "3")
    assert command[1:] == ["-m", "flowstill_trainer.cli", "--spec", "s", "--output", "o"]
    assert [(v["RANK"], v["LOCAL_RANK"], v["WORLD_SIZE"]) for v in ranks] == [(str(i), str(i), "3") for i in range(3)]
    assert {v["MASTER_ADDR"] for v in ranks} == {"127.0.0.1"}
    assert len({v["MASTER_PORT"] for v in ranks} - {"0"}) == 1


def test_the_second_of_three_nodes(monkeypatch):
    _, ranks = started(
        monkeypatch, "--nproc-per-node", "2", "--nnodes", "3", "--node-rank", "1",
        "--master-addr", "a", "--master-port", "29500",
    )  # fmt: skip
    assert [(v["RANK"], v["LOCAL_RANK"], v["WORLD_SIZE"]) for v in ranks] == [("2", "0", "6"), ("3", "1", "6")]
    assert {(v["MASTER_ADDR"], v["MASTER_PORT"]) for v in ranks} == {("a", "29500")}


@pytest.mark.parametrize(
    "arguments",
    [["--nproc-per-node", "0"], ["--nnodes", "2"], ["--nnodes", "2", "--node-rank", "2"], ["--nnodes", "-1"]],
)
def test_what_cannot_be_is_refused(arguments):
    with pytest.raises(SystemExit) as caught:
        launch.main([*arguments, "--master-port", "0" if arguments == ["--nnodes", "2"] else "1", "--", "--spec", "s"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit(65)", 65),
        ("sys.exit(65 if rank == 1 else 0)", 65),
        ("os.kill(os.getpid(), signal.SIGKILL) if rank == 0 else sys.exit(0)", 137),
    ],
)
def test_it_ends_as_they_do(text, code):
    assert launch.run(python(text), RANKS) == code


def test_one_that_hangs_after_another_has_failed_is_killed():
    assert launch.run(python("sys.exit(65) if rank == 0 else time.sleep(3600)"), RANKS, patience=0.5) == 65


def test_sigterm_reaches_all_and_none_is_killed(tmp_path):
    """They take their time to save."""
    text = (
        f"folder = {str(tmp_path)!r}; "
        "hear = lambda *_: (time.sleep(1), open(f'{folder}/saved{rank}', 'w'), sys.exit(143)); "
        "signal.signal(signal.SIGTERM, hear); open(f'{folder}/up{rank}', 'w'); time.sleep(3600)"
    )

    def stop():
        while len(list(tmp_path.glob("up*"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    assert launch.run(python(text), RANKS) == 143
    assert sorted(path.name for path in Path(tmp_path).glob("saved*")) == ["saved0", "saved1"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
