"""The quickstart's shipped teacher and dataset are the ones that the README of their scripts describes."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from safetensors.numpy import load_file

from flowstill.artifacts.digests import tree_digest
from flowstill.policies.interface import STATE
from flowstill_evaluator.suites.reach_around import POST_XY

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart"
MAKE = QUICKSTART / "make"
README = MAKE / "README.md"
FOLDERS = ("teacher", "dataset")


@dataclass(frozen=True)
class Shape:
    """How large a dataset is, and how many of its episodes pass the post on which side."""

    episodes: int
    frames: int
    negative_x: int
    positive_x: int


def bytes_stand_in_readme(folder):
    """Whether ``digest.sh`` finds the folder's digest in the README; what it printed."""
    done = subprocess.run(
        ["sh", MAKE / "digest.sh", "--check", README, folder], capture_output=True, text=True, check=False
    )
    return done.returncode == 0, done.stdout + done.stderr


def episodes_of(folder):
    """States and actions of each episode: a list of (T, 7) and (T, 4) arrays."""
    table = parquet.read_table(folder / "data", columns=[STATE, "action", "episode_index"])
    state, action = (
        table[key].combine_chunks().flatten().to_numpy().reshape(len(table), -1) for key in (STATE, "action")
    )
    starts = np.flatnonzero(np.diff(table["episode_index"].to_numpy())) + 1
    return list(zip(np.split(state, starts), np.split(action, starts), strict=True))


def lateral_at_post(state):
    """The hand's x, in metres, in the frame in which it is most nearly beside the post's axis."""
    return state[np.abs(state[:, 1] - POST_XY[1]).argmin(), 0] - POST_XY[0]


def shape_of(folder):
    states = [state for state, _ in episodes_of(folder)]
    x = np.array([lateral_at_post(state) for state in states])
    return Shape(len(x), sum(map(len, states)), int((x < 0).sum()), int((x > 0).sum()))


def stated_shape():
    """The README's own numbers."""
    found = re.search(
        r"(\d+) episodes, (\d+) frames; the hand passes the post at negative x in (\d+), at positive x in (\d+)",
        " ".join(README.read_text().split()),
    )
    assert found, f"{README} does not say how large the dataset is"
    return Shape(*map(int, found.groups()))


@pytest.fixture
def scripts(monkeypatch):
    """The scripts are no package; they import each other by name."""
    monkeypatch.syspath_prepend(str(MAKE))


@pytest.mark.parametrize("name", FOLDERS)
def test_shipped_bytes_have_the_digests_of_the_readme(name):
    same, said = bytes_stand_in_readme(QUICKSTART / name)
    assert same, said
    assert tree_digest(QUICKSTART / name) in README.read_text()


@pytest.mark.parametrize("name", FOLDERS)
def test_one_changed_byte_is_seen(name, tmp_path):
    copy = tmp_path / name
    shutil.copytree(QUICKSTART / name, copy)
    assert bytes_stand_in_readme(copy)[0]
    largest = max((path for path in copy.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    same, said = bytes_stand_in_readme(copy)
    assert not same
    assert "does not stand in" in said


def test_a_folder_that_is_not_there_is_no_match(tmp_path):
    assert not bytes_stand_in_readme(tmp_path / "teacher")[0]


def test_shipped_dataset_has_the_shape_of_the_readme():
    assert shape_of(QUICKSTART / "dataset") == stated_shape()


def test_content_of_the_shipped_dataset_is_that_of_the_readme(scripts):
    from content_digest import content_digest

    assert f"{content_digest(QUICKSTART / 'dataset')} dataset" in README.read_text().splitlines()


def test_content_digest_sees_values_and_not_the_order_of_keys(scripts, tmp_path):
    from content_digest import content_digest

    shutil.copytree(QUICKSTART / "dataset" / "meta", tmp_path, dirs_exist_ok=True)
    before = content_digest(tmp_path)
    stats = json.loads((tmp_path / "stats.json").read_text())
    (tmp_path / "stats.json").write_text(json.dumps(dict(reversed(stats.items()))))
    assert content_digest(tmp_path) == before
    stats["action"]["mean"][0] += 1e-6
    (tmp_path / "stats.json").write_text(json.dumps(stats))
    assert content_digest(tmp_path) != before


def test_teacher_was_normalised_by_demonstrations_of_this_kind():
    """The dataset is the first eighth of what the teacher saw, so their means nearly agree."""
    teacher = load_file(QUICKSTART / "teacher" / "policy_preprocessor_step_5_normalizer_processor.safetensors")
    stats = json.loads((QUICKSTART / "dataset" / "meta" / "stats.json").read_text())
    for key in (STATE, "action"):
        apart = np.abs(teacher[f"{key}.mean"] - np.array(stats[key]["mean"])) / teacher[f"{key}.std"]
        assert apart.max() < 0.1, f"{key}: {apart.round(3)} standard deviations"
        np.testing.assert_allclose(teacher[f"{key}.std"], stats[key]["std"], rtol=0.05)


def test_recording_anew_gives_the_shipped_episodes(scripts):
    from record_demonstrations import FIRST_SEED, demonstrate

    anew = [kept for seed in range(FIRST_SEED, FIRST_SEED + 3) if (kept := demonstrate(seed)) is not None]
    assert anew
    for demonstration, (state, action) in zip(anew, episodes_of(QUICKSTART / "dataset"), strict=False):
        # Equal to the bit where the README's numbers were made; another processor may round otherwise.
        np.testing.assert_allclose(demonstration.state_TS, state, rtol=0, atol=1e-4)
        np.testing.assert_allclose(demonstration.action_TD, action, rtol=0, atol=1e-3)
