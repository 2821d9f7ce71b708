"""A queue with one entry per key: however many events arrive, one worker looks at it once.

A key that failed waits longer each time, and an event does not shorten that wait, or a hot event source would
turn back-off into a busy loop.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Hashable

FIRST_BACK_OFF_SECONDS = 1.0
MAX_BACK_OFF_SECONDS = 300.0


class KeyQueue[K: Hashable]:
    """Keys with the moment from which they are due; ``clock`` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or asyncio.get_running_loop().time
        self._due: dict[K, float] = {}
        self._order: dict[K, int] = {}
        self._counter = itertools.count()
        self._working: set[K] = set()
        self._failures: dict[K, int] = {}
        self._not_before: dict[K, float] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Keys that wait or are worked on."""
        return len(self._due.keys() | self._working)

    def add(self, key: K, after: float = 0.0) -> None:
        """Look at the key in ``after`` seconds, or earlier when it was due earlier."""
        due = max(self._clock() + after, self._not_before.get(key, 0.0))
        if key not in self._due or due < self._due[key]:
            self._due[key] = due
            self._order[key] = next(self._counter)
        self._changed.set()

    def failed(self, key: K) -> float:
        """The key's look failed: look again after its back-off, which is returned."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        wait = float(min(MAX_BACK_OFF_SECONDS, FIRST_BACK_OFF_SECONDS * 2 ** min(count, 16)))
        self._not_before[key] = self._clock() + wait
        self._due.pop(key, None)
        self.add(key)
        return wait

    def succeeded(self, key: K) -> None:
        """The key's look went well: its back-off starts anew."""
        self._failures.pop(key, None)
        self._not_before.pop(key, None)

    def forget(self, key: K) -> None:
        """The object is gone."""
        self.succeeded(key)
        self._due.pop(key, None)
        self._order.pop(key, None)

    def done(self, key: K) -> None:
        """The worker is ready with the key."""
        self._working.discard(key)
        self._changed.set()

    async def get(self) -> K:
        """The next key that is due and that no other worker has; call ``done`` with it."""
        while True:
            now = self._clock()
            free = [key for key in self._due if key not in self._working]
            ready = [key for key in free if self._due[key] <= now]
            if ready:
                key = min(ready, key=self._order.__getitem__)
                del self._due[key], self._order[key]
                self._working.add(key)
                return key
            self._changed.clear()
            wait = min((self._due[key] - now for key in free), default=None)
            try:
                await asyncio.wait_for(self._changed.wait(), wait)
            except TimeoutError:
                continue


async def run_workers[K: Hashable](queue: KeyQueue[K], work: Callable[[K], Awaitable[None]], count: int) -> None:
    """Let ``count`` workers look at keys until cancelled; ``work`` handles its own errors."""

    async def worker() -> None:
        while True:
            key = await queue.get()
            try:
                await work(key)
            finally:
                queue.done(key)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(worker())
