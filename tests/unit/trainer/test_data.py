"""The dataset as the trainer sees it."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowstill.api.distilljob import Dataset
from flowstill.errors import DatasetRejected
from flowstill_trainer import data
from flowstill_trainer.data import READ_AHEAD, ImagesInMemory, ImagesOnDisk, hold_out, load_frames
from flowstill_trainer.randomness import Order
from tests.support import tiny_smolvla

SPEC = Dataset(uri="file:///dataset")


def test_frames_are_lerobots_items(tiny):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    teacher = tiny.teacher()
    frames = tiny.frames(teacher)
    delta = {"action": [i / 10 for i in range(tiny_smolvla.CHUNK)]}
    dataset = LeRobotDataset("test/tiny", root=tiny.dataset_folder, delta_timestamps=delta)
    index = torch.tensor([0, 9, 11, 20])
    seen, (chunk, valid) = frames.observations(index), frames.chunks(index)
    for row, item in enumerate(dataset[i] for i in index.tolist()):
        assert torch.equal(seen["observation.state"][row], item["observation.state"])
        assert torch.equal(seen[tiny_smolvla.CAMERA][row], item[tiny_smolvla.CAMERA])
        assert seen["task"][row] == item["task"]
        assert torch.equal(valid[row], ~item["action_is_pad"])
        assert torch.equal(chunk[row], item["action"])
    assert valid.sum(1).tolist() == [6, 3, 1, 4]


def test_black_images_are_decoded_once(tiny):
    images = tiny.frames(tiny.teacher()).images
    assert isinstance(images, ImagesInMemory)
    assert len(images.pixels[tiny_smolvla.CAMERA]) == 1


def test_images_beyond_memory_are_read_from_disk(tiny, monkeypatch):
    frames = tiny.frames(tiny.teacher())
    monkeypatch.setattr(data, "MEMORY_LIMIT", 10)
    lazy = tiny.frames(tiny.teacher())
    assert isinstance(lazy.images, ImagesOnDisk)
    whole = [lazy.images.dataset[number] for number in range(2)]
    pictures = [value for item in whole for name, value in item.items() if name.startswith("observation.images.")]
    assert lazy.images.ahead(2) == sum(each.numel() * each.element_size() for each in pictures) > 0
    assert lazy.images.ahead(10**6) == lazy.images.ahead(2) // 2 * READ_AHEAD
    index = torch.tensor([3, 30])
    assert torch.equal(lazy.images.read(index)[tiny_smolvla.CAMERA], frames.images.read(index)[tiny_smolvla.CAMERA])


@pytest.mark.parametrize("tiny", ["smolvla"], indirect=True)
def test_threads_read_the_frames_of_a_video(tiny, tmp_path, monkeypatch):
    from lerobot.datasets import lerobot_dataset, video_utils

    def refused(*_, **__):
        raise AssertionError("two threads in one of its decoders end the process")

    monkeypatch.setattr(video_utils, "decode_video_frames_torchcodec", refused)
    monkeypatch.setattr(lerobot_dataset, "get_safe_default_video_backend", lambda: "torchcodec")
    folder = tiny_smolvla.write_dataset(tmp_path / "videos", video=True)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "else the rest of the tests stop all others"
    frames = load_frames(folder, SPEC, tiny.teacher())
    index = torch.tensor([*range(36), *range(35, -1, -1)] * 4)
    read = frames.images.read(index)[tiny_smolvla.CAMERA].mean((1, 2, 3)) * 255
    shown = torch.tensor([60.0 * (i // 12) + 4 * (i % 12) for i in index.tolist()])
    assert (read - shown).abs().max() < 2.0, "the codec loses a little"


@pytest.mark.parametrize("tiny", ["smolvla"], indirect=True)
def test_half_a_video_is_refused_when_its_frames_are_needed(tiny, tmp_path):
    folder = tiny_smolvla.write_dataset(tmp_path / "videos", episodes=1, video=True)
    file = next(folder.glob("videos/**/*.mp4"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    frames = load_frames(folder, SPEC, tiny.teacher())
    with pytest.raises(
        DatasetRejected, match=r"spec\.dataset: the images of frame 3 cannot be read .*copy the dataset"
    ):
        frames.images.read(torch.tensor([3]))


@pytest.mark.parametrize("tiny", ["smolvla"], indirect=True)
@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("meta/tasks.parquet", r"\(no meta/tasks\.parquet\)"),
        ("meta/episodes/chunk-000/file-000.parquet", r"\(no meta/episodes\)"),
        ("data/chunk-000/file-000.parquet", r"\(no data\)"),
    ],
)
def test_files_that_are_missing_are_named_and_nobody_is_sent_to_the_hub(tiny, tmp_path, missing, said):
    folder = shutil.copytree(tiny.dataset_folder, tmp_path / "data")
    (folder / missing).unlink()
    with pytest.raises(DatasetRejected, match=f"copy it again with all of its files {said}$"):
        load_frames(folder, SPEC, tiny.teacher())


@pytest.mark.parametrize("tiny", ["smolvla"], indirect=True)
def test_a_file_that_was_copied_half_is_named(tiny, tmp_path):
    folder = shutil.copytree(tiny.dataset_folder, tmp_path / "data")
    file = folder / "data" / "chunk-000" / "file-000.parquet"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DatasetRejected, match=r"\(data/chunk-000/file-000\.parquet is damaged\)$"):
        load_frames(folder, SPEC, tiny.teacher())


class Reads:
    """A dataset that counts what is read."""

    def __init__(self):
        self.numbers = []

    def __getitem__(self, number):
        self.numbers.append(number)
        if number == 13:
            raise OSError("frame 13 is unreadable")
        return {"top": torch.full((3, 1, 1), float(number))}


@pytest.fixture
def read():
    dataset = Reads()
    with ThreadPoolExecutor(2) as pool:
        yield dataset, ImagesOnDisk(dataset, {"top": "front"}, pool)


def values(images, *numbers):
    return images.read(torch.tensor(numbers))["front"][:, 0, 0, 0].tolist()


def test_what_is_expected_is_read_once_and_before_it_is_asked_for(read):
    dataset, images = read
    images.expect(torch.tensor([4, 7, 4]))
    wait(images.expected.values())
    assert sorted(dataset.numbers) == [4, 7]
    assert values(images, 7, 4, 7, 9) == [7.0, 4.0, 7.0, 9.0]
    assert sorted(dataset.numbers) == [4, 7, 9]
    assert values(images, 4) == [4.0]
    assert sorted(dataset.numbers) == [4, 4, 7, 9], "nothing is kept"


def test_what_is_no_longer_expected_is_let_go_and_memory_is_bounded(read, monkeypatch):
    dataset, images = read
    monkeypatch.setattr(data, "READ_AHEAD", 2)
    images.expect(torch.tensor([1, 2, 3]))
    images.expect(torch.tensor([2, 5, 6]))
    assert list(images.expected) == [2, 5]
    wait(images.expected.values())
    assert dataset.numbers.count(2) == 1
    assert 3 not in dataset.numbers


def test_a_frame_that_cannot_be_read_is_an_error_where_it_is_needed(read):
    _, images = read
    images.expect(torch.tensor([13]))
    with pytest.raises(OSError, match="frame 13"):
        values(images, 12, 13)


def test_chosen_episodes_only(tiny):
    frames = load_frames(tiny.dataset_folder, Dataset(uri="file:///dataset", episodes=[0, 2]), tiny.teacher())
    whole = tiny.frames(tiny.teacher())
    assert torch.equal(frames.state_NS, torch.cat([whole.state_NS[:12], whole.state_NS[24:]]))
    assert frames.last_N.tolist() == [11] * 12 + [23] * 12


def test_other_camera_names_need_the_rename_map(tiny, tmp_path):
    folder = tiny_smolvla.write_dataset(tmp_path / "data", episodes=1, camera="observation.images.top")
    teacher = tiny.teacher()
    with pytest.raises(
        DatasetRejected,
        match=r"spec\.dataset\.renameMap.*observation\.images\.top: observation\.images\.front",
    ):
        load_frames(folder, SPEC, teacher)
    mapped = Dataset(uri="file:///dataset", rename_map={"observation.images.top": tiny_smolvla.CAMERA})
    assert tiny_smolvla.CAMERA in load_frames(folder, mapped, teacher).observations(torch.tensor([0]))
    with pytest.raises(DatasetRejected, match=r"no feature 'observation\.images\.side'"):
        load_frames(folder, Dataset(uri="file:///d", rename_map={"observation.images.side": "x"}), teacher)


@pytest.mark.parametrize(
    ("rename_map", "more", "said"),
    [
        (
            {tiny_smolvla.CAMERA: "x"},
            (),
            rf"it calls {tiny_smolvla.CAMERA} 'x', and the policy needs .*leave that pair",
        ),
        (
            {},
            ("observation.images.side",),
            "take observation.images.side out of input_features in a copy of its config",
        ),
    ],
)
def test_a_camera_that_is_missing_without_another_to_map(tiny, rename_map, more, said):
    teacher = tiny.teacher()
    teacher.cameras += more
    with pytest.raises(DatasetRejected, match=said):
        load_frames(tiny.dataset_folder, Dataset(uri="file:///d", rename_map=rename_map), teacher)


def test_another_robot_is_refused(tiny, monkeypatch):
    teacher = tiny.teacher()
    teacher.action_dim = 5
    with pytest.raises(DatasetRejected, match=r"action has shape \(4,\), the policy's has \(5,\)"):
        tiny.frames(teacher)


def test_a_folder_that_is_no_dataset_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DatasetRejected, match="LeRobotDataset v3"):
        load_frames(tmp_path, SPEC, tiny.teacher())


@given(st.integers(2, 100))
def test_held_out_episodes_are_not_trained_on(episodes):
    episode_N = np.repeat(np.arange(episodes), 3)
    training, held_out = hold_out(episode_N)
    assert not set(training) & set(held_out)
    assert len(training) + len(held_out) == len(episode_N)
    assert len(held_out) >= 3
    assert len(training) >= len(held_out)


@pytest.mark.parametrize(("episodes", "held"), [(45, {19, 39}), (20, {19}), (19, {18}), (2, {1})])
def test_every_twentieth_episode_is_held_out_or_the_last_of_few(episodes, held):
    episode_N = np.repeat(np.arange(episodes), 3)
    assert set(episode_N[hold_out(episode_N)[1]].tolist()) == held


@given(st.integers(1, 20), st.integers(0, 100), st.integers(0, 30))
def test_order_depends_on_the_position_alone(count, position, size):
    whole = Order(0, "x", count).take(0, position + size)
    assert torch.equal(Order(0, "x", count).take(position, size), whole[position:])
    assert sorted(Order(0, "x", count).take(0, count).tolist()) == list(range(count))
