"""The benches' other tasks: demonstrations show what a policy will see, and the comparison trains for less."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from flowstill.policies.interface import STATE
from flowstill_evaluator.suites.registry import METAWORLD

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import quality_tasks
from quality_settings import setting
from record_demonstrations import FIRST_SEED, Demonstration, save_arrays
from teacher_tasks import LOOK_EVERY, TASKS, complete, demonstrate, looks

WIDE, DRAWER = TASKS["reach-around-wide"], TASKS["drawer-open-v3"]


def frames_looked_at(task, seed, frames=20):
    return [frame for frame in range(frames) if looks(task, seed)(frame)]


def test_a_shipped_demonstration_has_every_picture_and_the_others_one_a_chunk():
    assert frames_looked_at(WIDE, FIRST_SEED) == list(range(20))
    later = FIRST_SEED + WIDE.shipped
    starts = [frames_looked_at(WIDE, later + phase) for phase in range(LOOK_EVERY)]
    assert all(frames[0] == 0 and set(np.diff(frames[1:])) == {LOOK_EVERY} for frames in starts)
    assert {frame for frames in starts for frame in frames} == set(range(20))


def test_nothing_is_drawn_for_a_black_camera():
    assert frames_looked_at(DRAWER, FIRST_SEED) == []


def demonstration(frames, pictured, value):
    pictures = {frame: np.full((2, 2, 3), value + frame, np.uint8) for frame in pictured}
    state = np.full((frames, 4), value, np.float32)
    return Demonstration(state, np.zeros((frames, 4), np.float32), pictures)


def test_only_a_demonstration_with_all_its_pictures_can_be_in_a_dataset():
    assert complete(WIDE, demonstration(3, (0, 1, 2), 0))
    assert not complete(WIDE, demonstration(3, (0, 2), 0))
    assert complete(DRAWER, demonstration(3, (), 0))


def test_a_picture_stays_with_its_frame(tmp_path):
    from train_teacher import Demonstrations

    save_arrays([demonstration(3, (0, 2), 10), demonstration(4, (1,), 20)], tmp_path / "arrays.npz")
    loaded = Demonstrations.load(tmp_path / "arrays.npz", None)
    assert loaded.pictured_P.tolist() == [0, 2, 4]
    shown = loaded.pictures(np.array([1, 2]), 2)
    assert (shown[:, 0, 0, 0] * 255).round().tolist() == [12, 21]
    assert loaded.state_NS[loaded.pictured_P, 0].tolist() == [10, 10, 20]
    fewer = Demonstrations.load(tmp_path / "arrays.npz", 1)
    assert fewer.pictured_P.tolist() == [0, 2]
    assert len(fewer.picture_PHWC) == 2


def test_without_pictures_every_frame_is_trained_on_and_the_camera_is_black(tmp_path):
    from train_teacher import Demonstrations

    save_arrays([demonstration(3, (), 10)], tmp_path / "arrays.npz")
    loaded = Demonstrations.load(tmp_path / "arrays.npz", None)
    assert loaded.pictured_P.tolist() == [0, 1, 2]
    assert not loaded.pictures(loaded.pictured_P, 8).any()


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.subject.black])
def test_a_demonstration_shows_what_the_evaluator_gives_the_policy(name):
    seed = FIRST_SEED + 1
    made = demonstrate(name, seed)
    seen = METAWORLD.environment(name, TASKS[name].view).reset(seed)
    np.testing.assert_array_equal(made.state_TS[0], seen[STATE])
    assert np.abs(made.action_TD).max() <= 1
    assert len(made.state_TS) == len(made.action_TD) > 30
    again = demonstrate(name, seed)
    np.testing.assert_array_equal(made.action_TD, again.action_TD)


def test_the_sentence_is_the_one_that_the_suite_tells():
    names = list(TASKS)
    assert METAWORLD.preflight(names) == {name: task.subject.instruction for name, task in TASKS.items()}


def test_fewer_steps_for_all_settings_and_a_smaller_bank_where_there_is_one():
    specs = {
        name: quality_tasks.less(setting(name)).spec("file:///t", "file:///d", 0) for name in quality_tasks.COMPARISON
    }
    banked, refined, paper = (specs[name] for name in ("10, bank", "10, bank, refined", "2, the paper's weight"))
    assert len(specs) == 3
    assert {spec.training.steps for spec in specs.values()} == {quality_tasks.STEPS}
    assert [spec.method.bank_size for spec in (banked, refined, paper)] == [quality_tasks.BANK, quality_tasks.BANK, 0]
    assert [spec.method.target_steps for spec in (banked, refined, paper)] == [10, 10, 2]
    assert [spec.method.refine.steps for spec in (banked, refined, paper)] == [0, 500, 0]
    assert [spec.method.consistency_weight for spec in (banked, paper)] == [1.0, 0.1]


def test_tasks_not_made_yet_say_how_to_make_them(tmp_path, monkeypatch):
    monkeypatch.setattr("teachers.WORK", tmp_path)
    with pytest.raises(SystemExit, match=r"no teacher; run bench/teachers\.py drawer-open-v3 first"):
        quality_tasks.compared(DRAWER)
