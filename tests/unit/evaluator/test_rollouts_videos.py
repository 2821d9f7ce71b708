"""Which episodes are filmed."""

from dataclasses import replace
from pathlib import Path

import pytest

from flowstill_evaluator import videos
from flowstill_evaluator.records import EpisodeLog, EpisodeRecord, StoredEpisode
from flowstill_evaluator.suites.registry import METAWORLD


@pytest.fixture
def log(tmp_path):
    log = EpisodeLog(tmp_path / "episodes.jsonl")
    for arm in ("teacher@10", "student-draws"):
        for task in ("a", "b"):
            for index in range(5):
                failed = arm == "student-draws" and (task == "a" or index == 4)
                record = EpisodeRecord(
                    "metaworld",
                    task,
                    arm,
                    index,
                    index,
                    not failed,
                    "contact" if failed else None,
                    3,
                    0.0,
                    0,
                    0,
                    1,
                )
                log.episodes[arm, task, index] = StoredEpisode(record, None, None)
    return log


def chosen(log, mode):
    return [(f.task, f.episode) for f in videos.choose(log, "student-draws", "teacher@10", mode)]


def test_failures_of_every_task_up_to_four(log):
    assert chosen(log, "failures") == [("a", 0), ("b", 4), ("a", 1), ("a", 2)]


def test_none_and_all(log):
    assert chosen(log, "none") == []
    assert len(chosen(log, "all")) == 10


def test_an_episode_that_the_baseline_lacks_is_not_filmed(log):
    del log.episodes["teacher@10", "a", 0]
    assert ("a", 0) not in chosen(log, "failures")


def test_no_film_no_process(log, tmp_path):
    assert videos.make([], log, METAWORLD, tmp_path, lambda: None) is None
    assert not (tmp_path / "videos").exists()


def test_a_task_may_be_called_anything(log):
    arms = "student-draws", "teacher@10"
    for arm in arms:
        record = replace(log.episodes[arm, "a", 0].record, task="../a b")
        log.episodes[arm, record.task, 0] = StoredEpisode(record, None, None)
    paths = [film.path for film in videos.choose(log, *arms, "all")]
    assert len(set(paths)) == len(paths) == 11
    assert {Path(path).parent for path in paths} == {Path("videos")}
