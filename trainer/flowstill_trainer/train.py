"""The training loop: what happens at a step, and what is kept between steps."""

import math
import time
from collections.abc import Callable
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from flowstill.api.distilljob import Training
from flowstill.errors import Interrupted, NonFiniteLoss, UserError
from flowstill.policies.flow import FlowPolicy
from flowstill_trainer.batches import Batch, Batches, Sampled
from flowstill_trainer.checkpoint import Checkpoint, CheckpointFolder
from flowstill_trainer.finite import check_teacher, few_frames
from flowstill_trainer.learner import Learned, Learner
from flowstill_trainer.methods.snapflow import SnapFlow
from flowstill_trainer.processes import Processes
from flowstill_trainer.watch import Watch, hold_chosen, is_look, look_together, unseen

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
        last_loss: of the last update; None before the first.
        watch: looks at the student now and then, and chooses the step to publish; None: the last one.
    """

    def __init__(
        self,
        student: FlowPolicy,
        teacher: FlowPolicy,
        batches: Batches,
        checkpoints: CheckpointFolder,
        processes: Processes | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.student, self.teacher, self.batches, self.checkpoints = student, teacher, batches, checkpoints
        self.processes, self.watch = processes or Processes(), watch
        self.training, method = batches.training, batches.method
        check_parts(self.training, self.processes)
        self.method = SnapFlow(
            method.target_steps, method.mix_ratio, method.consistency_weight, own_targets=not student.state_out
        )
        self.learner = Learner(student, self.loss, self.processes, self.training, ema=self.training.ema)
        self.step, self.seconds = 0, 0.0
        self.last_loss: float | None = None

    def run(self, progress: Progress, stopped: Callable[[], bool]) -> None:
        """Train to the end, from the last checkpoint if there is one; then hold the published weights.

        Raises:
            Interrupted: ``stopped()``; a checkpoint is saved.
            NonFiniteLoss: loss or gradient is NaN or infinite; nothing of that step is kept.
        """
        found = self.checkpoints.latest()
        agree(self.processes, found, self.checkpoints.root)
        if found is not None:
            self.restore(found)
        self._look(stopped)
        for sampled, following in pairwise(chain(self.batches.iterate(self.step), [None])):
            assert sampled is not None
            if self.processes.any(stopped()):
                self._stop()
            started = time.monotonic()
            loss = self.update(sampled, following)
            spent = time.monotonic() - started
            self.seconds += spent
            self.last_loss = loss
            self._look(stopped)
            if self.step % self.training.checkpoint_every == 0 or self.step == self.training.steps:
                self.save()
            progress(self.step, self.training.steps, loss, self.training.batch_size / max(spent, 1e-9))
        if self.processes.any(unseen(self.watch, self.step, self.last_loss)):
            self._stop()  # the last look was cut short
        self.use_published()

    def _stop(self) -> NoReturn:
        self.save()
        raise Interrupted(f"stopped at step {self.step} of {self.training.steps}; the checkpoint is saved")

    def _look(self, stopped: Callable[[], bool]) -> None:
        """Look at the student when it is time; a look that is cut short by ``stopped()`` is made when it goes on."""
        if is_look(self.step, self.training.fidelity_every, self.training.steps):
            look_together(self.watch, self.learner, self.processes, self.step, self.last_loss, stopped)

    def update(self, sampled: Sampled, following: Sampled | None = None) -> float:
        """One step of the optimizer, while images of the ``following`` one are read; returns the loss."""
        rank, size = self.processes.rank, self.processes.size
        parts = size * self.training.gradient_accumulation
        numbers = range(rank, parts, size)

        def batch(number: int) -> Batch:
            made = self.batches.batch(sampled, number, parts)
            if following is not None and number == numbers[-1]:
                self.batches.expect(following, numbers, parts)
            return made

        mine = [partial(batch, number) for number in numbers]
        try:
            value = self.learner.update(mine, learning_rate(self.step, self.training))
        except FloatingPointError as error:
            self._check_targets(sampled, parts)
            frames = few_frames(self.batches.frames.index_N[sampled.frame_B])
            raise NonFiniteLoss(
                f"step {self.step + 1}: {error}, on the dataset's frames {frames}; "
                "look at them, lower learningRate or use precision fp32. The checkpoints before this step are kept "
                f"in {self.checkpoints.root}",
                field="spec.training",
            ) from error
        self.step += 1
        self.learner.follow(self.step)
        return value

    def _check_targets(self, sampled: Sampled, parts: int) -> None:
        """After a loss that is not finite: that it was not the teacher's fresh rollouts which made it so.

        Every process computes those of all parts, so that all end for the same reason.

        Raises:
            TeacherRejected: it was.
        """
        if not self.method.needs_teacher or self.batches.bank is not None:
            return
        targets, frames = [], []
        with torch.no_grad(), autocast(self.training, self.teacher.device):
            for batch in (self.batches.batch(sampled, number, parts) for number in range(parts)):
                theirs = batch.encode_jumps(self.teacher)
                target_CHD = self.method.target(self.student, self.teacher, theirs, batch.samples, theirs)
                targets.append(target_CHD.cpu())
                frames.append(batch.frame_B[len(batch.samples.t_F) :])
        bf16, when = self.training.precision == "bf16", f"step {self.step + 1}: "
        check_teacher(torch.cat(targets), torch.cat(frames), self.batches.frames, bf16=bf16, when=when)

    def loss(self, batch: Batch) -> Tensor:
        """What the batch adds to the loss of the update that it is a part of."""
        teacher = self.teacher if self.method.needs_teacher else None
        with autocast(self.training, self.student.device):
            prefix = batch.encode(self.student)
            seen = batch.teacher_observations
            other = None if seen is None else self.teacher.encode_prefix(seen)
            return self.method.loss(self.student, teacher, prefix, batch.samples, other).total

    def save(self) -> None:
        """Write a checkpoint; of several processes rank 0 does, and the others go on to the next step."""
        state = self.state()
        if self.processes.first:
            self.checkpoints.save(state)

    def state(self) -> Checkpoint:
        """Everything that this run is now, in whole tensors."""
        own = self.learner.learned()
        looks, best = ((), {}) if self.watch is None else self.watch.state(self.step)
        return Checkpoint(self.step, own.weights, own.average, own.moments, self.seconds, self.last_loss, looks, best)

    def restore(self, found: Checkpoint) -> None:
        """Become what was saved, bit for bit."""
        self.learner.restore(Learned(found.weights, found.average, found.optimizer))
        self.step, self.seconds, self.last_loss = found.step, found.seconds, found.loss
        if self.watch is not None:
            self.watch.restore(found.looks, found.best or found.published)

    def use_published(self) -> None:
        """Hold what is published: of the step that rank 0's watch chose, else of the last one."""
        self.learner.use_published()
        parameters = self.learner.parameters
        hold_chosen(self.watch, self.step, parameters)
        self.processes.copy_from_first([parameter.detach() for parameter in parameters.values()])


def agree(processes: Processes, found: Checkpoint | None, root: Path) -> None:
    """That all processes continue from the same checkpoint.

    Raises:
        RuntimeError: they do not; another attempt reads them anew.
    """
    step = str(None if found is None else found.step)
    theirs = processes.share("checkpoint", lambda: step)
    if theirs != step:
        raise RuntimeError(
            f"process {processes.rank} finds the checkpoint of step {step} and the first one that of step "
            f"{theirs} in {root}; all of them must see the same work folder"
        )


def check_parts(training: Training, processes: Processes) -> None:
    """That every part of an update has samples.

    Raises:
        UserError: it has fewer samples than parts.
    """
    parts = processes.size * training.gradient_accumulation
    if training.batch_size < parts:
        raise UserError(
            f"{training.batch_size} samples of an update cannot be shared out to {processes.size} processes with "
            f"gradientAccumulation {training.gradient_accumulation}: make it at least {parts}",
            field="spec.training.batchSize",
        )
