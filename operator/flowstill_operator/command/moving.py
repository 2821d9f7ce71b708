"""A bar on the terminal while something is fetched or published, and an end that says that it can be continued."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from flowstill.artifacts.transfers import TransferFailed, reporting
from flowstill.errors import UserError


@contextmanager
def transfers_shown(console: Console) -> Iterator[None]:
    """Show every transfer of the block on ``console``, if it is a terminal; nothing is drawn before the first.

    Raises:
        UserError: a store could not be reached.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bars = Progress(*columns, console=console, transient=True)
    tasks: dict[str, TaskID] = {}

    def show(activity: str, done: int, total: int) -> None:
        if not console.is_terminal:
            return
        bars.start()
        if activity not in tasks:
            tasks[activity] = bars.add_task(activity, total=None)
        bars.update(tasks[activity], completed=done, total=total or None)
        if done == total:
            bars.stop()

    try:
        with reporting(show):
            yield
    except TransferFailed as error:
        raise UserError(f"{error}; the same command continues", reason=error.reason) from error
    finally:
        if tasks:
            bars.stop()
