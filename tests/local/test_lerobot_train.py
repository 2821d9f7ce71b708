"""``lerobot-train`` with a base that has a camera more than the data, under another name: Flowstill takes both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowstill.api.distilljob import Dataset
from flowstill.policies.registry import load_flow_policy
from flowstill_trainer.data import load_frames
from tests.support import tiny_smolvla
from tests.support.fine_tune import add_camera
from tests.support.tiny_run import KINDS, Tiny, small, small_path
from tests.support.tiny_smolvla import CAMERA

TOP = "observation.images.top"


def base(root: Path, kind: str) -> Path:
    """A checkpoint that this machine's LeRobot finds its tokenizer for, with two cameras."""
    with small(kind):
        folder = Tiny(root, kind).teacher_folder
    add_camera(folder)
    place = folder / ("vlm" if kind == "smolvla" else "tokenizer")
    for name in ("config.json", "policy_preprocessor.json"):
        text = (folder / name).read_text()
        for elsewhere in ('"vlm"', '"google/paligemma-3b-pt-224"'):
            text = text.replace(elsewhere, json.dumps(str(place)))
        (folder / name).write_text(text)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_what_lerobot_trained_takes_the_data_that_it_was_trained_on(kind: str, tmp_path: Path) -> None:
    data = tiny_smolvla.write_dataset(tmp_path / "data", camera=TOP)
    command = [
        str(Path(sys.executable).with_name("lerobot-train")),
        f"--policy.path={base(tmp_path / 'base', kind)}",
        f"--dataset.root={data}",
        f"--rename_map={json.dumps({TOP: CAMERA})}",
        f"--output_dir={tmp_path / 'out'}",
        *("--dataset.repo_id=test/tiny", "--steps=1", "--batch_size=2", "--num_workers=0", "--policy.device=cpu"),
        *("--policy.push_to_hub=false", "--wandb.enable=false"),
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": small_path()}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]

    with small(kind):
        teacher = load_flow_policy(tmp_path / "out/checkpoints/last/pretrained_model")
    assert (teacher.cameras, teacher.renamed) == ((CAMERA,), {TOP: CAMERA})
    assert CAMERA in load_frames(data, Dataset(uri="file:///data"), teacher).images.pixels
