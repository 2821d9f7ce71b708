"""One DistillJob from its inputs to its published student."""

import logging
import shutil
import time
from pathlib import Path
from typing import Any

from flowstill.api.children import Result, TrainTask
from flowstill.api.distilljob import DistillJobSpec, Fidelity
from flowstill.api.fields import Source, StatusRef
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.stores import fetch, lookup_by_inputs, record_by_inputs
from flowstill.child.context import ChildContext
from flowstill.errors import TeacherRejected, UserError
from flowstill.policies.flow import FlowPolicy
from flowstill.policies.registry import load_flow_policy
from flowstill_trainer.bank import Bank, BankPlan, make_bank
from flowstill_trainer.batches import Batches
from flowstill_trainer.checkpoint import CheckpointFolder
from flowstill_trainer.data import Frames, load_frames
from flowstill_trainer.export import plan_export, rehearse
from flowstill_trainer.fidelity import HeldOut, measure
from flowstill_trainer.inputs import inputs_digest
from flowstill_trainer.preflight import preflight
from flowstill_trainer.processes import Processes
from flowstill_trainer.publish import Origin, build_folder, export_batch, publish_student
from flowstill_trainer.randomness import described
from flowstill_trainer.train import Trainer, autocast, check_parts
from flowstill_trainer.watch import Reference, Watch, make_reference

logger = logging.getLogger(__name__)


def distill(task: Any, context: ChildContext, processes: Processes | None = None) -> Result:
    """Train and publish, or name the student that these inputs already gave.

    Of several processes all train; what is decided, measured and written is rank 0's.

    Raises:
        UserError: an input cannot work, or there is no room for what the run keeps.
        Interrupted: SIGTERM; the next attempt with the same work folder continues.
    """
    if not isinstance(task, TrainTask):
        raise TypeError(f"the trainer runs Train tasks, not {type(task).__name__}")
    spec, processes = task.spec, processes or Processes()
    check_parts(spec.training, processes)
    teacher_folder, teacher = _read(spec.teacher, "spec.teacher")
    dataset_folder, dataset = _read(spec.dataset, "spec.dataset")
    key = inputs_digest(spec, teacher.digest, dataset.digest)
    known = reused(key, processes)
    if known is not None:
        return _result(
            known, key, reused=True, message="the same inputs were distilled before; reused without training"
        )
    plan = plan_export(spec.export, teacher_folder)
    policy = _load_teacher(teacher_folder, processes.start_collectives())
    frames = load_frames(dataset_folder, spec.dataset, policy)
    student = policy.make_student(
        draws=spec.student.draws,
        neighbours=spec.student.draw_neighbours,
        action_steps=spec.student.action_steps,
        multi_step=spec.method.mix_ratio < 1,
        state_out=spec.student.state_out,
    )
    preflight(spec, student, context.work)
    origin = Origin(teacher, dataset, key)
    if not processes.first:
        train(spec, origin, policy, student, frames, context, processes)
        return processes.outcome()
    if not (context.work / "checkpoints").exists():
        rehearse(student, export_batch(student, frames), context.work / "rehearsal", plan)
    reference = _reference(spec, key, policy, student, frames, context)
    watch = _watch(spec, reference, student, context)
    trainer = train(spec, origin, policy, student, frames, context, processes, watch)
    fidelity = _measure(spec, reference, policy, student, context)
    context.progress.update(spec.training.steps, spec.training.steps, "exporting and publishing")
    folder, curve = context.work / "student", watch.curve()
    try:
        graph = build_folder(folder, student, frames, curve, plan)
        logger.info(
            "ONNX (%s) differs from PyTorch by %.2e, normalised actions", graph.plan.precision, graph.difference
        )
        ref = publish_student(folder, graph, student, spec, origin, fidelity, curve.published_step, trainer.seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # published, or made again from the last checkpoint
    record_by_inputs(key, ref)
    message = (
        f"{curve.steps} steps in {trainer.seconds:.0f} s; published step {curve.published_step} of {curve.steps}: "
        f"{curve.reason}"
    )
    return _result(ref, key, reused=False, message=message).model_copy(update={"fidelity": fidelity})


def reused(key: str, processes: Processes) -> StatusRef | None:
    """The student that these inputs gave before: as rank 0 finds it, for it may be published at any moment.

    Raises:
        UserError: the processes do not have the same inputs.
    """
    theirs = processes.share("inputs", lambda: key)
    if theirs != key:
        raise UserError(
            f"process {processes.rank} reads a teacher or a dataset whose digest is not the first one's; give all "
            "nodes the same store",
            field="spec",
        )

    def find() -> str:
        found = lookup_by_inputs(key)
        return "" if found is None else found.model_dump_json()

    said = processes.share("known", find)
    return StatusRef.model_validate_json(said) if said else None


def train(
    spec: DistillJobSpec,
    origin: Origin,
    teacher: FlowPolicy,
    student: FlowPolicy,
    frames: Frames,
    context: ChildContext,
    processes: Processes,
    watch: Watch | None = None,
) -> Trainer:
    """The bank, if there is one, and the training loop; afterwards rank 0's student has the weights to publish."""
    key = origin.inputs
    bank = _bank(spec, key, teacher, student, frames, context, processes) if spec.method.bank_size else None
    batches = Batches(frames, bank, student, teacher, spec.method, spec.training)
    facts = {"teacher": origin.teacher.digest, "randomness": described(spec.training.seed)}
    checkpoints = CheckpointFolder(context.work / "checkpoints", key, spec.training.keep_checkpoints, facts)
    trainer = Trainer(student, teacher, batches, checkpoints, processes, watch)

    def report(step: int, total: int, loss: float, rate: float) -> None:
        context.progress.update(step, total, "training", loss=loss, samples_per_second=rate)

    trainer.run(report, context.stop.is_set)
    return trainer


def _load_teacher(folder: Path, device: str) -> FlowPolicy:
    policy = load_flow_policy(folder, device=device)
    if policy.is_student:
        raise TeacherRejected(
            "the checkpoint is a one-step student already; give the teacher that it was distilled from "
            "(its manifest.json names it)",
            field="spec.teacher",
        )
    return policy


def _reference(
    spec: DistillJobSpec, key: str, teacher: FlowPolicy, student: FlowPolicy, frames: Frames, context: ChildContext
) -> Reference:
    context.progress.update(0, spec.training.steps, "teacher's chunks to compare with")
    held_out = HeldOut.of(frames, student, spec.training.seed)
    steps, seed, stopped = spec.teacher.steps, spec.training.seed, context.stop.is_set
    return make_reference(context.work / "fidelity", key, held_out, teacher, steps=steps, seed=seed, stopped=stopped)


def _watch(spec: DistillJobSpec, reference: Reference, student: FlowPolicy, context: ChildContext) -> Watch:
    last = spec.training.steps

    def announce(step: int, loss: float) -> None:
        context.progress.update(step, last, "measuring fidelity", loss=loss)

    return Watch(reference, student, spec.training.fidelity_every, last, announce)


def _measure(
    spec: DistillJobSpec, reference: Reference, teacher: FlowPolicy, student: FlowPolicy, context: ChildContext
) -> list[Fidelity]:
    steps, seed, stopped = spec.teacher.steps, spec.training.seed, context.stop.is_set
    context.progress.update(spec.training.steps, spec.training.steps, "measuring fidelity")
    held_out, chunk_BNF = reference.held_out, reference.chunk_BNF
    return measure(held_out, teacher, student, chunk_BNF, teacher_steps=steps, seed=seed, stopped=stopped)


def _bank(
    spec: DistillJobSpec, key: str, teacher: FlowPolicy, student: FlowPolicy, frames: Frames, context: ChildContext,
    processes: Processes,
) -> Bank:  # fmt: skip
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

    folder, stopped = context.work / "bank", context.stop.is_set
    return make_bank(folder, plan, teacher, student, frames, report, stopped, processes)


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
