"""The simulator in worker processes: paired, repeatable, interruptible, robust against a dead worker."""

import os
import signal

import numpy as np
import pytest

from flowstill.errors import Interrupted
from flowstill_evaluator import videos
from flowstill_evaluator.lockstep import WorkerPool
from flowstill_evaluator.observations import Batch, near_resets, on_the_way
from flowstill_evaluator.policy import BatchedPolicy
from flowstill_evaluator.records import EpisodeLog, episodes_of, stored
from flowstill_evaluator.suites.registry import METAWORLD
from tests.unit.evaluator.analytic import ReachController

TASK = "reach-around"
SENTENCES = {TASK: "reach behind the post"}
WIDTH = 4


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(METAWORLD, 2, WIDTH) as pool:
        yield pool


def policy(draws=1):
    return BatchedPolicy(
        ReachController(draws),
        "controller",
        seed=0,
        action_steps=6,
        width=WIDTH,
        instructions=SENTENCES,
        rename_map={},
    )


def run(pool, episodes, ask=None):
    outcomes, errors = {}, []

    def heard(answer):
        outcomes.update({o.episode: o for o in answer.outcomes})
        errors.extend(answer.errors)

    pool.run(episodes, ask or policy(), heard)
    return outcomes, errors


def test_the_controller_goes_round_the_post_and_again_exactly_so(pool):
    episodes = episodes_of([TASK], 12, seed=0)
    first, errors = run(pool, episodes)
    assert not errors
    assert set(first) == set(episodes)
    assert sum(o.success for o in first.values()) >= 10
    second, _ = run(pool, episodes)
    for episode in episodes:
        np.testing.assert_array_equal(first[episode].actions_TD, second[episode].actions_TD)
        np.testing.assert_array_equal(first[episode].velocity_TJ, second[episode].velocity_TJ)


def test_an_interrupted_arm_goes_on_with_what_is_missing(pool, tmp_path):
    episodes = episodes_of([TASK], 10, seed=5)
    whole, _ = run(pool, episodes)
    path = tmp_path / "episodes.jsonl"
    log = EpisodeLog(path)

    def stop_after_some(answer):
        log.append(stored(o, "metaworld", "arm", 100) for o in answer.outcomes)
        if len(log.episodes) >= 3:
            raise Interrupted("enough")

    with WorkerPool(METAWORLD, 1, WIDTH) as other, pytest.raises(Interrupted):
        other.run(episodes, policy(), stop_after_some)
    log = EpisodeLog(path)
    missing = log.missing("arm", episodes)
    assert 0 < len(missing) <= 7
    pool.run(missing, policy(), lambda a: log.append(stored(o, "metaworld", "arm", 100) for o in a.outcomes))
    assert log.missing("arm", episodes) == []
    for kept, episode in zip(log.of_arm("arm"), episodes, strict=True):
        assert (kept.record.success, kept.record.steps) == (whole[episode].success, whole[episode].steps)


def test_a_killed_worker_is_replaced_and_nothing_is_lost():
    episodes = episodes_of([TASK], 8, seed=1)
    with WorkerPool(METAWORLD, 2, WIDTH) as pool:
        ask, calls = policy(), []

        def killing(waiting):
            calls.append(1)
            if len(calls) == 4:
                os.kill(pool._workers[0].process.pid, signal.SIGKILL)
            return ask(waiting)

        outcomes, errors = run(pool, episodes, killing)
    assert set(outcomes) == set(episodes)
    assert not errors


def test_a_worker_that_always_dies_is_reported_not_failed():
    with WorkerPool(METAWORLD, 1, 1) as pool:
        ask = policy()

        def killing(waiting):
            if waiting.waiting[0][0].index == 0:
                os.kill(pool._workers[0].process.pid, signal.SIGKILL)
                pool._workers[0].process.join()
            return ask(waiting)

        outcomes, errors = run(pool, episodes_of([TASK], 2, seed=1), killing)
    assert [e.index for e in outcomes] == [1]
    assert [e.episode.index for e in errors] == [0]
    assert "-9" in errors[0].message


def test_held_out_observations_are_of_other_episodes_and_survive_a_file(pool, tmp_path):
    batch = on_the_way(pool, policy(), SENTENCES, {}, count=16, seed=0, first=200)
    assert len(batch) == 16
    assert len(np.unique(batch.features["observation.state"], axis=0)) == 16
    batch.save(tmp_path / "o.npz")
    again = Batch.load(tmp_path / "o.npz")
    assert again.sentences == batch.sentences
    np.testing.assert_array_equal(again.features["observation.state"], batch.features["observation.state"])
    near = near_resets(METAWORLD, SENTENCES, {}, count=10, seed=0, first=200)
    assert near.rows([0, 9])["observation.state"].shape == (2, 7)
    assert len(np.unique(near.features["observation.state"], axis=0)) == 10


def test_videos_are_replays_side_by_side(pool, tmp_path):
    log = EpisodeLog(tmp_path / "episodes.jsonl")
    outcomes, _ = run(pool, episodes_of([TASK], 1, seed=0))
    for arm in ("student", "teacher@10"):
        log.append(stored(o, "metaworld", arm, 10) for o in outcomes.values())
    films = videos.choose(log, "student", "teacher@10", "all")
    note = videos.make(films, log, METAWORLD, tmp_path, lambda: None)
    if note is not None:
        assert "rendering failed" in note, note
        pytest.skip(note)
    import imageio.v2 as imageio

    frames = imageio.mimread(tmp_path / films[0].path, memtest=False)
    assert frames[0].shape == (160, 320, 3)
    [outcome] = outcomes.values()
    assert len(frames) >= outcome.steps // 4
    left, right = frames[5][:, :158].astype(int), frames[5][:, 162:].astype(int)
    assert np.abs(left[:, -150:] - right[:, -150:]).mean() < 40
    assert np.abs(frames[0].astype(int) - frames[-1].astype(int)).max() > 50, "something moves"


def test_no_graphics_library_is_a_note_not_an_error(pool, tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.delenv("DISPLAY", raising=False)
    log = EpisodeLog(tmp_path / "episodes.jsonl")
    outcomes, _ = run(pool, episodes_of([TASK], 1, seed=0))
    for arm in ("student", "teacher@10"):
        log.append(stored(o, "metaworld", arm, 10) for o in outcomes.values())
    note = videos.make(videos.choose(log, "student", "teacher@10", "all"), log, METAWORLD, tmp_path, lambda: None)
    assert note is not None
    assert "glfw" in note
    assert not (tmp_path / "videos").exists()
