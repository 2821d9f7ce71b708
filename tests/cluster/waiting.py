"""Waiting for what other processes do."""

import time
from collections.abc import Callable

import pytest

POLL_SECONDS = 0.1


def until[T](found: Callable[[], T], what: str, explain: Callable[[], object] | None = None, limit: float = 60.0) -> T:
    """The first true value of ``found``; the test fails with ``explain()`` after ``limit`` seconds without one."""
    end = time.monotonic() + limit
    while not (value := found()):
        if time.monotonic() > end:
            pytest.fail(f"not within {limit:.0f} s: {what}\n{explain() if explain else ''}")
        time.sleep(POLL_SECONDS)
    return value
