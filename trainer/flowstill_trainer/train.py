"""The training loop: what happens at a step, and what is kept between steps."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lerobot_policy_flowstill.prefix import Prefix, concatenate
from torch import Tensor

from flowstill.api.distilljob import Method, Training
from flowstill.errors import Interrupted, NonFiniteLoss
from flowstill.policies.flow import FlowPolicy, time_law
from flowstill_trainer.bank import Bank, jitter_noise
from flowstill_trainer.checkpoint import Checkpoint, CheckpointFolder, Tensors
from flowstill_trainer.data import Frames
from flowstill_trainer.methods.snapflow import Samples, SnapFlow, split
from flowstill_trainer.randomness import Order, generator

FRAMES_NAMED = 16
"""How many frames of a batch an error names."""
Progress = Callable[[int, int, float, float], None]
"""Step, total, loss, samples per second."""


def learning_rate(step: int, training: Training) -> float:
    """Linear warm-up, then half a cosine down to zero. ``step`` counts updates done."""
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    rest = max(1, training.steps - training.warmup_steps)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - training.warmup_steps) / rest))


def autocast(training: Training, device: torch.device) -> torch.autocast:
    """bf16 where the spec asks for it, else nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=training.precision == "bf16")


@dataclass(frozen=True)
class Batch:
    """What one step sees.

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


@dataclass(frozen=True)
class Batches:
    """What each step sees; a function of the step alone."""

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

    def iterate(self, first: int) -> Iterator[Batch]:
        """Batches from step ``first`` on."""
        order, rollouts = self.orders()
        flow, jumps = split(self.training.batch_size, self.method.mix_ratio)
        for step in range(first, self.training.steps):
            yield self._batch(step, order.take(step * flow, flow), rollouts.take(step * jumps, jumps))

    def _batch(self, step: int, flow_F: Tensor, jump_C: Tensor) -> Batch:
        random, policy, bank = generator(self.training.seed, "step", step), self.policy, self.bank
        flow, size, to = len(flow_F), len(flow_F) + len(jump_C), policy.device
        frame_F = self.frames.training_T[flow_F]
        noise_BHD = torch.randn((size, policy.chunk_size, policy.padded_action_dim), generator=random)
        jitter_BS = jitter_noise(self.method.state_jitter, size, policy.state_dim, random)
        t_F = time_law(torch.rand(flow, generator=random))
        prefix, rollout_CHD = None, None
        if bank is None:
            frame_B = torch.cat([frame_F, self.frames.training_T[jump_C]])
        else:
            frame_B = torch.cat([frame_F, bank.frame_N[jump_C]])
            noise_BHD[flow:], jitter_BS[flow:] = bank.noise_NHD[jump_C], bank.jitter_NS[jump_C]
            rollout_CHD = bank.chunk_NHD[jump_C].to(to)
            if bank.prefix is not None and len(jump_C):
                prefix = bank.prefix[jump_C.to(to)]
        seen = size if prefix is None else flow
        observations, action_FHD, valid_FH = self._observe(frame_B[:seen], jitter_BS[:seen], flow)
        samples = Samples(action_FHD, valid_FH.to(to), t_F.to(to), noise_BHD.to(to), rollout_CHD)
        return Batch(frame_B, observations, prefix, samples, self._as_teacher(frame_B[flow:], jitter_BS[flow:]))

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


class Trainer:
    """A student under training.

    Attributes:
        step: updates done.
        seconds: trained so far, over all attempts.
    """

    def __init__(
        self, student: FlowPolicy, teacher: FlowPolicy, batches: Batches, checkpoints: CheckpointFolder
    ) -> None:
        self.student, self.teacher, self.batches, self.checkpoints = student, teacher, batches, checkpoints
        self.training, method = batches.training, batches.method
        self.method = SnapFlow(
            method.target_steps, method.mix_ratio, method.consistency_weight, own_targets=not student.state_out
        )
        self.parameters: dict[str, Tensor] = dict(student.trained())
        config = student.policy.config
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=self.training.learning_rate,
            betas=config.optimizer_betas,
            eps=config.optimizer_eps,
            weight_decay=config.optimizer_weight_decay,
        )
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()} if self.training.ema else {}
        self.step, self.seconds = 0, 0.0

    def run(self, progress: Progress, stopped: Callable[[], bool]) -> None:
        """Train to the end, from the last checkpoint if there is one; then hold the published weights.

        Raises:
            Interrupted: ``stopped()``; a checkpoint is saved.
            NonFiniteLoss: loss or gradient is NaN or infinite; nothing of that step is kept.
        """
        found = self.checkpoints.latest()
        if found is not None:
            self.restore(found)
        for batch in self.batches.iterate(self.step):
            if stopped():
                self.checkpoints.save(self.state())
                raise Interrupted(f"stopped at step {self.step} of {self.training.steps}; the checkpoint is saved")
            started = time.monotonic()
            loss = self.update(batch)
            spent = time.monotonic() - started
            self.seconds += spent
            if self.step % self.training.checkpoint_every == 0 or self.step == self.training.steps:
                self.checkpoints.save(self.state())
            progress(self.step, self.training.steps, loss, self.training.batch_size / max(spent, 1e-9))
        self.use_average()

    def update(self, batch: Batch) -> float:
        """One step of the optimizer; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.training)
        teacher = self.teacher if self.method.needs_teacher else None
        with autocast(self.training, self.student.device):
            prefix = batch.encode(self.student)
            seen = batch.teacher_observations
            other = None if seen is None else self.teacher.encode_prefix(seen)
            loss = self.method.loss(self.student, teacher, prefix, batch.samples, other).total
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.training.gradient_clip)
        value = float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            frames = few_frames(self.batches.frames.index_N[batch.frame_B])
            raise NonFiniteLoss(
                f"step {self.step + 1}: loss {value}, gradient norm {float(norm)}, on the dataset's frames {frames}; "
                "look at them, lower learningRate or use precision fp32. The checkpoints before this step are kept "
                f"in {self.checkpoints.root}",
                field="spec.training",
            )
        self.optimizer.step()
        self.step += 1
        if self.average:
            decay = min(self.training.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)
        return value

    def state(self) -> Checkpoint:
        """Everything that this run is now."""
        moments: Tensors = {}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                moments[f"{name}/{key}"] = value
        weights = {n: p.detach() for n, p in self.parameters.items()}
        return Checkpoint(self.step, weights, self.average, moments, self.seconds)

    def restore(self, found: Checkpoint) -> None:
        """Become what was saved, bit for bit."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(found.weights[name])
                if self.average:
                    self.average[name].copy_(found.average[name])
        for name, value in found.optimizer.items():
            owner, _, key = name.rpartition("/")
            parameter = self.parameters[owner]
            place = value if key == "step" else value.to(parameter.device)
            self.optimizer.state[parameter][key] = place
        self.step, self.seconds = found.step, found.seconds

    def use_average(self) -> None:
        """Put the moving average in place of the weights, if there is one."""
        with torch.no_grad():
            for name, value in self.average.items():
                self.parameters[name].copy_(value)


def few_frames(index_B: Tensor) -> str:
    """The different numbers of a batch, the first of them when they are many."""
    frames = index_B.unique().tolist()
    more = f" and {len(frames) - FRAMES_NAMED} more" if len(frames) > FRAMES_NAMED else ""
    return ", ".join(map(str, frames[:FRAMES_NAMED])) + more
