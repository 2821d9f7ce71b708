"""Events beside the loop: in order, nobody waits for them, and one that fails is only missing."""

import asyncio

from flowstill_operator.clusters.interface import Gone
from flowstill_operator.engine.news import MAX_WAITING, News
from flowstill_operator.steps import Note
from tests.unit.operator.builders import distill_spec, resource

THING = resource("DistillJob", distill_spec(), {"phase": "Running"}, name="dj", uid="u")


class Recorder:
    def __init__(self):
        self.posted, self.open = [], asyncio.Event()

    async def record_event(self, resource, note):
        await self.open.wait()
        if note.reason == "Broken":
            raise OSError("away")
        if note.reason == "Late":
            raise Gone("namespace")
        self.posted.append((resource, note.reason))


def note(reason):
    return Note("Normal", reason, "text")


async def test_nobody_waits_and_all_but_the_failed_are_posted_in_order():
    recorder = Recorder()
    news = News(recorder)
    for reason in ("A", "Broken", "B", "Late", "C"):
        await news.record_event(THING, note(reason))
    task = asyncio.create_task(news.run())
    await asyncio.sleep(0)
    assert recorder.posted == []
    recorder.open.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert [reason for _, reason in recorder.posted] == ["A", "B", "C"]
    named = {"kind": "DistillJob", "metadata": THING["metadata"]}
    assert recorder.posted[0][0] == named
    await news.record_event(THING, note("D"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert recorder.posted[-1][1] == "D"
    task.cancel()


async def test_last_words_take_no_longer_than_they_may():
    recorder = Recorder()
    news = News(recorder)
    await news.record_event(THING, note("A"))
    await news.flush(0.01)
    assert recorder.posted == []
    recorder.open.set()
    await news.record_event(THING, note("B"))
    await news.flush(5.0)
    assert [reason for _, reason in recorder.posted] == ["B"]


async def test_too_many_push_out_the_oldest():
    recorder = Recorder()
    recorder.open.set()
    news = News(recorder)
    for number in range(MAX_WAITING + 2):
        await news.record_event(THING, note(str(number)))
    await news.flush(5.0)
    assert (len(recorder.posted), recorder.posted[0][1]) == (MAX_WAITING, "2")
