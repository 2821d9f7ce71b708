"""A child that fetches or publishes says how far it is, and hears SIGTERM meanwhile."""

import math
import threading
import time
from collections.abc import Callable

from flowstill.artifacts.transfers import Report
from flowstill.child.progress import LINE_EVERY_SECONDS, ProgressTracker
from flowstill.errors import Interrupted


def teller(progress: ProgressTracker, stop: threading.Event, clock: Callable[[], float] = time.monotonic) -> Report:
    """What transfers tell: shown at their beginning, at their end, and every few seconds between."""
    shown, when = "", -math.inf

    def tell(activity: str, done: int, total: int) -> None:
        nonlocal shown, when
        if stop.is_set():
            raise Interrupted("stopped by a signal; what was moved is kept, and the next attempt continues")
        now = clock()
        if activity == shown and done < total and now - when < LINE_EVERY_SECONDS:
            return
        shown, when = activity, now
        size = f", {done / 2**20:.0f} of {total / 2**20:.0f} MiB" if total else ""
        progress.update(0, 0, f"{activity}{size}")

    return tell
