import errno
import json
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from flowstill.api.children import RESULT_KINDS, AnyTask, Result
from flowstill.artifacts.transfers import TransferFailed
from flowstill.child.context import ChildContext
from flowstill.child.logs import log_to_stderr
from flowstill.child.run import Work, run_child
from flowstill.errors import FlowstillError, Interrupted, TeacherRejected

TASK: dict[str, Any] = {
    "kind": "Train",
    "resource": "default/a",
    "uid": "u",
    "work": "store://work/u/train",
    "spec": {"teacher": {"uri": "store://t"}, "dataset": {"uri": "store://d"}},
}
DONE = Result(kind="Train", outcome="Succeeded", reason="Published", message="1 step")

TRACE = (
    "Nobody foresaw this error, and the child's log has its trace (flowstill logs): if the cause is yours, mend it and "
    "retry; else report it with the trace"
)

Child = Callable[..., tuple[int, Result]]


class ContractBroken(FlowstillError):
    """An error of Flowstill's own that is nobody's input, and says what it is."""

    reason = "EnvironmentContract"


@pytest.fixture(autouse=True)
def pytests_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pytest's log stays, and nothing of a child's is left to other tests."""
    monkeypatch.setattr("flowstill.child.run.log_to_stderr", lambda who: None)


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    """Runs a Train child with this work; gives its exit code and its result, which is the same in both places."""
    termination = tmp_path / "termination-log"
    monkeypatch.setenv("FLOWSTILL_TERMINATION_LOG", str(termination))
    monkeypatch.delenv("FLOWSTILL_PROGRESS_PORT", raising=False)

    def run(work: Work, task: object = TASK) -> tuple[int, Result]:
        spec = tmp_path / "spec.json"
        spec.write_text(task if isinstance(task, str) else json.dumps(task))
        code = run_child("Train", work, ["--spec", str(spec), "--output", str(tmp_path / "work")])
        text = termination.read_text()
        assert (tmp_path / "work/result.json").read_text() == text + "\n"
        return code, Result.model_validate_json(text)

    return run


def raising(error: BaseException) -> Work:
    def work(_task: Any, _context: ChildContext) -> Result:
        raise error

    return work


def test_success(child: Child, tmp_path: Path) -> None:
    def work(task: Any, context: ChildContext) -> Result:
        assert task.spec.training.steps == 10_000
        assert context.work == tmp_path / "work"
        return DONE

    assert child(work) == (0, DONE)


@pytest.mark.parametrize(
    ("error", "code", "outcome", "reason", "message"),
    [
        (TeacherRejected("is a diffusion policy", field="spec.teacher.uri"), 65, "UserError", "TeacherRejected",
         "spec.teacher.uri: is a diffusion policy"),
        (OSError(errno.ENOSPC, "No space left", "/w/checkpoint"), 65, "UserError", "StorageFull",
         "no space left (/w/checkpoint): free some, or enlarge the volume; what was done before is kept"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), 65, "UserError",
         "StorageFull", "no space left (Error while serializing: I/O error: No space left on device (os error 28)): "
         "free some, or enlarge the volume; what was done before is kept"),
        (OSError(errno.EIO, "I/O error"), 1, "Error", "UnexpectedError", f"[Errno 5] I/O error (OSError). {TRACE}"),
        (RuntimeError("No GPU."), 1, "Error", "UnexpectedError", f"No GPU (RuntimeError). {TRACE}"),
        (ValueError(), 1, "Error", "UnexpectedError", f"ValueError. {TRACE}"),
        (ContractBroken("reset() gave 3"), 1, "Error", "EnvironmentContract", "reset() gave 3"),
        (Interrupted("saved at step 3"), 143, "Interrupted", "Interrupted", "saved at step 3"),
        (TransferFailed("s3://b/x: no route"), 1, "Error", "TransferFailed", "s3://b/x: no route"),
        (KeyboardInterrupt(), 143, "Interrupted", "Interrupted", "stopped from the keyboard"),
    ],
)  # fmt: skip
def test_every_failure_has_its_outcome(
    child: Child, error: BaseException, code: int, outcome: str, reason: str, message: str
) -> None:
    got, result = child(raising(error))
    assert (got, result.outcome, result.reason, result.message) == (code, outcome, reason, message)


@pytest.mark.parametrize("error", [KeyError("gripper"), ContractBroken("reset() gave 3")])
def test_the_trace_is_in_the_log(child: Child, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    child(raising(error))
    [said] = [record for record in caplog.records if record.exc_info]
    assert said.exc_info is not None
    assert said.exc_info[1] is error


def test_a_result_that_says_user_error_exits_so(child: Child) -> None:
    refused = Result(kind="Train", outcome="UserError", reason="ParityFailed", message="no")
    assert child(lambda _task, _context: refused) == (65, refused)


def test_endless_messages_are_cut(child: Child) -> None:
    _, result = child(raising(TeacherRejected("x" * 100_000)))
    assert len(result.message) == 1024
    assert result.message.endswith("...")
    _, result = child(raising(RuntimeError("x" * 100_000)))
    assert result.message == f"{'x' * 297}... (RuntimeError). {TRACE}"


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ({**TASK, "spec": {**TASK["spec"], "training": {"steps": 0}}}, "spec.training.steps: "),
        ({**TASK, "spec": {**TASK["spec"], "student": {"draws": 4}}}, "spec.student.draws must be 1 or 8"),
        ({**TASK, "colour": "red"}, "colour: "),
        ("{", "Invalid JSON"),
        (
            {
                "kind": "Parity", "resource": "a", "uid": "u", "work": "store://w",
                "student": {"uri": "store://s", "digest": "sha256:" + "a" * 64},
                "evaluation": {"suite": "metaworld", "tasks": ["t"]},
            },
            "kind: this command runs Train tasks, not Parity",
        ),
    ],
)  # fmt: skip
def test_a_bad_task_is_the_users_error_and_names_the_field(child: Child, task: object, says: str) -> None:
    code, result = child(raising(AssertionError("never worked on")), task)
    assert (code, result.outcome) == (65, "UserError")
    assert says in result.message


def test_every_kind_of_task_ends_with_a_kind_of_result() -> None:
    assert set(RESULT_KINDS) == {task.model_fields["kind"].default for task in get_args(AnyTask)}
    assert set(RESULT_KINDS.values()) == set(get_args(Result.model_fields["kind"].annotation))


@pytest.mark.parametrize("kind", ["Parity", "DatasetParity"])
def test_a_parity_child_takes_both_tasks(tmp_path: Path, kind: str) -> None:
    student = {"student": {"uri": "store://s", "digest": "sha256:" + "a" * 64}}
    frames, resets = {"dataset": {"uri": "store://d"}}, {"evaluation": {"suite": "metaworld", "tasks": ["t"]}}
    task = {**TASK, "kind": kind, **student, **(frames if kind == "DatasetParity" else resets)}
    del task["spec"]
    (tmp_path / "spec.json").write_text(json.dumps(task))
    seen = []

    def work(given: Any, _context: ChildContext) -> Result:
        seen.append(given.kind)
        return Result(kind="Parity", outcome="Succeeded", reason="ParityHolds")

    arguments = ["--spec", str(tmp_path / "spec.json"), "--output", str(tmp_path / "work")]
    assert run_child("Parity", work, arguments) == 0
    assert seen == [kind]
    assert run_child("Parity", work, arguments) == 0
    assert seen == [kind], "finished work is not done again"


def test_a_missing_spec_is_named(tmp_path: Path) -> None:
    arguments = ["--spec", str(tmp_path / "gone.json"), "--output", str(tmp_path)]
    assert run_child("Train", raising(AssertionError()), arguments) == 65
    assert "gone.json cannot be read" in (tmp_path / "result.json").read_text()


def test_finished_work_is_not_done_again(child: Child) -> None:
    assert child(lambda _task, _context: DONE) == (0, DONE)
    assert child(raising(AssertionError("done again"))) == (0, DONE)


def test_another_task_in_the_same_folder_is_worked_on(child: Child) -> None:
    child(lambda _task, _context: DONE)
    again = DONE.model_copy(update={"message": "other"})
    changed = {**TASK, "spec": {**TASK["spec"], "training": {"seed": 1}}}
    assert child(lambda _task, _context: again, changed) == (0, again)


def test_failed_work_is_tried_again(child: Child) -> None:
    assert child(raising(RuntimeError()))[0] == 1
    assert child(lambda _task, _context: DONE) == (0, DONE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_the_work_to_stop(child: Child, number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def work(_task: Any, context: ChildContext) -> Result:
        context.raise_if_stopped()
        os.kill(os.getpid(), number)
        assert context.stop.wait(10)
        context.raise_if_stopped()
        return DONE

    code, result = child(work)
    assert (code, result.outcome) == (143, "Interrupted")
    assert signal.getsignal(number) is before


def test_a_second_keyboard_interrupt_does_not_ask(child: Child) -> None:
    def work(_task: Any, _context: ChildContext) -> Result:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    code, result = child(work)
    assert (code, result.message) == (143, "stopped from the keyboard")


def test_works_outside_the_main_thread(child: Child) -> None:
    results: list[tuple[int, Result]] = []
    thread = threading.Thread(target=lambda: results.append(child(lambda _task, _context: DONE)))
    thread.start()
    thread.join()
    assert results == [(0, DONE)]


def test_a_bad_port_is_the_users_error(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWSTILL_PROGRESS_PORT", "http")
    code, result = child(raising(AssertionError()))
    assert code == 65
    assert result.message.startswith("FLOWSTILL_PROGRESS_PORT: ")


def test_no_credential_in_last_words_or_in_the_log(
    child: Child, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a library puts into its errors."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler()])  # as some library's import leaves it
    monkeypatch.setattr("flowstill.child.run.log_to_stderr", log_to_stderr)
    signed = "signed with wJalrXUtnFEMI"
    cut = f"{'x' * (300 - len(signed))}{signed}"  # without the credential's end it would fit
    for error in (TeacherRejected(signed), RuntimeError(signed), RuntimeError(f"{cut} and more")):
        _, result = child(raising(error))
        assert "signed with [r" in result.message
        assert "wJal" not in result.message
    log = capsys.readouterr().err
    assert "RuntimeError: signed with [redacted]" in log
    assert "wJalrXUtnFEMI" not in log
