"""Train the quickstart's teacher: a small LeRobot SmolVLA on the recorded demonstrations.

The folder it writes is what ``save_pretrained`` writes, plus ``vlm/``. ``config.json`` names that folder
as ``vlm``, relative to the checkpoint; README.md says what a loader has to pass.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from subject import ACTION_NAMES, QUICKSTART, Course, Subject
from tiny_vlm import write_vlm_folder

from flowstill.policies.interface import STATE

CHUNK = 16
EXECUTED = 8
VLM = "vlm"
LEAST_DEVIATION = 1e-3
"""Of a number of the state: what never moves in the demonstrations must not become huge when it moves a little."""


@dataclass(frozen=True)
class Demonstrations:
    """Frames as training samples. N frames, chunks of H actions, P frames to train on.

    Attributes:
        state_NS: raw states.
        action_ND: raw actions.
        last_N: index of the last frame of each frame's episode.
        pictured_P: the frames to train on: all, or those with a picture.
        picture_PHWC: their pictures, uint8; None: black.
    """

    state_NS: torch.Tensor
    action_ND: torch.Tensor
    last_N: torch.Tensor
    pictured_P: torch.Tensor
    picture_PHWC: torch.Tensor | None

    @classmethod
    def load(cls, path: Path, episodes: int | None) -> Demonstrations:
        """Read what ``record_demonstrations.py`` wrote; the first ``episodes`` of it, or all."""
        arrays = np.load(path)
        length = arrays["length"][:episodes]
        frames = int(length.sum())
        last = np.repeat(np.cumsum(length) - 1, length)
        pictured = arrays["pictured"] if "pictured" in arrays else np.arange(frames)
        pictured = pictured[pictured < frames]
        return cls(
            torch.from_numpy(arrays["state"][:frames]),
            torch.from_numpy(arrays["action"][:frames]),
            torch.from_numpy(last),
            torch.from_numpy(pictured),
            torch.from_numpy(arrays["picture"][: len(pictured)]) if "picture" in arrays else None,
        )

    def stats(self) -> dict[str, dict[str, torch.Tensor]]:
        """Mean and standard deviation, as LeRobot's normaliser reads them."""
        named = {STATE: self.state_NS, "action": self.action_ND}
        return {name: {"mean": x.mean(0), "std": x.std(0).clamp_min(LEAST_DEVIATION)} for name, x in named.items()}

    def chunks(self, index_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Action chunks (B, H, D) from the frames on, and which of their steps are past the end (B, H)."""
        wanted_BH = index_B[:, None] + torch.arange(CHUNK)
        last_B1 = self.last_N[index_B][:, None]
        return self.action_ND[torch.minimum(wanted_BH, last_B1)], wanted_BH > last_B1

    def pictures(self, row_B: torch.Tensor, size: int) -> torch.Tensor:
        """Pictures in [0, 1] of rows of ``pictured_P``, (B, 3, size, size)."""
        if self.picture_PHWC is None:
            return torch.zeros(len(row_B), 3, size, size)
        return self.picture_PHWC[row_B].permute(0, 3, 1, 2).float() / 255.0


def make_config(vlm: str, subject: Subject) -> SmolVLAConfig:
    """The teacher's configuration: 0.8 M parameters, the usual 32 padded state and action dimensions."""
    size = subject.image_size
    return SmolVLAConfig(
        input_features={
            STATE: PolicyFeature(FeatureType.STATE, (len(subject.state_names),)),
            subject.camera: PolicyFeature(FeatureType.VISUAL, (3, size, size)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (len(ACTION_NAMES),))},
        device="cpu",
        push_to_hub=False,
        chunk_size=CHUNK,
        n_action_steps=EXECUTED,
        num_steps=10,
        resize_imgs_with_padding=(size, size),
        tokenizer_max_length=max(8, len(subject.instruction.split()) + 2),
        vlm_model_name=vlm,
        load_vlm_weights=False,
        train_expert_only=False,
        freeze_vision_encoder=False,
        num_vlm_layers=0,
        expert_width_multiplier=1.0,
    )


def learning_rate(step: int, steps: int, peak: float, warmup: int = 300) -> float:
    """Linear warm-up, then a cosine down to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


class Trainer:
    """Flow matching with LeRobot's own loss, and a moving average of the weights."""

    def __init__(
        self, policy: SmolVLAPolicy, data: Demonstrations, subject: Subject, ema: float, state_noise: float
    ) -> None:
        self.policy, self.data, self.subject, self.ema = policy, data, subject, ema
        self.noise_S = state_noise * data.state_NS.std(0)
        self.preprocess, self.postprocess = make_smolvla_pre_post_processors(policy.config, data.stats())
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, betas=(0.9, 0.95), weight_decay=1e-4)
        self.average = [p.detach().clone() for p in self.parameters]
        self.order = torch.empty(0, dtype=torch.long)

    def batch(self, size: int) -> dict[str, torch.Tensor]:
        """The next samples of a shuffled pass, through the policy's own preprocessor."""
        if len(self.order) < size:
            self.order = torch.randperm(len(self.data.pictured_P))
        row_B, self.order = self.order[:size], self.order[size:]
        index_B = self.data.pictured_P[row_B]
        action_BHD, past_BH = self.data.chunks(index_B)
        sample = {
            STATE: self.data.state_NS[index_B] + self.noise_S * torch.randn(size, len(self.noise_S)),
            self.subject.camera: self.data.pictures(row_B, self.subject.image_size),
            "action": action_BHD,
            "task": [self.subject.instruction] * size,
        }
        ready = self.preprocess(sample)
        keys = (STATE, self.subject.camera, "action", OBS_LANGUAGE_TOKENS, OBS_LANGUAGE_ATTENTION_MASK)
        return {key: ready[key] for key in keys} | {"action_is_pad": past_BH}

    def step(self, step: int, steps: int, peak: float, size: int) -> float:
        """One update; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        self.policy.train()
        loss, _ = self.policy.forward(self.batch(size))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        decay = min(self.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        return float(loss.detach())

    def save(self, folder: Path) -> None:
        """Write the averaged weights and the processors as a LeRobot checkpoint."""
        raw = [p.detach().clone() for p in self.parameters]
        torch._foreach_copy_([p.data for p in self.parameters], self.average)
        self.policy.save_pretrained(folder)
        self.preprocess.save_pretrained(folder)
        self.postprocess.save_pretrained(folder)
        make_relocatable(folder)
        torch._foreach_copy_([p.data for p in self.parameters], raw)


def make_relocatable(folder: Path) -> None:
    """Replace the absolute path of the VLM folder by its name, which a loader resolves beside config.json."""
    absolute = str((folder / VLM).resolve())
    for name in ("config.json", "policy_preprocessor.json", "policy_postprocessor.json"):
        text = (folder / name).read_text().replace(json.dumps(absolute), json.dumps(VLM))
        if str(folder.resolve()) in text:
            raise RuntimeError(f"{name} still names {folder}: it would not load anywhere else")
        (folder / name).write_text(text)


def train(subject: Subject, data: Demonstrations, output: Path, course: Course) -> None:
    """Write the teacher of ``subject`` to ``output``, with a checkpoint and a line of progress now and then."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.manual_seed(course.seed)
    write_vlm_folder(output / VLM, subject.instruction, subject.image_size)
    policy = SmolVLAPolicy(make_config(str((output / VLM).resolve()), subject))
    print(f"{sum(p.numel() for p in policy.parameters()):,} parameters", flush=True)
    trainer = Trainer(policy, data, subject, course.ema, course.state_noise)
    last = course.stop_after or course.steps
    started, losses = time.monotonic(), []
    for step in range(last):
        losses.append(trainer.step(step, course.steps, course.learning_rate, course.batch_size))
        if (step + 1) % 200 == 0:
            spent = time.monotonic() - started
            print(f"step {step + 1} loss {np.mean(losses[-200:]):.4f} {spent:.0f} s", flush=True)
        if (step + 1) % course.save_every == 0 or step + 1 == last:
            trainer.save(output)


def main() -> None:
    """Command line."""
    usual = Course()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arrays", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--episodes", type=int)
    parser.add_argument("--steps", type=int, default=usual.steps)
    parser.add_argument("--batch-size", type=int, default=usual.batch_size)
    parser.add_argument("--learning-rate", type=float, default=usual.learning_rate)
    parser.add_argument("--ema", type=float, default=usual.ema)
    parser.add_argument(
        "--state-noise", type=float, default=usual.state_noise, help="in standard deviations of the state"
    )
    parser.add_argument("--stop-after", type=int, help="stop here, on the schedule of --steps")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=usual.save_every)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    course = Course(**{field.name: getattr(arguments, field.name) for field in fields(Course)})
    train(QUICKSTART, Demonstrations.load(arguments.arrays, arguments.episodes), arguments.output, course)


if __name__ == "__main__":
    main()
