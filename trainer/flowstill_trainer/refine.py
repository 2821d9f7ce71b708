"""Refinement: a second phase of training in which a trained one-step student comes to draw as its teacher does.

Its losses are those of :mod:`~flowstill_trainer.methods.dmd`; here is what happens at a step, and what is kept
between steps.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lerobot_policy_flowstill.prefix import Prefix
from torch import Tensor

from flowstill.api.distilljob import Refine, Training
from flowstill.errors import Interrupted, NonFiniteLoss, UserError
from flowstill.policies.flow import FlowPolicy
from flowstill_trainer.bank import jitter_noise
from flowstill_trainer.checkpoint import Checkpoint, CheckpointFolder, Tensors
from flowstill_trainer.data import Frames
from flowstill_trainer.learner import Learner
from flowstill_trainer.methods.dmd import Draw, direction, draw, fake_loss, student_chunk, surrogate
from flowstill_trainer.randomness import Order, generator
from flowstill_trainer.train import Progress, autocast, few_frames

FIELD = "spec.method.refine"


def refuse_several_processes() -> None:
    """Refinement runs in one process.

    Raises:
        UserError: torchrun started several.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise UserError(
            f"refinement runs in one process, and this is one of {processes}; set spec.runtime.nodes and "
            "spec.runtime.gpusPerNode to 1, or leave refine out",
            field=FIELD,
        )


@dataclass(frozen=True)
class RefineBatch:
    """What one step sees: the same observations for every update, fresh numbers for each.

    Attributes:
        frame_B: the frame of every row.
        observations: preprocessed for the student.
        teacher_observations: the same through the teacher's processor; None where its prefix is the student's.
        fake_draws: for each update of the fake.
        student_draw: for the student's.
    """

    frame_B: Tensor
    observations: dict[str, Any]
    teacher_observations: dict[str, Any] | None
    fake_draws: tuple[Draw, ...]
    student_draw: Draw


@dataclass(frozen=True)
class RefineBatches:
    """What each step sees; a function of the step alone."""

    frames: Frames
    student: FlowPolicy
    teacher: FlowPolicy
    refine: Refine
    training: Training
    state_jitter: float

    def iterate(self, first: int) -> Iterator[RefineBatch]:
        """Batches from step ``first`` on."""
        training_T, size = self.frames.training_T, self.training.batch_size
        order = Order(self.training.seed, "refine", len(training_T))
        for step in range(first, self.refine.steps):
            yield self._batch(step, training_T[order.take(step * size, size)])

    def _batch(self, step: int, frame_B: Tensor) -> RefineBatch:
        random, size = generator(self.training.seed, "refine", step), len(frame_B)
        jitter_BS = jitter_noise(self.state_jitter, size, self.student.state_dim, random)
        fakes = tuple(draw(self.student, size, random) for _ in range(self.refine.fake_steps))
        observations = self.student.preprocess(self.frames.observations(frame_B), jitter_BS)
        theirs = None
        if self.student.state_out:
            theirs = self.teacher.preprocess(self.frames.observations(frame_B), jitter_BS)
        return RefineBatch(frame_B, observations, theirs, fakes, draw(self.student, size, random))


class Refiner:
    """A student under refinement, beginning with the weights that it has.

    Attributes:
        step: updates of the student done.
        seconds: trained so far, over all attempts, the training before included.
    """

    def __init__(
        self,
        student: FlowPolicy,
        teacher: FlowPolicy,
        batches: RefineBatches,
        checkpoints: CheckpointFolder,
        seconds: float = 0.0,
    ) -> None:
        self.student, self.teacher, self.batches, self.checkpoints = student, teacher, batches, checkpoints
        self.fake = teacher.copy_trained()
        self.training, refine = batches.training, batches.refine
        clip = self.training.gradient_clip
        self.learners = {
            "student": Learner(student, refine.learning_rate, clip),
            "fake": Learner(self.fake, refine.fake_learning_rate, clip),
        }
        trained = self.learners["student"].weights()
        self.average = {n: p.clone() for n, p in trained.items()} if self.training.ema else {}
        self.step, self.seconds = 0, seconds

    def run(self, progress: Progress, stopped: Callable[[], bool]) -> None:
        """Refine to the end; then hold the published weights.

        Raises:
            Interrupted: ``stopped()``; a checkpoint is saved.
            NonFiniteLoss: a loss or a gradient is NaN or infinite; nothing of that step is kept.
        """
        total = self.batches.refine.steps
        for batch in self.batches.iterate(self.step):
            if stopped():
                self.checkpoints.save(self.state())
                raise Interrupted(f"stopped at step {self.step} of {total} of refinement; the checkpoint is saved")
            started = time.monotonic()
            loss = self.update(batch)
            spent = time.monotonic() - started
            self.seconds += spent
            if self.step % self.training.checkpoint_every == 0 or self.step == total:
                self.checkpoints.save(self.state())
            progress(self.step, total, loss, self.training.batch_size / max(spent, 1e-9))
        with torch.no_grad():
            for name, value in self.average.items():
                self.learners["student"].parameters[name].copy_(value)

    def update(self, batch: RefineBatch) -> float:
        """The fake's updates, then the student's one; returns the student's loss."""
        with autocast(self.training, self.student.device):
            ours = self.student.encode_prefix(batch.observations)
            seen = batch.teacher_observations
            theirs = ours if seen is None else self.teacher.encode_prefix(seen)
        for numbers in batch.fake_draws:
            self._descend("fake", self._fake_loss(ours, theirs, numbers), batch)
        loss = self._student_loss(ours, theirs, batch.student_draw)
        self._descend("student", loss, batch)
        self.step += 1
        if self.average:
            decay = min(self.training.ema, (1 + self.step) / (10 + self.step))
            weights = self.learners["student"].weights()
            torch._foreach_lerp_(list(self.average.values()), list(weights.values()), 1 - decay)
        return float(loss.detach())

    def _fake_loss(self, ours: Prefix, theirs: Prefix, numbers: Draw) -> Tensor:
        with autocast(self.training, self.student.device):
            with torch.no_grad():
                chunk_BHD = student_chunk(self.student, ours, numbers.start_BHD)
            return fake_loss(self.fake, theirs, chunk_BHD, numbers)

    def _student_loss(self, ours: Prefix, theirs: Prefix, numbers: Draw) -> Tensor:
        with autocast(self.training, self.student.device):
            chunk_BHD = student_chunk(self.student, ours, numbers.start_BHD)
            found_BHA = direction(self.fake, self.teacher, theirs, chunk_BHD, numbers)
            return surrogate(chunk_BHD[..., : self.student.action_dim], found_BHA)

    def _descend(self, who: str, loss: Tensor, batch: RefineBatch) -> None:
        problem = self.learners[who].update(loss)
        if problem is None:
            return
        rate = {"student": "learningRate", "fake": "fakeLearningRate"}[who]
        frames = few_frames(self.batches.frames.index_N[batch.frame_B])
        raise NonFiniteLoss(
            f"step {self.step + 1} of refinement, {who}: {problem}, on the dataset's frames {frames}; lower {rate} or "
            f"use precision fp32. The checkpoints before this step are kept in {self.checkpoints.root}",
            field=FIELD,
        )

    def state(self) -> Checkpoint:
        """Everything that this refinement is now."""
        weights = {who: learner.weights() for who, learner in self.learners.items()}
        moments = {who: learner.moments() for who, learner in self.learners.items()}
        return Checkpoint(self.step, _joined(weights), self.average, _joined(moments), self.seconds)

    def restore(self, found: Checkpoint) -> None:
        """Become what was saved, bit for bit."""
        for who, learner in self.learners.items():
            learner.restore(_part(found.weights, who), _part(found.optimizer, who))
        for name, value in self.average.items():
            value.copy_(found.average[name])
        self.step, self.seconds = found.step, found.seconds


def _joined(parts: dict[str, Tensors]) -> Tensors:
    return {f"{who}/{name}": value for who, part in parts.items() for name, value in part.items()}


def _part(tensors: Tensors, who: str) -> Tensors:
    start = f"{who}/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
