"""Waiting for the pods of all nodes: nothing begins before, and then the process is the command."""

import signal
import subprocess
import sys

import pytest

from flowstill_trainer import meet

PRELUDE = """
import os, socket, sys
from flowstill_trainer import meet
meet.LOOK_SECONDS = 0.05
def look_up(name, port):
    print("looks", name, flush=True)
    if not os.path.exists(os.path.join({folder!r}, name)):
        raise socket.gaierror(-2, "Name or service not known")
    return [(name, port)]
socket.getaddrinfo = look_up
meet.main(sys.argv[1:])
"""
NODES = ["--nodes", "2", "--job", "j", "--service", "s", "--"]


def started(folder, *command):
    program = [sys.executable, "-c", PRELUDE.format(folder=str(folder)), *NODES, *command]
    return subprocess.Popen(program, stdout=subprocess.PIPE, text=True)


def seen(process, words):
    """Read what it says until it says that."""
    said = []
    for line in process.stdout:
        said.append(line.strip())
        if words in line:
            return said
    raise AssertionError(said)


def test_it_begins_when_every_node_has_an_address_and_is_the_command_then(tmp_path):
    process = started(tmp_path, sys.executable, "-c", "import os, sys; print('begun', os.getpid()); sys.exit(65)")
    (tmp_path / "j-1.s").touch()
    seen(process, "looks j-0.s")
    assert "begun" not in " ".join(seen(process, "looks j-0.s"))
    (tmp_path / "j-0.s").touch()
    # The same process, so that SIGTERM and the exit code are the command's own.
    assert seen(process, "begun")[-1] == f"begun {process.pid}"
    assert process.wait(30) == 65


def test_sigterm_ends_the_wait(tmp_path):
    process = started(tmp_path, "true")
    seen(process, "looks j-0.s")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143


def test_a_name_that_nobody_has_does_not_resolve():
    assert meet._resolves("localhost")
    assert not meet._resolves("no-such-pod.invalid")


def test_a_command_line_without_a_command():
    with pytest.raises(SystemExit) as caught:
        meet.main(["--nodes", "2", "--job", "j", "--service", "s"])
    assert caught.value.code == 2
