"""How far a child is: on the terminal, in the log, and over HTTP. Soft: nothing depends on it."""

import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from flowstill.api.children import ProgressReport
from flowstill.child.server import ProgressServer

logger = logging.getLogger(__name__)
LINE_EVERY_SECONDS = 10.0


class ProgressTracker:
    """Keeps the newest report, and shows it: a bar on a terminal, else a plain line every ten seconds.

    Args:
        stream: where to show it.
        clock: seconds, monotonic.
        address: interface and port of ``GET /progress`` and ``GET /metrics``; None: no server.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        address: tuple[str, int] | None = None,
    ) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._lock = threading.Lock()
        self._report = ProgressReport(activity="starting", step=0, total_steps=0)
        self._since = (clock(), 0)
        self._last_line = -math.inf
        self._display = _Bar(self._stream) if self._stream.isatty() else None
        self._server = _serve(address, self)

    def update(
        self,
        step: int,
        total: int,
        activity: str,
        loss: float | None = None,
        samples_per_second: float | None = None,
    ) -> None:
        """Say how far the work is; cheap enough to call every step.

        Args:
            step: steps done of this activity.
            total: steps of this activity; 0: unknown.
            activity: what is being done, in a few words.
            loss: the newest; not shown when it is not finite.
            samples_per_second: throughput.
        """
        now = self._clock()
        with self._lock:
            changed = activity != self._report.activity or step < self._report.step
            if changed:
                self._since = (now, step)
            self._report = ProgressReport(
                activity=activity[:256],
                step=step,
                total_steps=total,
                estimated_remaining_seconds=self._remaining(now, step, total),
                loss=_finite(loss),
                samples_per_second=_finite(samples_per_second),
            )
            report = self._report
        if self._display is not None:
            self._display.show(report)
        elif changed or step == total or now - self._last_line >= LINE_EVERY_SECONDS:
            self._last_line = now
            print(_line(report), file=self._stream, flush=True)

    @property
    def report(self) -> ProgressReport:
        """The newest report."""
        with self._lock:
            return self._report

    @property
    def port(self) -> int | None:
        """The port of the server; None when there is none."""
        return self._server.port if self._server else None

    def close(self) -> None:
        """End the bar and the server."""
        if self._display is not None:
            self._display.close()
        if self._server is not None:
            self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _remaining(self, now: float, step: int, total: int) -> int | None:
        """Seconds left at the activity's average rate so far; None before there is a rate."""
        started, first = self._since
        if step <= first or total < step:
            return None
        return round((total - step) * (now - started) / (step - first))


class _Bar:
    """A bar of rich's for each activity."""

    def __init__(self, stream: TextIO) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}"), console=Console(file=stream),
        )  # fmt: skip
        self._task: tuple[str, TaskID] | None = None
        self._bars.start()

    def show(self, report: ProgressReport) -> None:
        if self._task is None or self._task[0] != report.activity:
            self._task = (report.activity, self._bars.add_task(report.activity, total=None, facts=""))
        changes: dict[str, Any] = {"completed": report.step, "total": report.total_steps or None}
        self._bars.update(self._task[1], facts=_facts(report), **changes)

    def close(self) -> None:
        self._bars.stop()


def _serve(address: tuple[str, int] | None, tracker: ProgressTracker) -> ProgressServer | None:
    if address is None:
        return None
    try:
        return ProgressServer(address, lambda: tracker.report)
    except OSError as error:
        logger.warning("no progress on port %s: %s; the work goes on without", address[1], error)
        return None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _facts(report: ProgressReport) -> str:
    loss = "" if report.loss is None else f"loss {report.loss:.4g}"
    rate = "" if report.samples_per_second is None else f"{report.samples_per_second:.3g} samples/s"
    return ", ".join(fact for fact in (loss, rate) if fact)


def _line(report: ProgressReport) -> str:
    if not (report.step or report.total_steps):
        return report.activity
    of = f" of {report.total_steps}" if report.total_steps else ""
    remaining = report.estimated_remaining_seconds
    left = "" if remaining is None else f"{remaining} s left"
    return ", ".join(fact for fact in (f"{report.activity}: {report.step}{of}", left, _facts(report)) if fact)
