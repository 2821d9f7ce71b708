"""Records: what is written can be read, what was cut off is run again."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowstill_evaluator.records import (
    SEEDS,
    Episode,
    EpisodeLog,
    Outcome,
    decode,
    encode,
    episode_seed,
    episodes_of,
    stored,
    velocity_rows,
    write_json,
    write_published,
)


def outcome(index=0, success=True, steps=30):
    velocity = np.arange(steps * 7, dtype=np.float32).reshape(steps, 7)
    return Outcome(
        episode=Episode("reach", index, index),
        success=success,
        failure=None if success else "contact",
        steps=steps,
        reward=1.25,
        clamped_steps=2,
        idle_chunks=0,
        chunks=4,
        actions_TD=velocity[:, :4] / 7,
        velocity_TJ=velocity,
    )


@given(st.integers(0, 2**31 - 1), st.integers(1, 1000))
def test_seeds_differ_within_a_run_and_are_no_demonstrations(seed, first):
    seeds = [episode_seed(seed, index) for index in range(first, first + 300)]
    assert len(set(seeds)) == 300
    assert all(0 <= s < SEEDS for s in seeds)


def test_runs_with_neighbouring_seeds_share_no_episode():
    runs = [{e.seed for e in episodes_of(["a"], 500, seed)} for seed in range(9)]
    assert len(set.union(*runs)) == 9 * 500


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=2), elements=st.floats(width=32, allow_nan=False)))
def test_arrays_survive_json_exactly(array):
    np.testing.assert_array_equal(decode(json.loads(json.dumps(encode(array)))), array)


def test_a_log_is_read_back_whole(tmp_path):
    log = EpisodeLog(tmp_path / "episodes.jsonl")
    log.append([stored(outcome(0), "metaworld", "student", 100), stored(outcome(1), "metaworld", "student", 100)])
    again = EpisodeLog(tmp_path / "episodes.jsonl")
    assert [e.record for e in again.of_arm("student")] == [e.record for e in log.of_arm("student")]
    np.testing.assert_array_equal(again.of_arm("student")[1].actions_TD, outcome(1).actions_TD)
    assert again.missing("student", episodes_of(["reach"], 3, 0)) == [Episode("reach", 2, 2)]
    assert again.missing("teacher@1", episodes_of(["reach"], 3, 0)) == episodes_of(["reach"], 3, 0)


def test_a_line_cut_off_by_a_crash_is_dropped_and_the_next_one_is_sound(tmp_path):
    path = tmp_path / "episodes.jsonl"
    EpisodeLog(path).append(stored(outcome(i), "metaworld", "student", 100) for i in range(2))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    log = EpisodeLog(path)
    assert log.missing("student", episodes_of(["reach"], 2, 0)) == [Episode("reach", 1, 1)]
    log.append([stored(outcome(1), "metaworld", "student", 100)])
    assert path.read_bytes() == whole


def test_joint_velocity_is_thinned_evenly():
    kept = stored(outcome(steps=50), "metaworld", "student", 10).velocity_NJ
    assert kept.shape == (10, 7)
    assert kept[0, 0] == 0
    assert kept[-1, 0] == 49 * 7
    assert [velocity_rows(most) for most in (1, 200, 20_000, 10**6)] == [20_000, 100, 1, 1]
    assert stored(outcome(steps=5), "metaworld", "student", 10).velocity_NJ.shape == (5, 7)


def test_what_is_published(tmp_path):
    log = EpisodeLog(tmp_path / "episodes.jsonl")
    log.append(stored(outcome(i, success=i > 0), "metaworld", "teacher@10", 5) for i in range(3))
    log.append([stored(outcome(0, success=False), "metaworld", "student", 5)])
    folder = tmp_path / "out"
    folder.mkdir()
    write_published(log, ["teacher@10", "student"], folder, {("student", "reach", 0): "videos/x.mp4"})
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert [line["arm"] for line in lines] == ["teacher@10"] * 3 + ["student"]
    assert lines[3] == {
        "suite": "metaworld",
        "task": "reach",
        "arm": "student",
        "episode": 0,
        "seed": 0,
        "success": False,
        "failure": "contact",
        "steps": 30,
        "reward": 1.25,
        "clamped_steps": 2,
        "idle_chunks": 0,
        "chunks": 4,
        "video": "videos/x.mp4",
    }
    with np.load(folder / "joint_velocity.npz") as velocities:
        assert {arm: velocities[arm].shape for arm in velocities} == {
            "teacher@10": (15, 7),
            "student": (5, 7),
        }


def test_a_json_file_is_replaced_whole(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
