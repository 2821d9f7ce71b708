"""Cameras that a fine-tune kept from its base and never saw, and the names that its data had."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lerobot.policies.factory import get_policy_class

from flowstill.api.distilljob import Dataset
from flowstill.errors import DatasetRejected
from flowstill.policies.cameras import data_names, features_shown, never_shown, real_cameras
from flowstill.policies.registry import load_flow_policy
from flowstill.policies.torch_runner import TorchRunner
from flowstill_trainer.data import load_frames
from tests.support import tiny_smolvla
from tests.support.fine_tune import BASES_OTHER, write_fine_tune
from tests.support.tiny_smolvla import CAMERA

TOP = "observation.images.top"


@pytest.mark.parametrize(
    ("statistics", "renamed", "unseen"),
    [
        ({"action", "a", "b"}, {}, ()),
        ({"action", "a"}, {}, ("b",)),
        ({"top"}, {"top": "b"}, ("a",)),
        ({"top", "side"}, {"top": "b"}, ("a",)),
        ({"action", "observation.state"}, {}, ()),
        ({"top"}, {}, ()),
        (set(), {}, ()),
    ],
)
def test_only_a_checkpoint_that_says_what_it_saw_says_what_it_did_not(statistics, renamed, unseen):
    assert never_shown(("a", "b"), features_shown(statistics, renamed)) == unseen


@pytest.mark.parametrize(
    ("rename_map", "renamed", "names"),
    [
        ({}, {}, {"top": "top", "side": "side"}),
        ({}, {"top": "a"}, {"top": "top", "side": "side", "a": "top"}),
        ({"side": "a"}, {"top": "a"}, {"top": "top", "a": "side"}),
        ({"top": "b"}, {"top": "a"}, {"side": "side", "b": "top"}),
        ({}, {"top": "side"}, {"top": "top", "side": "side"}),
        ({"top": "side"}, {}, {"side": "top"}),
        ({"gone": "a"}, {"lost": "b"}, {"top": "top", "side": "side"}),
    ],
)
def test_the_users_map_comes_first_then_the_same_name_then_the_checkpoints_own(rename_map, renamed, names):
    assert data_names(["top", "side"], rename_map, renamed) == names


def test_lerobots_empty_cameras_are_none():
    assert real_cameras(["observation.images.empty_camera_0", "observation.image", CAMERA]) == (
        "observation.image",
        CAMERA,
    )


@pytest.fixture
def fine_tune(tiny, tmp_path):
    """Trained on pictures from above, by LeRobot's own statistics."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data = tiny_smolvla.write_dataset(tmp_path / "data", camera=TOP)
    statistics = LeRobotDataset("test/tiny", root=data).meta.stats
    assert TOP in statistics
    return write_fine_tune(tiny.teacher_folder, tmp_path / "tuned", statistics, {TOP: CAMERA}), data


def test_what_a_fine_tune_never_saw_is_left_out_as_lerobot_leaves_it_out(tiny, fine_tune):
    folder, _ = fine_tune
    teacher = load_flow_policy(folder)
    assert (teacher.cameras, teacher.renamed) == ((CAMERA,), {TOP: CAMERA})

    whole = load_flow_policy(folder, whole=True)
    assert whole.cameras == (CAMERA, BASES_OTHER)
    theirs = get_policy_class(tiny.kind)(whole.policy.config)
    theirs.load_state_dict(whole.policy.state_dict())
    batch = tiny.batch(teacher)
    seen = {k: v for k, v in batch.items() if k.startswith("observation.")}
    noise = torch.randn((4, teacher.chunk_size, teacher.padded_action_dim), generator=torch.Generator().manual_seed(3))
    wanted = theirs.eval().predict_action_chunk(dict(seen), noise=noise.clone())
    ours = teacher.chunk(teacher.encode_prefix(batch), noise, teacher.steps)
    assert torch.allclose(ours[..., : teacher.action_dim], wanted, atol=1e-5)

    black = seen | {BASES_OTHER: torch.zeros_like(seen[CAMERA])}
    shown = theirs.predict_action_chunk(black, noise=noise.clone())
    assert not torch.allclose(shown, wanted, atol=1e-4), "a picture that is there counts, were it black"


def test_a_fine_tune_is_distilled_from_its_own_data_without_a_map(tiny, fine_tune, tmp_path):
    folder, data = fine_tune
    teacher = load_flow_policy(folder)
    frames = load_frames(data, Dataset(uri="file:///data"), teacher)
    index = torch.arange(3)
    assert list(frames.observations(index)) == ["observation.state", CAMERA, "task"]
    tiny.student(teacher).save(tmp_path / "student")
    student = load_flow_policy(tmp_path / "student")
    assert (student.cameras, student.renamed) == ((CAMERA,), {TOP: CAMERA})
    ours, theirs = (p.encode_prefix(p.preprocess(frames.observations(index))) for p in (student, teacher))
    assert torch.equal(ours.pad_mask_BP, theirs.pad_mask_BP)


def test_data_without_a_camera_that_the_teacher_was_trained_with_is_refused(tiny, fine_tune, tmp_path):
    teacher = load_flow_policy(fine_tune[0])
    side = tiny_smolvla.write_dataset(tmp_path / "side", camera="observation.images.side")
    with pytest.raises(DatasetRejected, match=f"needs {CAMERA}; the dataset offers observation.images.side. Map its"):
        load_frames(side, Dataset(uri="file:///side"), teacher)

    seen = {name: {"mean": np.zeros((3, 1, 1), np.float32)} for name in (CAMERA, BASES_OTHER)}
    teacher = load_flow_policy(write_fine_tune(tiny.teacher_folder, tmp_path / "both", seen, {}))
    with pytest.raises(DatasetRejected, match=f"needs {BASES_OTHER}; the dataset offers nothing else; use the robot's"):
        tiny.frames(teacher)


def test_a_runner_takes_both_names(fine_tune):
    runner = TorchRunner.load(fine_tune[0], steps=1, draws=1, device="cpu", threads=None, digest="")
    info = runner.info
    seen = tiny_smolvla.observations(2)
    noise = np.random.default_rng(0).normal(size=(2, 1, info.chunk_size, info.padded_action_dim)).astype(np.float32)
    by_data = {TOP if name == CAMERA else name: value for name, value in seen.items()}
    assert np.array_equal(runner.act(seen, noise).actions_BHA, runner.act(by_data, noise).actions_BHA)


def test_a_checkpoint_that_does_not_say_what_it_saw_keeps_its_cameras(tiny, tmp_path):
    """Processors by hand, as those of the tiny teachers, have the state's and the action's statistics alone."""
    stats = load_flow_policy(tiny.teacher_folder).preprocessor.steps
    known = next(step.stats for step in stats if getattr(step, "stats", None))
    assert load_flow_policy(write_fine_tune(tiny.teacher_folder, tmp_path / "t", known, {})).cameras == (
        CAMERA,
        BASES_OTHER,
    )
