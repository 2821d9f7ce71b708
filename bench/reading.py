"""What it saves to read the images of the next step while this one is computed, when they do not fit into memory.

    .venv/bin/python bench/reading.py

A dataset whose pictures are a video (640 x 480, AV1 as LeRobot writes it), and the quickstart's teacher. Two trainers
take the same steps, ten of one and ten of the other in turn: one is told of the next step's frames, as in a run, the
other is not. Wall clock, since reading beside the computation is the point; PyTorch has one thread. The ratio is of
medians. Losses must be equal.
"""

import argparse
import statistics
import sys
import tempfile
import time
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch

from flowstill.api.distilljob import Dataset, Method, Training
from flowstill.policies.registry import load_flow_policy
from flowstill_trainer.batches import Batches
from flowstill_trainer.checkpoint import CheckpointFolder
from flowstill_trainer.data import ImagesOnDisk, load_frames
from flowstill_trainer.train import Trainer

ROOT = Path(__file__).parents[1]
TEACHER = ROOT / "examples" / "quickstart" / "teacher"
EPISODES, LENGTH, HEIGHT, WIDTH = 4, 60, 480, 640
BLOCK = 10


def write_videos(folder: Path, policy: object) -> Path:
    """A dataset with moving pictures and random numbers that fits the policy."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    sys.path.insert(0, str(ROOT))  # not at the end: site-packages may hold a "tests" of somebody else
    from tests.support.priority import same_priority

    (camera,) = policy.cameras
    dataset = LeRobotDataset.create(
        repo_id="bench/reading", root=folder, fps=10, use_videos=True,
        features={
            "observation.state": {"dtype": "float32", "shape": (policy.state_dim,), "names": None},
            camera: {"dtype": "video", "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]},
            "action": {"dtype": "float32", "shape": (policy.action_dim,), "names": None},
        },
    )  # fmt: skip
    generator = np.random.default_rng(0)
    scene = generator.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    for _ in range(EPISODES):
        for frame in range(LENGTH):
            dataset.add_frame(
                {
                    "observation.state": generator.normal(size=policy.state_dim).astype(np.float32),
                    camera: np.roll(scene, 4 * frame, axis=1),
                    "action": generator.normal(size=policy.action_dim).astype(np.float32),
                    "task": "reach",
                }
            )
        with same_priority():
            dataset.save_episode()
    dataset.finalize()
    return folder


def trainer(dataset: Path, folder: Path, batch_size: int, steps: int) -> Trainer:
    """A run of the quickstart's teacher on the videos, with fresh rollouts of two steps."""
    torch.manual_seed(0)
    teacher = load_flow_policy(TEACHER)
    student = teacher.make_student(draws=8, neighbours=3, action_steps=None, multi_step=True)
    training = Training(batch_size=batch_size, steps=steps, precision="fp32")
    frames = load_frames(dataset, Dataset(uri="file:///videos"), teacher)
    assert isinstance(frames.images, ImagesOnDisk)
    batches = Batches(frames, None, student, teacher, Method(target_steps=2), training)
    return Trainer(student, teacher, batches, CheckpointFolder(folder, "bench", 1))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_videos(Path(folder) / "videos", load_flow_policy(TEACHER))
        steps = (options.blocks + 1) * BLOCK
        arms = {name: trainer(dataset, Path(folder), options.batch_size, steps) for name in ("ahead", "in step")}
        samples = {name: one.batches.iterate(0) for name, one in arms.items()}
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        for block in range(-1, options.blocks):
            losses = set()
            for name, one in arms.items():
                mine = list(islice(samples[name], BLOCK))
                started = time.perf_counter()
                # The last one is told of none, or its reading would slow the other arm down.
                found = [one.update(now, after if name == "ahead" else None) for now, after in pairwise([*mine, None])]
                if block >= 0:
                    seconds[name].append((time.perf_counter() - started) / BLOCK)
                losses.add(tuple(found))
            assert len(losses) == 1, f"the arms do not do the same work: {losses}"
    ahead, plain = (statistics.median(seconds[name]) for name in ("ahead", "in step"))
    print(
        f"batch {options.batch_size}: {plain:.3f} s a step, read ahead {ahead:.3f} s, {plain / ahead:.2f} times as fast"
    )


if __name__ == "__main__":
    main()
