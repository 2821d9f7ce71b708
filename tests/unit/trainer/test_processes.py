"""How processes hear of each other's end; that they train alike is tested in tests/local."""

import os
import signal
import time
import traceback

import pytest

from flowstill.api.children import Result
from flowstill_trainer import processes
from flowstill_trainer.processes import EndedElsewhere, Processes
from tests.support.train_together import SIZE, meeting_point, rank_variables

CODES = {"UserError": 65, "Error": 1, "Succeeded": 0}


class One(Processes):
    """A process whose last words go into a file."""

    folder = None

    def end(self, result):
        (self.folder / f"said-{self.rank}").write_text(f"{result.outcome} {result.reason}")
        return CODES[result.outcome]

    def finish(self, outcome, reason):
        with self.settled(Result(kind="Train", outcome=outcome, reason=reason)) as result:
            code = self.end(result)
        os._exit(code)


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """Run this in forks, which need not import PyTorch again; their exit codes, and what each of them said."""
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)

    def fork(do, variables):
        pid = os.fork()
        if pid:
            return pid
        try:
            one = One.from_environment(variables)
            one.folder = tmp_path
            os.environ.update(variables)
            one.begin(one.end)
            one.meet("begun")
            (tmp_path / f"begun-{one.rank}").touch()
            do(one)
        except BaseException:
            traceback.print_exc()
        os._exit(99)

    def run(do):
        common = meeting_point()
        children = [fork(do, common | rank_variables(rank)) for rank in range(SIZE)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        return codes, [path.read_text() for path in sorted(tmp_path.glob("said-*"))]

    return run


def test_the_first_to_end_speaks_for_all(ended):
    def do(one):
        if one.rank == 0:
            one.outcome()
            one.finish("Error", "Another")
        one.finish("UserError", "Mine")

    assert ended(do) == ([65, 65], ["UserError Mine"] * 2)


@pytest.mark.parametrize("hanging", [0, 1])
def test_one_that_hangs_ends_as_the_other(ended, hanging):
    def do(one):
        if one.rank == hanging:
            time.sleep(3600)
        one.finish("UserError", "Mine")

    assert ended(do) == ([65, 65], ["UserError Mine"] * 2)


def test_one_that_hangs_ends_when_rank_0_is_gone(ended, tmp_path):
    def do(one):
        if one.rank == 1:
            time.sleep(3600)
        while not (tmp_path / "begun-1").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    assert ended(do) == ([-signal.SIGKILL, 1], ["Error ProcessLost"])


def test_rank_0_makes_what_is_shared_and_others_hear_of_its_end(ended):
    def do(one):
        assert [one.share("a", lambda i=i: f"{one.rank} {i}") for i in range(2)] == ["0 0", "0 1"]
        if one.rank == 0:
            one.finish("Succeeded", "Done")
        with pytest.raises(EndedElsewhere):
            one.share("a", str)
        one.finish("Error", "Late")

    assert ended(do) == ([0, 0], ["Succeeded Done"] * 2)


@pytest.mark.parametrize("variables", [{}, {"RANK": "3"}, {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}])
def test_without_others_it_is_alone(variables):
    one = Processes.from_environment(variables)
    assert (one.rank, one.size, one.first) == (0, 1, True)
    assert one.share("a", lambda: "mine") == "mine"
    assert (one.any(True), one.any(False), one.total(0.1), one.ended()) == (True, False, 0.1, False)


def test_torchruns_variables():
    one = Processes.from_environment({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"})
    assert (one.rank, one.local_rank, one.size, one.first) == (3, 1, 4, False)
