"""Which episodes are filmed."""

import numpy as np
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


def test_a_film_is_a_file_whatever_its_task_is_called(log):
    for task in ("../up", "a b", "a_b", "w" * 128):
        log.episodes |= {(arm, task, 0): log.episodes[arm, "a", 0] for arm in ("teacher@10", "student-draws")}
    names = {videos._file_name(task) for _, task, _ in log.episodes}
    assert len(names) == 6
    assert all("/" not in name and " " not in name and len(name) < 100 for name in names)
    assert "a_b" in names


def test_a_side_that_has_ended_stands_still_and_says_how():
    short = videos.Side([np.full((40, 30, 3), value, np.uint8) for value in (10, 20)], success=False)
    long = videos.Side([np.full((40, 30, 3), value, np.uint8) for value in (50, 60, 70, 80)], success=True)
    frames = videos.side_by_side(short, long)
    assert len(frames) == 4 + 10
    assert frames[0].shape == (40, 60, 3)
    assert [int(f[0, 5, 0]) for f in frames[:4]] == [10, 20, 20, 20]
    assert [int(f[0, 55, 0]) for f in frames[:4]] == [50, 60, 70, 80]
    red, green = frames[-1][-1, 5], frames[-1][-1, 55]
    assert red[0] > red[1]
    assert green[1] > green[0]
    assert int(frames[0][-1, 5, 0]) == 10
    assert int(short.frames[-1][-1, 5, 0]) == 20  # the pictures themselves stay as they are
