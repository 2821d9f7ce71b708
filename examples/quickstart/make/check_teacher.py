"""Drive many episodes in lockstep with the teacher at several step counts, with one draw and with eight.

Every arm sees the same episode seeds, and the same noise for the same (episode, chunk, draw).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lerobot_policy_flowstill.draws import densest_chunk
from loading import load_teacher

from flowstill.policies.interface import STATE
from flowstill_evaluator.suites.metaworld_env import IMAGE_SIZE
from flowstill_evaluator.suites.reach_around import BLACK_CAMERA, INSTRUCTION, ReachAroundEnv

EXECUTED = 8
NEIGHBOURS = 3
Sampler = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ArmResult:
    """Counts over the episodes of one arm."""

    success: int
    touched: int
    clamped: int
    mean_steps: float
    seconds: float


def episode_noise(seed: int, chunk: int, draws: int, shape: tuple[int, int]) -> torch.Tensor:
    """Noise (K, H, D) of one decision; the first draw is the same whatever ``draws`` is."""
    rows = [np.random.default_rng([seed, chunk, k]).standard_normal(shape) for k in range(draws)]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


class Policy:
    """The teacher's processors round any sampler of normalised chunks."""

    def __init__(self, folder: Path) -> None:
        self.policy, self.preprocess, self.postprocess = load_teacher(folder)
        config = self.policy.config
        self.noise_shape = (config.chunk_size, config.max_action_dim)
        self.action_size = config.action_feature.shape[0]

    def prepare(self, state_BS: torch.Tensor) -> dict[str, torch.Tensor]:
        """Raw states → what the model takes."""
        size = len(state_BS)
        image = torch.zeros(size, 3, IMAGE_SIZE, IMAGE_SIZE)
        return self.preprocess({STATE: state_BS, BLACK_CAMERA: image, "task": [INSTRUCTION] * size})

    def sampler(self, steps: int) -> Sampler:
        """LeRobot's own ``predict_action_chunk`` with ``steps`` Euler steps."""

        def sample(state_BS: torch.Tensor, noise_BHD: torch.Tensor) -> torch.Tensor:
            self.policy.config.num_steps = steps
            self.policy.reset()
            return self.policy.predict_action_chunk(self.prepare(state_BS), noise=noise_BHD)

        return sample

    def act(self, sample: Sampler, state_BS: torch.Tensor, noise_BKHD: torch.Tensor) -> np.ndarray:
        """Chunks to execute, in action units (B, EXECUTED, D)."""
        batch, draws = noise_BKHD.shape[:2]
        chunk_BHD = sample(state_BS.repeat_interleave(draws, 0), noise_BKHD.flatten(0, 1))
        chunk_BKHD = chunk_BHD.unflatten(0, (batch, draws))
        chosen_BHD, _, _ = densest_chunk(
            chunk_BKHD, action_steps=EXECUTED, action_dim=self.action_size, neighbours=NEIGHBOURS
        )
        flat = self.postprocess(chosen_BHD[:, :EXECUTED].reshape(-1, self.action_size))
        return flat.reshape(batch, EXECUTED, -1).numpy()


class Fleet:
    """Environments that are reused from arm to arm: loading the scene costs more than an episode."""

    def __init__(self, count: int) -> None:
        self.envs = [ReachAroundEnv() for _ in range(count)]

    def run(self, policy: Policy, sample: Sampler, draws: int, seeds: list[int]) -> ArmResult:
        """One arm over all seeds, ``len(envs)`` at a time."""
        started, outcomes = time.monotonic(), []
        for first in range(0, len(seeds), len(self.envs)):
            outcomes += self._lockstep(policy, sample, draws, seeds[first : first + len(self.envs)])
        success, touched, clamped, steps = (np.array(column) for column in zip(*outcomes, strict=True))
        return ArmResult(
            int(success.sum()),
            int(touched.sum()),
            int((clamped > 0).sum()),
            float(steps.mean()),
            time.monotonic() - started,
        )

    def _lockstep(
        self, policy: Policy, sample: Sampler, draws: int, seeds: list[int]
    ) -> list[tuple[bool, bool, int, int]]:
        state = {i: self.envs[i].reset(seed)[STATE] for i, seed in enumerate(seeds)}
        outcome = [(False, False, 0, 0)] * len(seeds)
        chunk = 0
        while state:
            alive = list(state)
            noise = [episode_noise(seeds[i], chunk, draws, policy.noise_shape) for i in alive]
            states = torch.from_numpy(np.stack([state[i] for i in alive]))
            for i, actions in zip(alive, policy.act(sample, states, torch.stack(noise)), strict=True):
                for action in actions:
                    result = self.envs[i].step(action)
                    _, _, clamped, steps = outcome[i]
                    outcome[i] = (result.success, result.touched, clamped + result.clamped, steps + 1)
                    state[i] = self.envs[i].observe()[STATE]
                    if result.done:
                        del state[i]
                        break
            chunk += 1
        return outcome


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--arms", nargs="+", default=["10", "4", "2", "1", "10x8", "1x8"])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    policy, fleet = Policy(arguments.teacher), Fleet(min(50, arguments.episodes))
    seeds = list(range(arguments.first_seed, arguments.first_seed + arguments.episodes))
    for arm in arguments.arms:
        steps, _, draws = arm.partition("x")
        result = fleet.run(policy, policy.sampler(int(steps)), int(draws or 1), seeds)
        print(
            f"teacher@{steps} draws {draws or 1}: {result.success} of {len(seeds)} "
            f"(touched {result.touched}, clamped {result.clamped}, "
            f"{result.mean_steps:.0f} steps, {result.seconds:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
