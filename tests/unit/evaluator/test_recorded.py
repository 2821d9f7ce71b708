"""Frames of a LeRobotDataset as observations of a policy."""

from types import SimpleNamespace

import numpy as np
import pytest

from flowstill.api.distilljob import Dataset
from flowstill.errors import DatasetRejected
from flowstill_evaluator.recorded import recorded_observations
from tests.support.tiny_smolvla import CAMERA, IMAGE, INSTRUCTION, STATE_DIM, write_dataset

OTHER = "observation.images.top"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three episodes of twelve frames."""
    return write_dataset(tmp_path_factory.mktemp("recorded") / "dataset")


def seen(folder, count=10, cameras=(CAMERA,), state_dim=STATE_DIM, renamed=None, **spec):
    info = SimpleNamespace(cameras=cameras, state_dim=state_dim, renamed=renamed or {})
    return recorded_observations(folder, Dataset(uri="store://d", **spec), info, count)


def test_frames_are_spread_over_the_episodes_and_look_as_a_runner_wants_them(folder):
    batch = seen(folder)
    assert batch.sentences == (INSTRUCTION,) * 10
    assert (batch.features[CAMERA].shape, batch.features[CAMERA].dtype) == ((10, IMAGE, IMAGE, 3), np.uint8)
    states = batch.features["observation.state"]
    assert (states.shape, states.dtype) == ((10, STATE_DIM), np.float32)
    whole = seen(folder, 1000).features["observation.state"]
    assert len(whole) == 36
    np.testing.assert_array_equal(states, whole[[0, 4, 8, 12, 16, 19, 23, 27, 31, 35]])


def test_chosen_episodes_only(folder):
    whole, chosen = seen(folder, 1000), seen(folder, 1000, episodes=[1])
    np.testing.assert_array_equal(chosen.features["observation.state"], whole.features["observation.state"][12:24])


def test_pixels_are_those_that_were_recorded(tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    picture = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    features = {
        "observation.state": {"dtype": "float32", "shape": (STATE_DIM,), "names": None},
        CAMERA: {"dtype": "image", "shape": picture.shape, "names": ["height", "width", "channels"]},
        "action": {"dtype": "float32", "shape": (2,), "names": None},
    }
    dataset = LeRobotDataset.create("test/one", 10, features, root=tmp_path / "one", use_videos=False)
    state, action = np.zeros(STATE_DIM, np.float32), np.zeros(2, np.float32)
    dataset.add_frame({"observation.state": state, CAMERA: picture, "action": action, "task": INSTRUCTION})
    dataset.save_episode()
    dataset.finalize()
    np.testing.assert_array_equal(seen(tmp_path / "one", 1).features[CAMERA][0], picture)


def test_cameras_are_renamed(folder):
    batch = seen(folder, cameras=(OTHER,), rename_map={CAMERA: OTHER})
    assert set(batch.features) == {OTHER, "observation.state"}
    own = seen(folder, cameras=(OTHER,), renamed={CAMERA: OTHER})
    np.testing.assert_array_equal(own.features[OTHER], batch.features[OTHER])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cameras": (OTHER,)}, f"spec.dataset.renameMap: the student needs {OTHER}; the dataset offers {CAMERA}"),
        ({"episodes": [1, 7]}, r"spec.dataset.episodes: there is no episode 7; the dataset has episodes 0 to 2"),
        ({"state_dim": 3}, r"spec.dataset: observation.state has shape \(7,\), the student's has \(3,\)"),
    ],
)
def test_what_does_not_fit_is_named(folder, changes, words):
    with pytest.raises(DatasetRejected, match=words):
        seen(folder, **changes)


def test_a_folder_that_is_no_dataset(tmp_path):
    with pytest.raises(DatasetRejected, match=r"spec\.dataset: .* is no LeRobotDataset v3: .*info\.json"):
        seen(tmp_path)
