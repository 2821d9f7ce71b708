"""The training loop: what happens at a step, and what is kept between steps."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from flowstill.api.distilljob import Training
from flowstill.errors import Interrupted, NonFiniteLoss
from flowstill.policies.flow import FlowPolicy
from flowstill_trainer.batches import Batch, Batches, Sampled
from flowstill_trainer.checkpoint import Checkpoint, CheckpointFolder, Tensors
from flowstill_trainer.methods.snapflow import SnapFlow

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
        for sampled in self.batches.iterate(self.step):
            if stopped():
                self.checkpoints.save(self.state())
                raise Interrupted(f"stopped at step {self.step} of {self.training.steps}; the checkpoint is saved")
            started = time.monotonic()
            loss = self.update(sampled)
            spent = time.monotonic() - started
            self.seconds += spent
            if self.step % self.training.checkpoint_every == 0 or self.step == self.training.steps:
                self.checkpoints.save(self.state())
            progress(self.step, self.training.steps, loss, self.training.batch_size / max(spent, 1e-9))
        self.use_average()

    def update(self, sampled: Sampled) -> float:
        """One step of the optimizer; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.training)
        self.optimizer.zero_grad(set_to_none=True)
        parts, losses = self.training.gradient_accumulation, []
        for number in range(parts):
            loss = self.loss(self.batches.batch(sampled, number, parts))
            loss.backward()
            losses.append(loss.detach())
        value = float(torch.stack(losses).sum())
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.training.gradient_clip)
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            frames = few_frames(self.batches.frames.index_N[sampled.frame_B])
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

    def loss(self, batch: Batch) -> Tensor:
        """What the batch adds to the loss of the update that it is a part of."""
        teacher = self.teacher if self.method.needs_teacher else None
        with autocast(self.training, self.student.device):
            prefix = batch.encode(self.student)
            seen = batch.teacher_observations
            other = None if seen is None else self.teacher.encode_prefix(seen)
            return self.method.loss(self.student, teacher, prefix, batch.samples, other).total

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
