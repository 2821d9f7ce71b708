"""From a child's command line to its exit code.

Exit codes: 0 succeeded; 65 the user's error, which a Job's podFailurePolicy does not try again; 143
interrupted; 1 anything else, which is worth another attempt.
"""

import argparse
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from pydantic import ValidationError

from flowstill.api.children import RESULT_KINDS, TASK, AnyTask, Result, ResultKind
from flowstill.artifacts.atomic import is_full, write_atomic
from flowstill.artifacts.digests import canonical_json
from flowstill.artifacts.secrets import redact
from flowstill.artifacts.transfers import TransferFailed, reporting
from flowstill.child.context import ChildContext
from flowstill.child.logs import log_to_stderr
from flowstill.child.moving import teller
from flowstill.child.progress import ProgressTracker
from flowstill.child.ranks import ALONE, Ranks
from flowstill.child.result import RESULT_FILE, clip, write_message, write_result
from flowstill.errors import USER_ERROR_EXIT_CODE, FlowstillError, Interrupted, StorageFull, UserError

logger = logging.getLogger(__name__)
TASK_FILE = "task.json"
INTERRUPTED_EXIT_CODE = 143
UNFORESEEN_TEXT = (
    "Nobody foresaw this error, and the child's log has its trace (flowstill logs): if the cause is yours, mend it and "
    "retry; else report it with the trace"
)
MAX_WORDS = 300
"""Characters of a library's words in a message of ours."""
Kind = ResultKind
Task = AnyTask
Work = Callable[[Any, ChildContext], Result]

_EXIT_CODES = {
    "Succeeded": 0,
    "UserError": USER_ERROR_EXIT_CODE,
    "Interrupted": INTERRUPTED_EXIT_CODE,
    "Error": 1,
}


def run_child(kind: Kind, work: Work, argv: Sequence[str], ranks: Ranks = ALONE) -> int:
    """Run one task in this process and say how it ended.

    Args:
        kind: of the result; a task in the spec that ends with another is the user's error.
        work: does it. Started again with the same work folder it continues; a work folder whose result
            already says Succeeded for the same task is not worked on again.
        argv: ``--spec FILE --output DIR``.
        ranks: the processes that do it together.

    Returns:
        The exit code; the result is in ``DIR/result.json`` and in the termination message.
    """
    log_to_stderr("" if ranks.size == 1 else f"process {ranks.rank}: ")
    parser = argparse.ArgumentParser(description=f"Run one {kind} task.")
    parser.add_argument("--spec", type=Path, required=True, help="JSON file that says what to do")
    parser.add_argument("--output", type=Path, required=True, help="work folder, which survives attempts")
    arguments = parser.parse_args(argv)

    def end(result: Result) -> int:
        if ranks.rank == 0:
            write_result(result, arguments.output)
        elif ranks.local_rank == 0:
            write_message(result)  # its container has a termination message of its own
        log = logger.info if result.outcome == "Succeeded" else logger.error
        log("%s: %s: %s", result.outcome, result.reason, result.message)
        return _EXIT_CODES[result.outcome]

    def attempt() -> Result:
        ranks.begin(end)
        task = _read_task(kind, arguments.spec)
        return _lead(kind, work, task, arguments.output) if ranks.rank == 0 else _follow(work, task, arguments.output)

    with ranks.settled(_guarded(kind, attempt)) as result:
        return end(result)


def _follow(work: Work, task: Task, output: Path) -> Result:
    """The work of a process that leaves files, progress and last words to rank 0."""
    stop = threading.Event()
    with (
        _signals(stop),
        Path(os.devnull).open("w") as nowhere,
        ProgressTracker(nowhere) as progress,
        reporting(teller(progress, stop)),
    ):
        return work(task, ChildContext(work=output, stop=stop, progress=progress))


def _lead(kind: Kind, work: Work, task: Task, output: Path) -> Result:
    output.mkdir(parents=True, exist_ok=True)
    content = canonical_json(task.model_dump(mode="json", by_alias=True))
    before = _earlier_success(kind, content, output)
    if before is not None:
        logger.info("this work folder's result is already published; nothing is done again")
        return before
    stop = threading.Event()
    write_atomic(output / TASK_FILE, content)
    (output / RESULT_FILE).unlink(missing_ok=True)
    with _signals(stop), ProgressTracker(address=_address()) as progress, reporting(teller(progress, stop)):
        return work(task, ChildContext(work=output, stop=stop, progress=progress))


def _guarded(kind: Kind, attempt: Callable[[], Result]) -> Result:
    """Turn whatever is raised into a result."""
    try:
        return attempt()
    except UserError as error:
        return _failure(kind, "UserError", error.reason, str(error))
    except Interrupted as error:
        return _failure(kind, "Interrupted", error.reason, str(error))
    except TransferFailed as error:
        return _failure(kind, "Error", error.reason, str(error))
    except KeyboardInterrupt:
        return _failure(kind, "Interrupted", Interrupted.reason, "stopped from the keyboard")
    except Exception as error:
        if is_full(error):
            logger.exception("no space left")
            message = f"no space left{_where(error)}: free some, or enlarge the volume; what was done before is kept"
            return _failure(kind, "UserError", StorageFull.reason, message)
        if isinstance(error, FlowstillError):
            logger.exception("it ends with an error of Flowstill's own")
            return _failure(kind, "Error", error.reason, str(error))
        logger.exception("it ends with an error that nobody foresaw")
        return _failure(kind, "Error", reason="UnexpectedError", message=_unforeseen(error))


def _where(error: Exception) -> str:
    """The file that did not fit, or what the library said about it."""
    if isinstance(error, OSError) and error.filename:
        return f" ({error.filename})"
    return f" ({_words(error)})"


def _unforeseen(error: Exception) -> str:
    """What happened, where the rest of it is, and what to do."""
    name, words = type(error).__name__, _words(error)
    return f"{f'{words} ({name})' if words else name}. {UNFORESEEN_TEXT}"


def _words(error: Exception) -> str:
    """Of what a library says so much that what to do is still said after it."""
    return clip(redact(str(error)).strip().removesuffix("."), MAX_WORDS)  # else a cut may leave half of a credential


def _failure(kind: Kind, outcome: Literal["UserError", "Error", "Interrupted"], reason: str, message: str) -> Result:
    return Result(kind=kind, outcome=outcome, reason=clip(reason, 64), message=clip(redact(message), 1024))


def _read_task(kind: Kind, spec: Path) -> Task:
    try:
        task = TASK.validate_json(spec.read_bytes())
    except OSError as error:
        raise UserError(f"{spec} cannot be read: {error.strerror}", field="--spec") from error
    except ValidationError as error:
        problems = [_problem(item["loc"], item["msg"]) for item in error.errors()[:5]]
        raise UserError("; ".join(problems)) from error
    if RESULT_KINDS[task.kind] != kind:
        raise UserError(f"this command runs {kind} tasks, not {task.kind}", field="kind")
    return task


def _problem(location: tuple[int | str, ...], message: str) -> str:
    """``spec.training.steps: …``; pydantic puts the union's tag first."""
    parts = [str(part) for part in (location[1:] if location and location[0] in RESULT_KINDS else location)]
    return f"{'.'.join(parts)}: {message}" if parts else message


def _earlier_success(kind: Kind, content: bytes, output: Path) -> Result | None:
    """The result of an earlier attempt of the very same task, when it succeeded."""
    try:
        if (output / TASK_FILE).read_bytes() != content:
            return None
        result = Result.model_validate(json.loads((output / RESULT_FILE).read_bytes()))
    except (FileNotFoundError, ValueError):
        return None
    return result if result.kind == kind and result.outcome == "Succeeded" else None


def _address() -> tuple[str, int] | None:
    text = os.environ.get("FLOWSTILL_PROGRESS_PORT") or "0"
    if not text.isdecimal() or int(text) > 65535:
        raise UserError(f"{text!r} is no port; use 1 to 65535, or 0 for none", field="FLOWSTILL_PROGRESS_PORT")
    return (os.environ.get("FLOWSTILL_PROGRESS_HOST", ""), int(text)) if int(text) else None


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and Ctrl-C ask the work to stop; a second Ctrl-C does not ask. Only the main thread hears."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hear(number: int, _frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
