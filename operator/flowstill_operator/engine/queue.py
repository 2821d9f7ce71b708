"""A queue with one entry per key: however many events arrive, one worker looks at it once.

A key that failed waits longer each time, and an event does not shorten that wait, or a hot event source would
turn back-off into a busy loop.

News is looked at before what is only looked at again: looks of thousands of keys that were seen in one rush fall due in
one rush, for ever. No key starves, since each has a moment until which it can wait (earliest deadline first).
"""

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable, Hashable
from typing import NamedTuple

FIRST_BACK_OFF_SECONDS = 1.0
MAX_BACK_OFF_SECONDS = 300.0
PATIENCE, MAX_PATIENCE_SECONDS = 1 / 3, 10.0
"""Of the time that a key was to wait, what it can wait longer while others have news."""


class Entry(NamedTuple):
    """From when a key is due, until when it can wait, and its place among those that can as long."""

    due: float
    latest: float
    order: int


class KeyQueue[K: Hashable]:
    """Keys with the moment from which they are due; ``clock`` is monotonic seconds.

    What is due is handed out in the order of the moments until which it can wait, which for news is that in which it
    was added. No step goes through all keys: an entry that was replaced stays in its heap and is passed over.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or asyncio.get_running_loop().time
        self._entries: dict[K, Entry] = {}
        self._later: list[tuple[Entry, K]] = []
        self._ready: list[tuple[float, int, K]] = []
        self._counter = itertools.count()
        self._working: set[K] = set()
        self._failures: dict[K, int] = {}
        self._not_before: dict[K, float] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Keys that wait or are worked on."""
        return len(self._entries.keys() | self._working)

    def add(self, key: K, after: float = 0.0, *, patience: float | None = None) -> None:
        """Look at the key in ``after`` seconds, or earlier when it was due earlier.

        ``patience``: seconds that it can wait longer; by default a share of ``after``, so that news has none.
        """
        if patience is None:
            patience = min(PATIENCE * after, MAX_PATIENCE_SECONDS)
        due = max(self._clock() + after, self._not_before.get(key, 0.0))
        latest = due + patience
        known = self._entries.get(key)
        if known is None or due < known.due or latest < known.latest:
            if known is not None:
                due, latest = min(due, known.due), min(latest, known.latest)
            self._put(key, Entry(due, latest, next(self._counter)))

    def _put(self, key: K, entry: Entry) -> None:
        self._entries[key] = entry
        heapq.heappush(self._later, (entry, key))
        self._changed.set()

    def failed(self, key: K, at_least: float = 0.0) -> float:
        """The key's look failed: look again after its back-off, or ``at_least`` so many seconds; returns which."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        wait = float(min(MAX_BACK_OFF_SECONDS, max(at_least, FIRST_BACK_OFF_SECONDS * 2 ** min(count, 16))))
        self._not_before[key] = self._clock() + wait
        self._entries.pop(key, None)
        self.add(key)
        return wait

    def succeeded(self, key: K) -> None:
        """The key's look went well: its back-off starts anew."""
        self._failures.pop(key, None)
        self._not_before.pop(key, None)

    def forget(self, key: K) -> None:
        """The object is gone."""
        self.succeeded(key)
        self._entries.pop(key, None)

    def done(self, key: K) -> None:
        """The worker is ready with the key."""
        self._working.discard(key)
        entry = self._entries.get(key)
        if entry is not None:
            self._put(key, entry)

    async def get(self) -> K:
        """The next key that is due and that no other worker has; call ``done`` with it."""
        while True:
            key = self._take()
            if key is not None:
                return key
            self._changed.clear()
            wait = self._later[0][0].due - self._clock() if self._later else None
            try:
                await asyncio.wait_for(self._changed.wait(), wait)
            except TimeoutError:
                continue

    def _take(self) -> K | None:
        now = self._clock()
        while self._later and self._later[0][0].due <= now:
            entry, key = heapq.heappop(self._later)
            if self._entries.get(key) == entry:
                heapq.heappush(self._ready, (entry.latest, entry.order, key))
        while self._ready:
            _, order, key = heapq.heappop(self._ready)
            found = self._entries.get(key)
            # What is worked on comes back with `done`.
            if found is not None and found.order == order and key not in self._working:
                del self._entries[key]
                self._working.add(key)
                return key
        return None


async def run_workers[K: Hashable](queue: KeyQueue[K], work: Callable[[K], Awaitable[None]], count: int) -> None:
    """Let ``count`` workers look at keys until cancelled; ``work`` handles its own errors."""

    async def worker() -> None:
        while True:
            key = await queue.get()
            try:
                await work(key)
            finally:
                queue.done(key)
            # A look by what was heard waits for nobody: without this thousands of them would be one step of the loop.
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(worker())
