"""One entry per key, one worker per key, own back-off."""

import asyncio

import pytest

from flowstill_operator.engine.queue import MAX_BACK_OFF_SECONDS, KeyQueue, run_workers


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


async def drained(queue):
    keys = []
    while True:
        task = asyncio.ensure_future(queue.get())
        for _ in range(3):
            await asyncio.sleep(0)
        if not task.done():
            task.cancel()
            return keys
        keys.append(task.result())


async def test_many_events_are_one_look_in_order(clock):
    queue = KeyQueue(clock)
    for key in "abaab":
        queue.add(key)
    assert await drained(queue) == ["a", "b"]


async def test_a_key_is_with_one_worker_and_an_event_meanwhile_is_not_lost(clock):
    queue = KeyQueue(clock)
    queue.add("a")
    assert await drained(queue) == ["a"]
    queue.add("a")
    assert await drained(queue) == []
    queue.done("a")
    assert await drained(queue) == ["a"]


async def test_the_earlier_moment_wins(clock):
    queue = KeyQueue(clock)
    queue.add("a", 5)
    queue.add("a", 50)
    assert await drained(queue) == []
    clock.now = 5.0
    queue.add("b", 99)
    assert await drained(queue) == ["a"]


async def test_back_off_grows_is_bounded_and_an_event_does_not_shorten_it(clock):
    queue = KeyQueue(clock)
    assert [queue.failed("a") for _ in range(3)] == [1.0, 2.0, 4.0]
    queue.add("a")
    clock.now = 3.9
    assert await drained(queue) == []
    clock.now = 4.0
    queue.add("a")
    assert await drained(queue) == ["a"]
    assert [queue.failed("a") for _ in range(30)][-1] == MAX_BACK_OFF_SECONDS
    queue.succeeded("a")
    assert queue.failed("a") == 1.0


async def test_what_is_forgotten_does_not_come_back(clock):
    queue = KeyQueue(clock)
    queue.add("a")
    queue.forget("a")
    assert len(queue) == 0
    assert await drained(queue) == []


async def test_a_waiting_worker_wakes_up():
    queue, seen = KeyQueue(), []
    done = asyncio.Event()

    async def work(key):
        seen.append(key)
        if len(seen) == 2:
            done.set()

    workers = asyncio.create_task(run_workers(queue, work, 2))
    queue.add("late", 0.3)
    queue.add("now")
    await asyncio.wait_for(done.wait(), 10)
    workers.cancel()
    assert seen == ["now", "late"]


async def test_whoever_asks_to_be_left_alone_is(clock):
    queue = KeyQueue(clock)
    assert queue.failed("a", at_least=7.0) == 7.0
    assert queue.failed("a", at_least=1.0) == 2.0
    assert queue.failed("a", at_least=99_999.0) == MAX_BACK_OFF_SECONDS


async def test_what_was_replaced_or_forgotten_is_passed_over(clock):
    queue = KeyQueue(clock)
    queue.add("a", 5)
    queue.add("a", 1)
    queue.add("b", 1)
    queue.forget("b")
    clock.now = 9.0
    assert await drained(queue) == ["a"]
    assert len(queue) == 1
    queue.done("a")
    assert await drained(queue) == []
    assert len(queue) == 0


async def test_what_is_added_while_it_is_worked_on_keeps_its_moment(clock):
    queue = KeyQueue(clock)
    queue.add("a")
    assert await drained(queue) == ["a"]
    queue.add("a", 5)
    clock.now = 7.0
    assert await drained(queue) == []
    queue.add("b")
    queue.done("a")
    assert await drained(queue) == ["a", "b"]


async def test_news_goes_before_what_is_only_looked_at_again(clock):
    queue = KeyQueue(clock)
    for key in ("again", "and again", "told"):
        queue.add(key, 30)
    clock.now = 31.0
    queue.add("news")
    queue.add("told")
    assert await drained(queue) == ["news", "told", "again", "and again"]


async def test_what_has_waited_long_enough_goes_before_news(clock):
    queue = KeyQueue(clock)
    queue.add("again", 30)
    queue.add("long ago", 600)
    queue.add("listed", patience=10)
    clock.now = 9.0
    queue.add("sooner")
    clock.now = 41.0
    queue.add("news")
    assert await drained(queue) == ["sooner", "listed", "again", "news"]
    clock.now = 611.0
    queue.add("later news")
    assert await drained(queue) == ["long ago", "later news"]


async def test_news_is_heard_between_two_looks_that_wait_for_nobody(clock):
    queue, seen = KeyQueue(clock), []
    for key in ("again", "and again"):
        queue.add(key, patience=10)

    async def work(key):
        seen.append(key)

    async def listen():
        while not seen:
            await asyncio.sleep(0)
        queue.add("news")

    workers = asyncio.create_task(run_workers(queue, work, 1))
    await listen()
    while len(seen) < 3:
        await asyncio.sleep(0)
    workers.cancel()
    assert seen == ["again", "news", "and again"]
