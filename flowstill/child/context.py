"""What a child's work is given besides its task."""

import threading
from dataclasses import dataclass
from pathlib import Path

from flowstill.child.progress import ProgressTracker
from flowstill.errors import Interrupted


@dataclass(frozen=True)
class ChildContext:
    """The surroundings of one attempt.

    Attributes:
        work: the child's own folder, which survives attempts.
        stop: set by SIGTERM: save, then raise :class:`Interrupted`.
        progress: tell it how far the work is.
    """

    work: Path
    stop: threading.Event
    progress: ProgressTracker

    def raise_if_stopped(self) -> None:
        """Raise :class:`Interrupted` when the child was told to stop."""
        if self.stop.is_set():
            raise Interrupted("stopped by a signal; the next attempt continues from what is saved")
