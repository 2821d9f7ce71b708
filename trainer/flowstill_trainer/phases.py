"""The phases of a run: the bank, the training, the refinement; each goes on where an earlier attempt ended."""

import time
from dataclasses import dataclass

from flowstill.api.distilljob import DistillJobSpec
from flowstill.child.context import ChildContext
from flowstill.policies.flow import FlowPolicy
from flowstill_trainer.bank import Bank, BankPlan, make_bank
from flowstill_trainer.batches import Batches
from flowstill_trainer.checkpoint import CheckpointFolder
from flowstill_trainer.data import Frames
from flowstill_trainer.processes import Processes
from flowstill_trainer.publish import Origin
from flowstill_trainer.randomness import described
from flowstill_trainer.refine import RefineBatches, Refiner
from flowstill_trainer.train import Progress, Trainer, agree, autocast
from flowstill_trainer.watch import Watch


@dataclass(frozen=True)
class Run:
    """What all phases work with."""

    spec: DistillJobSpec
    origin: Origin
    teacher: FlowPolicy
    student: FlowPolicy
    frames: Frames
    context: ChildContext
    processes: Processes

    @property
    def steps(self) -> int:
        """Steps of the training and of the refinement after it."""
        refine = self.spec.method.refinement
        return self.spec.training.steps + (refine.steps if refine is not None else 0)

    def checkpoints(self, phase: str) -> CheckpointFolder:
        """The folder of a phase's checkpoints."""
        training = self.spec.training
        facts = {"teacher": self.origin.teacher.digest, "randomness": described(training.seed)}
        return CheckpointFolder(self.context.work / phase, self.origin.inputs, training.keep_checkpoints, facts)

    def reporter(self, activity: str, before: int) -> Progress:
        """Reports steps of one phase among those of all."""

        def report(step: int, _: int, loss: float, rate: float) -> None:
            self.context.progress.update(before + step, self.steps, activity, loss=loss, samples_per_second=rate)

        return report


def train(run: Run, watch: Watch | None = None) -> float:
    """The training, then the refinement where the spec has one; rank 0's student has the weights to publish.

    Returns:
        Seconds of all phases over all attempts.

    Raises:
        Interrupted: SIGTERM; the next attempt with the same work folder continues.
    """
    refine = run.spec.method.refinement
    if refine is None:
        return _train(run, watch)
    checkpoints, method, training = run.checkpoints("refine"), run.spec.method, run.spec.training
    begun = checkpoints.latest()
    agree(run.processes, begun, checkpoints.root)
    seconds = _train(run, watch) if begun is None else begun.seconds
    batches = RefineBatches(run.frames, run.student, run.teacher, refine, training, method.state_jitter)
    refiner = Refiner(run.student, run.teacher, batches, checkpoints, seconds, watch, run.processes)
    if begun is not None:
        refiner.restore(begun)
    refiner.run(run.reporter("refining", training.steps), run.context.stop.is_set)
    return refiner.seconds


def _train(run: Run, watch: Watch | None) -> float:
    method, training = run.spec.method, run.spec.training
    bank = _bank(run) if method.bank_size else None
    batches = Batches(run.frames, bank, run.student, run.teacher, method, training)
    trainer = Trainer(run.student, run.teacher, batches, run.checkpoints("checkpoints"), run.processes, watch)
    trainer.run(run.reporter("training", 0), run.context.stop.is_set)
    return trainer.seconds


def _bank(run: Run) -> Bank:
    method, training, progress = run.spec.method, run.spec.training, run.context.progress
    plan = BankPlan(
        size=method.bank_size,
        steps=method.target_steps,
        jitter=method.state_jitter,
        seed=training.seed,
        inputs=run.origin.inputs,
        autocast=lambda: autocast(training, run.teacher.device),
    )
    started: dict[str, float] = {}

    def report(activity: str, done: int, total: int) -> None:
        now = time.monotonic()
        spent = now - started.setdefault(activity, now)
        progress.update(done, total, activity, samples_per_second=done / spent if spent > 0 else None)

    folder, stopped = run.context.work / "bank", run.context.stop.is_set
    return make_bank(folder, plan, run.teacher, run.student, run.frames, report, stopped, run.processes)
