"""What each step of training sees; a function of the step alone.

A step's samples are those of all processes together, and each process computes its share of them in
``gradientAccumulation`` parts. The random numbers are drawn for all samples, and a part takes its rows: so neither
changes what is learnt.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lerobot_policy_flowstill.prefix import Prefix, concatenate
from torch import Tensor

from flowstill.api.distilljob import Method, Training
from flowstill.policies.flow import FlowPolicy, time_law
from flowstill_trainer.bank import Bank, jitter_noise
from flowstill_trainer.data import Frames
from flowstill_trainer.methods.snapflow import Counts, Samples, split
from flowstill_trainer.randomness import Order, generator


@dataclass(frozen=True)
class Sampled:
    """The samples of one update: which they are, and their random numbers, all on the CPU.

    Attributes:
        frame_B: the frame of every row; the first F rows are flow matching, the other C are jumps.
        noise_BHD: where every row starts.
        jitter_BS: what is added to the normalised states.
        t_F: flow times.
        jump_C: the jumps' rows of the bank, or their places among the training frames where there is none.
    """

    frame_B: Tensor
    noise_BHD: Tensor
    jitter_BS: Tensor
    t_F: Tensor
    jump_C: Tensor

    def part(self, number: int, parts: int) -> "Sampled":
        """Every ``parts``-th row from ``number`` on: sizes differ by one at most, and both kinds are spread evenly."""
        flow = len(self.t_F)
        rows = slice(number, None, parts)
        jumps = slice((number - flow) % parts, None, parts)
        return Sampled(
            self.frame_B[rows], self.noise_BHD[rows], self.jitter_BS[rows], self.t_F[rows], self.jump_C[jumps]
        )


@dataclass(frozen=True)
class Batch:
    """What one pass of the networks sees: an update's samples, or a part of them.

    Attributes:
        frame_B: the frame of every row.
        observations: preprocessed observations of the first rows; None when every prefix is known.
        prefix: of the remaining rows, where it is known already.
        samples: noise, times and targets of all rows.
        teacher_observations: the jumps' rows as the teacher sees them; None where its prefix is the student's, or
            is not needed.
    """

    frame_B: Tensor
    observations: dict[str, Any] | None
    prefix: Prefix | None
    samples: Samples
    teacher_observations: dict[str, Any] | None = None

    def encode(self, policy: FlowPolicy) -> Prefix:
        """The prefix of all rows, by at most one pass of the VLM."""
        parts = [] if self.observations is None else [policy.encode_prefix(self.observations)]
        parts += [] if self.prefix is None else [self.prefix]
        return parts[0] if len(parts) == 1 else concatenate(parts)

    def encode_jumps(self, teacher: FlowPolicy) -> Prefix:
        """The teacher's prefix of the jumps' rows, by a pass of its own; for batches without a bank."""
        if self.teacher_observations is not None:
            return teacher.encode_prefix(self.teacher_observations)
        assert self.observations is not None
        return teacher.encode_prefix(self.observations)[len(self.samples.t_F) :]


@dataclass(frozen=True)
class Batches:
    """What each step sees."""

    frames: Frames
    bank: Bank | None
    policy: FlowPolicy
    teacher: FlowPolicy
    method: Method
    training: Training

    def orders(self) -> tuple[Order, Order]:
        """Shuffled passes over the training frames and over the bank."""
        seed = self.training.seed
        banked = len(self.bank.frame_N) if self.bank is not None else len(self.frames.training_T)
        return Order(seed, "frames", len(self.frames.training_T)), Order(seed, "rollouts", banked)

    def iterate(self, first: int) -> Iterator[Sampled]:
        """The samples of each step, from step ``first`` on."""
        order, rollouts = self.orders()
        flow, jumps = split(self.training.batch_size, self.method.mix_ratio)
        for step in range(first, self.training.steps):
            yield self._sample(step, order.take(step * flow, flow), rollouts.take(step * jumps, jumps))

    def _sample(self, step: int, flow_F: Tensor, jump_C: Tensor) -> Sampled:
        random, policy, bank = generator(self.training.seed, "step", step), self.policy, self.bank
        flow, size = len(flow_F), len(flow_F) + len(jump_C)
        noise_BHD = torch.randn((size, policy.chunk_size, policy.padded_action_dim), generator=random)
        jitter_BS = jitter_noise(self.method.state_jitter, size, policy.state_dim, random)
        t_F = time_law(torch.rand(flow, generator=random))
        jump_frame_C = self.frames.training_T[jump_C] if bank is None else bank.frame_N[jump_C]
        if bank is not None:
            noise_BHD[flow:], jitter_BS[flow:] = bank.noise_NHD[jump_C], bank.jitter_NS[jump_C]
        return Sampled(torch.cat([self.frames.training_T[flow_F], jump_frame_C]), noise_BHD, jitter_BS, t_F, jump_C)

    def expect(self, sampled: Sampled, numbers: Iterable[int], parts: int) -> None:
        """Begin to read the images of these parts of an update, which will be asked for next."""
        rows = [self._seen(sampled.part(number, parts)) for number in numbers]
        self.frames.images.expect(torch.cat(rows))

    def _seen(self, part: Sampled) -> Tensor:
        """The frames of the rows whose prefix is not known yet, which are the first."""
        known = self.bank is not None and self.bank.prefix is not None
        return part.frame_B[: len(part.t_F)] if known else part.frame_B

    def batch(self, sampled: Sampled, number: int = 0, parts: int = 1) -> Batch:
        """One of the parts of an update, or all of it: images are read and preprocessed for these rows only."""
        part, bank, to = sampled.part(number, parts), self.bank, self.policy.device
        flow, seen = len(part.t_F), len(self._seen(part))
        prefix, rollout_CHD = None, None
        if bank is not None:
            rollout_CHD = bank.chunk_NHD[part.jump_C].to(to)
            if bank.prefix is not None and len(part.jump_C):
                prefix = bank.prefix[part.jump_C.to(to)]
        observations, action_FHD, valid_FH = self._observe(part.frame_B[:seen], part.jitter_BS[:seen], flow)
        samples = Samples(
            action_FHD, valid_FH.to(to), part.t_F.to(to), part.noise_BHD.to(to), rollout_CHD, self._counts(sampled)
        )
        theirs = self._as_teacher(part.frame_B[flow:], part.jitter_BS[flow:])
        return Batch(part.frame_B, observations, prefix, samples, theirs)

    def _counts(self, sampled: Sampled) -> Counts:
        """How many steps of chunks enter each mean of the update's loss, over all its parts."""
        flow = len(sampled.t_F)
        _, valid_FH = self.frames.chunks(sampled.frame_B[:flow])
        jump = torch.tensor(len(sampled.jump_C) * self.policy.chunk_size)
        return Counts(valid_FH.sum().to(self.policy.device), jump.to(self.policy.device))

    def _as_teacher(self, frame_C: Tensor, jitter_CS: Tensor) -> dict[str, Any] | None:
        """The same observations with the same jitter through the teacher's processor, where that gives others."""
        if self.bank is not None or not self.policy.state_out or len(frame_C) == 0:
            return None
        return self.teacher.preprocess(self.frames.observations(frame_C), jitter_CS)

    def _observe(self, frame_B: Tensor, jitter_BS: Tensor, flow: int) -> tuple[dict[str, Any] | None, Tensor, Tensor]:
        """Preprocessed observations with jitter; the first rows' padded chunks (F, H, D) and validity (F, H)."""
        policy = self.policy
        if len(frame_B) == 0:
            nothing = torch.zeros((0, policy.chunk_size, policy.padded_action_dim), device=policy.device)
            return None, nothing, torch.zeros(nothing.shape[:2], dtype=torch.bool)
        action_BHA, valid_BH = self.frames.chunks(frame_B)
        batch = policy.preprocess(self.frames.observations(frame_B) | {"action": action_BHA}, jitter_BS)
        return batch, policy.prepare_action(batch)[:flow], valid_BH[:flow]
