"""LeRobot's video encoder, and the priority of who calls it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def same_priority() -> Iterator[None]:
    """End with the scheduling that the caller began with.

    SVT-AV1 tries whether it may have real-time threads by making the thread that calls it one (SCHED_FIFO, priority
    99, where root may), and leaves it so. Whatever that thread starts afterwards inherits it, and a busy process of
    that kind stops every other one on its core.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)
