"""Refinement: a second phase of training in which a trained one-step student comes to draw as its teacher does.

Its losses are those of :mod:`~flowstill_trainer.methods.dmd`; here is what happens at a step, and what is kept
between steps.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import torch
from lerobot_policy_flowstill.prefix import Prefix
from torch import Tensor

from flowstill.api.distilljob import Refine, Training
from flowstill.errors import Interrupted, NonFiniteLoss
from flowstill.policies.flow import FlowPolicy, interpolate
from flowstill_trainer.bank import jitter_noise
from flowstill_trainer.checkpoint import Checkpoint, CheckpointFolder, Tensors
from flowstill_trainer.data import Frames
from flowstill_trainer.finite import check_teacher, few_frames
from flowstill_trainer.learner import Learned, Learner
from flowstill_trainer.methods.dmd import Draw, direction, draw, fake_loss, student_chunk, surrogate
from flowstill_trainer.processes import Processes
from flowstill_trainer.randomness import Order, generator
from flowstill_trainer.train import Progress, autocast
from flowstill_trainer.watch import Watch, hold_chosen, is_look, look_together, unseen

logger = logging.getLogger(__name__)
FIELD = "spec.method.refine"
STUDENT, FAKE = "student", "fake"


@dataclass(frozen=True)
class RefineSampled:
    """The samples of one step, all on the CPU: the same observations for every update, fresh numbers for each.

    Attributes:
        frame_B: the frame of every row.
        jitter_BS: what is added to the normalised states.
        fake_draws: for each update of the fake.
        student_draw: for the student's.
    """

    frame_B: Tensor
    jitter_BS: Tensor
    fake_draws: tuple[Draw, ...]
    student_draw: Draw


@dataclass(frozen=True)
class Seen:
    """What the networks see of some of a step's observations, in all of its updates.

    Attributes:
        rows: which of the step's they are.
        share: the part of all that they are.
        ours: the student's prefix.
        theirs: the teacher's and the fake's.
    """

    rows: slice
    share: float
    ours: Prefix
    theirs: Prefix


@dataclass(frozen=True)
class Part:
    """What adds to the loss of one update: some of the step's observations, and the update's own numbers for all."""

    seen: Seen
    numbers: Draw


@dataclass(frozen=True)
class RefineBatches:
    """What each step sees; a function of the step alone."""

    frames: Frames
    student: FlowPolicy
    teacher: FlowPolicy
    refine: Refine
    training: Training
    state_jitter: float

    def iterate(self, first: int) -> Iterator[RefineSampled]:
        """The samples of each step, from step ``first`` on."""
        training_T, size = self.frames.training_T, self.training.batch_size
        order = Order(self.training.seed, "refine", len(training_T))
        for step in range(first, self.refine.steps):
            yield self._sample(step, training_T[order.take(step * size, size)])

    def _sample(self, step: int, frame_B: Tensor) -> RefineSampled:
        random, size = generator(self.training.seed, "refine", step), len(frame_B)
        jitter_BS = jitter_noise(self.state_jitter, size, self.student.state_dim, random)
        fakes = tuple(draw(self.student, size, random) for _ in range(self.refine.fake_steps))
        return RefineSampled(frame_B, jitter_BS, fakes, draw(self.student, size, random))

    def see(self, sampled: RefineSampled, processes: Processes) -> list[Seen]:
        """This process's prefixes: one pass of the VLM over each part; two where the student's prompt is another."""
        parts = self.parts(processes)
        return [self.see_part(sampled, rows) for rows in parts[processes.rank :: processes.size]]

    def parts(self, processes: Processes) -> list[slice]:
        """The rows of every part of an update."""
        parts = processes.size * self.training.gradient_accumulation
        return [slice(number, None, parts) for number in range(parts)]

    def see_part(self, sampled: RefineSampled, rows: slice) -> Seen:
        """The prefixes of these rows."""
        frame_B, jitter_BS = sampled.frame_B[rows], sampled.jitter_BS[rows]
        ours = self._encode(self.student, frame_B, jitter_BS)
        theirs = self._encode(self.teacher, frame_B, jitter_BS) if self.student.state_out else ours
        return Seen(rows, len(frame_B) / len(sampled.frame_B), ours, theirs)

    def _encode(self, policy: FlowPolicy, frame_B: Tensor, jitter_BS: Tensor) -> Prefix:
        return policy.encode_prefix(policy.preprocess(self.frames.observations(frame_B), jitter_BS))


class Refiner:
    """A student under refinement, beginning with the weights that it has.

    Attributes:
        step: updates of the student done.
        seconds: trained so far, over all attempts, the training before included.
        last_loss: of the student's last update; None before the first.
        watch: looks at the student now and then, and keeps what is published if it collapses; None: nobody does.
    """

    def __init__(
        self,
        student: FlowPolicy,
        teacher: FlowPolicy,
        batches: RefineBatches,
        checkpoints: CheckpointFolder,
        seconds: float = 0.0,
        watch: Watch | None = None,
        processes: Processes | None = None,
    ) -> None:
        """``watch`` is that of the training before; what the student is now is published if it collapses."""
        self.student, self.teacher, self.batches, self.checkpoints = student, teacher, batches, checkpoints
        self.processes, self.training, refine = processes or Processes(), batches.training, batches.refine
        if watch is not None:
            watch.refine(refine.steps, dict(student.trained()))
        self.fake = teacher.copy_trained()
        self.learners = {
            STUDENT: Learner(student, self._student_loss, self.processes, self.training, ema=self.training.ema),
            FAKE: Learner(self.fake, self._fake_loss, self.processes, self.training),
        }
        self.rates = {STUDENT: refine.learning_rate, FAKE: refine.fake_learning_rate}
        self.step, self.seconds, self.watch = 0, seconds, watch
        self.last_loss: float | None = None

    @property
    def overall(self) -> int:
        """The step, counted on from the training's."""
        return self.training.steps + self.step

    def run(self, progress: Progress, stopped: Callable[[], bool]) -> None:
        """Refine to the end; then hold the published weights, on rank 0.

        Raises:
            Interrupted: ``stopped()``; a checkpoint is saved.
            NonFiniteLoss: a loss or a gradient is NaN or infinite; nothing of that step is kept.
        """
        total = self.batches.refine.steps
        self._look(stopped)
        for sampled in self.batches.iterate(self.step):
            if self.processes.any(stopped()):
                self._stop()
            started = time.monotonic()
            loss = self.update(sampled)
            spent = time.monotonic() - started
            self.seconds += spent
            self.last_loss = loss
            self._look(stopped)
            if self.step % self.training.checkpoint_every == 0 or self.step == total:
                self.save()
            progress(self.step, total, loss, self.training.batch_size / max(spent, 1e-9))
        if self.processes.any(unseen(self.watch, self.overall, self.last_loss)):
            self._stop()  # the last look was cut short
        for learner in self.learners.values():
            learner.use_published()
        self._choose()

    def _stop(self) -> NoReturn:
        self.save()
        total = self.batches.refine.steps
        raise Interrupted(f"stopped at step {self.step} of {total} of refinement; the checkpoint is saved")

    def _look(self, stopped: Callable[[], bool]) -> None:
        """Look at the student when it is time; see :meth:`~flowstill_trainer.train.Trainer.run`."""
        if is_look(self.step, self.training.fidelity_every, self.batches.refine.steps):
            learner = self.learners[STUDENT]
            look_together(self.watch, learner, self.processes, self.overall, self.last_loss, stopped)

    def _choose(self) -> None:
        """Go back where the student is collapsed; only rank 0, which has the watch, publishes."""
        hold_chosen(self.watch, self.overall, self.learners[STUDENT].parameters)
        if self.watch is not None and (choice := self.watch.choice()).step != self.overall:
            logger.warning("publishing step %d of %d: %s", choice.step, self.overall, choice.reason)

    def update(self, sampled: RefineSampled) -> float:
        """The fake's updates, then the student's one; returns the student's loss."""
        with autocast(self.training, self.student.device):
            seen = self.batches.see(sampled, self.processes)
        for numbers in sampled.fake_draws:
            self._descend(FAKE, STUDENT, seen, numbers, sampled)
        loss = self._descend(STUDENT, FAKE, seen, sampled.student_draw, sampled)
        self.step += 1
        self.learners[STUDENT].follow(self.step)
        return loss

    def _fake_loss(self, part: Part) -> Tensor:
        seen, numbers = part.seen, part.numbers.part(part.seen.rows, self.fake.device)
        with autocast(self.training, self.student.device):
            with torch.no_grad():
                chunk_BHD = student_chunk(self.student, seen.ours, numbers.start_BHD)
            return seen.share * fake_loss(self.fake, seen.theirs, chunk_BHD, numbers)

    def _student_loss(self, part: Part) -> Tensor:
        seen, numbers = part.seen, part.numbers.part(part.seen.rows, self.student.device)
        with autocast(self.training, self.student.device):
            chunk_BHD = student_chunk(self.student, seen.ours, numbers.start_BHD)
            found_BHA = direction(self.fake, self.teacher, seen.theirs, chunk_BHD, numbers)
            return seen.share * surrogate(chunk_BHD[..., : self.student.action_dim], found_BHA)

    def _descend(self, who: str, other: str, seen: list[Seen], numbers: Draw, sampled: RefineSampled) -> float:
        """One update of ``who``, for which the other one computes without a gradient."""
        try:
            with self.learners[other].shared.gathered():
                return self.learners[who].update([partial(Part, each, numbers) for each in seen], self.rates[who])
        except FloatingPointError as error:
            self._check_teacher(sampled, numbers)
            rate = {STUDENT: "learningRate", FAKE: "fakeLearningRate"}[who]
            frames = few_frames(self.batches.frames.index_N[sampled.frame_B])
            raise NonFiniteLoss(
                f"step {self.step + 1} of refinement, {who}: {error}, on the dataset's frames {frames}; lower {rate} "
                f"or use precision fp32. The checkpoints before this step are kept in {self.checkpoints.root}",
                field=FIELD,
            ) from error

    def _check_teacher(self, sampled: RefineSampled, numbers: Draw) -> None:
        """After a loss that is not finite: that it was not the teacher which made it so.

        It is asked as it was before, but about noise where the student's chunk is not finite. Every process asks it
        about all parts, so that all end for the same reason.

        Raises:
            TeacherRejected: it was.
        """
        velocities, frames = [], []
        gathered = self.learners[STUDENT].shared.gathered()
        with torch.no_grad(), gathered, autocast(self.training, self.teacher.device):
            for rows in self.batches.parts(self.processes):
                seen, drawn = self.batches.see_part(sampled, rows), numbers.part(rows, self.teacher.device)
                chunk_BHD = student_chunk(self.student, seen.ours, drawn.start_BHD)
                x_t_BHD = interpolate(chunk_BHD, drawn.noise_BHD, drawn.t_B)
                finite_B11 = x_t_BHD.isfinite().flatten(1).all(1)[:, None, None]
                asked_BHD = torch.where(finite_B11, x_t_BHD, drawn.noise_BHD)
                velocities.append(self.teacher.velocity(seen.theirs, asked_BHD, drawn.t_B).cpu())
                frames.append(sampled.frame_B[rows])
        bf16, when = self.training.precision == "bf16", f"step {self.step + 1} of refinement: "
        check_teacher(torch.cat(velocities), torch.cat(frames), self.batches.frames, bf16=bf16, when=when)

    def save(self) -> None:
        """Write a checkpoint; of several processes rank 0 does, and the others go on to the next step."""
        state = self.state()
        if self.processes.first:
            self.checkpoints.save(state)

    def state(self) -> Checkpoint:
        """Everything that this refinement is now, in whole tensors."""
        student, fake = self.learners[STUDENT].learned(), self.learners[FAKE].learned()
        weights = _joined({STUDENT: student.weights, FAKE: fake.weights})
        moments = _joined({STUDENT: student.moments, FAKE: fake.moments})
        looks, best = ((), {}) if self.watch is None else self.watch.state(self.overall)
        return Checkpoint(self.step, weights, student.average, moments, self.seconds, self.last_loss, looks, best)

    def restore(self, found: Checkpoint) -> None:
        """Become what was saved, bit for bit."""
        averages = {STUDENT: found.average, FAKE: Tensors()}
        for who, learner in self.learners.items():
            learner.restore(Learned(_part(found.weights, who), averages[who], _part(found.optimizer, who)))
        self.step, self.seconds, self.last_loss = found.step, found.seconds, found.loss
        if self.watch is not None:
            self.watch.restore(found.looks, found.best or found.average or _part(found.weights, STUDENT))


def _joined(parts: dict[str, Tensors]) -> Tensors:
    return {f"{who}/{name}": value for who, part in parts.items() for name, value in part.items()}


def _part(tensors: Tensors, who: str) -> Tensors:
    start = f"{who}/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
