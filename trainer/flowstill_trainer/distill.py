"""One DistillJob from its inputs to its published student."""

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from flowstill.api.children import Result, TrainTask
from flowstill.api.distilljob import DistillJobSpec
from flowstill.api.fields import Source, StatusRef
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.stores import fetch, lookup_by_inputs, record_by_inputs
from flowstill.child.context import ChildContext
from flowstill.errors import TeacherRejected
from flowstill.policies.flow import FlowPolicy
from flowstill.policies.registry import load_flow_policy
from flowstill_trainer.bank import Bank, BankPlan, make_bank
from flowstill_trainer.batches import Batches
from flowstill_trainer.checkpoint import CheckpointFolder
from flowstill_trainer.data import Frames, load_frames
from flowstill_trainer.fidelity import measure
from flowstill_trainer.inputs import inputs_digest
from flowstill_trainer.publish import Origin, build_folder, publish_student
from flowstill_trainer.refine import RefineBatches, Refiner, refuse_several_processes
from flowstill_trainer.train import Progress, Trainer, autocast

logger = logging.getLogger(__name__)


def distill(task: Any, context: ChildContext) -> Result:
    """Train and publish, or name the student that these inputs already gave.

    Raises:
        UserError: an input cannot work.
        Interrupted: SIGTERM; the next attempt with the same work folder continues.
    """
    if not isinstance(task, TrainTask):
        raise TypeError(f"the trainer runs Train tasks, not {type(task).__name__}")
    spec = task.spec
    if spec.method.refine is not None:
        refuse_several_processes()
    teacher_folder, teacher = _read(spec.teacher, "spec.teacher")
    dataset_folder, dataset = _read(spec.dataset, "spec.dataset")
    key = inputs_digest(spec, teacher.digest, dataset.digest)
    known = lookup_by_inputs(key)
    if known is not None:
        return _result(
            known, key, reused=True, message="the same inputs were distilled before; reused without training"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = load_flow_policy(teacher_folder, device=device)
    if policy.is_student:
        raise TeacherRejected(
            "the checkpoint is a one-step student already; give the teacher that it was distilled from "
            "(its manifest.json names it)",
            field="spec.teacher",
        )
    frames = load_frames(dataset_folder, spec.dataset, policy)
    student = policy.make_student(
        draws=spec.student.draws,
        neighbours=spec.student.draw_neighbours,
        action_steps=spec.student.action_steps,
        multi_step=spec.method.multi_step,
        state_out=spec.student.state_out,
    )
    seconds = train(spec, key, policy, student, frames, context)
    steps = total_steps(spec)
    context.progress.update(steps, steps, "measuring fidelity")
    fidelity = measure(policy, student, frames, teacher_steps=spec.teacher.steps, seed=spec.training.seed)
    context.progress.update(steps, steps, "exporting and publishing")
    folder = context.work / "student"
    try:
        graph = build_folder(folder, student, frames)
        logger.info("ONNX differs from PyTorch by %.2e on normalised actions", graph.difference)
        ref = publish_student(folder, graph, student, spec, Origin(teacher, dataset, key), fidelity, seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # published, or made again from the last checkpoint
    record_by_inputs(key, ref)
    message = f"{steps} steps in {seconds:.0f} s"
    return _result(ref, key, reused=False, message=message).model_copy(update={"fidelity": fidelity})


def total_steps(spec: DistillJobSpec) -> int:
    """Steps of the training and of the refinement after it."""
    return spec.training.steps + (spec.method.refine.steps if spec.method.refine is not None else 0)


def train(
    spec: DistillJobSpec,
    key: str,
    teacher: FlowPolicy,
    student: FlowPolicy,
    frames: Frames,
    context: ChildContext,
) -> float:
    """The training, then the refinement where the spec has one; returns the seconds of both over all attempts."""
    if spec.method.refine is None:
        return _train(spec, key, teacher, student, frames, context)
    checkpoints = CheckpointFolder(context.work / "refine", key, spec.training.keep_checkpoints)
    begun = checkpoints.latest()
    seconds = _train(spec, key, teacher, student, frames, context) if begun is None else begun.seconds
    batches = RefineBatches(frames, student, teacher, spec.method.refine, spec.training, spec.method.state_jitter)
    refiner = Refiner(student, teacher, batches, checkpoints, seconds)
    if begun is not None:
        refiner.restore(begun)
    refiner.run(_reporter(spec, context, "refining", spec.training.steps), context.stop.is_set)
    return refiner.seconds


def _train(
    spec: DistillJobSpec,
    key: str,
    teacher: FlowPolicy,
    student: FlowPolicy,
    frames: Frames,
    context: ChildContext,
) -> float:
    """The bank, if there is one, and the training loop."""
    bank = _bank(spec, key, teacher, student, frames, context) if spec.method.bank_size else None
    batches = Batches(frames, bank, student, teacher, spec.method, spec.training)
    checkpoints = CheckpointFolder(context.work / "checkpoints", key, spec.training.keep_checkpoints)
    trainer = Trainer(student, teacher, batches, checkpoints)
    trainer.run(_reporter(spec, context, "training", 0), context.stop.is_set)
    return trainer.seconds


def _reporter(spec: DistillJobSpec, context: ChildContext, activity: str, before: int) -> Progress:
    """Reports steps of one phase among those of all."""

    def report(step: int, _: int, loss: float, rate: float) -> None:
        context.progress.update(before + step, total_steps(spec), activity, loss=loss, samples_per_second=rate)

    return report


def _bank(
    spec: DistillJobSpec, key: str, teacher: FlowPolicy, student: FlowPolicy, frames: Frames, context: ChildContext
) -> Bank:
    plan = BankPlan(
        size=spec.method.bank_size,
        steps=spec.method.target_steps,
        jitter=spec.method.state_jitter,
        seed=spec.training.seed,
        inputs=key,
        autocast=lambda: autocast(spec.training, teacher.device),
    )
    started = time.monotonic()

    def report(done: int, total: int) -> None:
        context.progress.update(done, total, "teacher rollouts", samples_per_second=done / (time.monotonic() - started))

    return make_bank(context.work / "bank", plan, teacher, student, frames, report, context.stop.is_set)


def _read(source: Source, field: str) -> tuple[Path, StatusRef]:
    folder = fetch(source, field)
    return folder, StatusRef(uri=source.uri, digest=source.digest or tree_digest(folder))


def _result(student: StatusRef, key: str, *, reused: bool, message: str) -> Result:
    return Result(
        kind="Train",
        outcome="Succeeded",
        reason="AlreadyPublished" if reused else "Published",
        message=message,
        student=student,
        reused=reused,
        inputs_digest=key,
    )
