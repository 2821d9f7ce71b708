"""One DistillJob from its inputs to its published student."""

import logging
import shutil
from pathlib import Path
from typing import Any

from flowstill.api.children import Result, TrainTask
from flowstill.api.fields import Source, StatusRef
from flowstill.artifacts.curve import Curve
from flowstill.artifacts.digests import tree_digest
from flowstill.artifacts.stores import fetch, lookup_by_inputs, record_by_inputs
from flowstill.child.context import ChildContext
from flowstill.errors import TeacherRejected, UserError
from flowstill.policies.flow import FlowPolicy
from flowstill.policies.registry import load_flow_policy
from flowstill_trainer.data import load_frames
from flowstill_trainer.export import ExportPlan, plan_export, rehearse
from flowstill_trainer.fidelity import HeldOut, measure
from flowstill_trainer.inputs import inputs_digest
from flowstill_trainer.phases import Run, train
from flowstill_trainer.preflight import preflight
from flowstill_trainer.processes import Processes
from flowstill_trainer.publish import Origin, build_folder, export_batch, probe_for, publish_student
from flowstill_trainer.train import check_parts
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
    policy = _load_teacher(teacher_folder, processes.start_collectives())
    plan = plan_export(spec.export, teacher_folder)
    frames = load_frames(dataset_folder, spec.dataset, policy)
    student = policy.make_student(
        draws=spec.student.draws,
        neighbours=spec.student.draw_neighbours,
        action_steps=spec.student.action_steps,
        multi_step=spec.method.multi_step,
        state_out=spec.student.state_out,
    )
    preflight(spec, student, frames.images, context.work, processes)
    run = Run(spec, Origin(teacher, dataset, key), policy, student, frames, context, processes)
    if not processes.first:
        train(run)
        return processes.outcome()
    if plan.at_risk and not any((context.work / phase).exists() for phase in ("checkpoints", "refine")):
        batch, probe = export_batch(student, frames), probe_for(plan, student, frames)
        rehearse(student, batch, context.work / "rehearsal", plan, probe)
    reference = _reference(run)
    watch = _watch(run, reference)
    seconds = train(run, watch)
    return _publish(run, plan, reference, watch.curve(), seconds)


def _publish(run: Run, plan: ExportPlan, reference: Reference, curve: Curve, seconds: float) -> Result:
    """Measure, export and publish the student as it is now."""
    spec, student, progress = run.spec, run.student, run.context.progress
    progress.update(run.steps, run.steps, "measuring fidelity")
    fidelity = measure(
        reference.held_out, run.teacher, student, reference.chunk_BNF,
        teacher_steps=spec.teacher.steps, seed=spec.training.seed, stopped=run.context.stop.is_set,
    )  # fmt: skip
    progress.update(run.steps, run.steps, "exporting and publishing")
    folder = run.context.work / "student"
    try:
        graph = build_folder(folder, student, run.frames, curve, plan)
        logger.info(
            "ONNX (%s) differs from PyTorch by %.2e, normalised actions", graph.plan.precision, graph.difference
        )
        ref = publish_student(folder, graph, student, spec, run.origin, fidelity, curve.published_step, seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # published, or made again from the last checkpoint
    record_by_inputs(run.origin.inputs, ref)
    message = (
        f"{run.steps} steps in {seconds:.0f} s; published step {curve.published_step} of {curve.steps}: {curve.reason}"
    )
    return _result(ref, run.origin.inputs, reused=False, message=message).model_copy(update={"fidelity": fidelity})


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


def _load_teacher(folder: Path, device: str) -> FlowPolicy:
    policy = load_flow_policy(folder, device=device)
    if policy.is_student:
        raise TeacherRejected(
            "the checkpoint is a one-step student already; give the teacher that it was distilled from "
            "(its manifest.json names it)",
            field="spec.teacher",
        )
    return policy


def _reference(run: Run) -> Reference:
    run.context.progress.update(0, run.steps, "teacher's chunks to compare with")
    seed, stopped = run.spec.training.seed, run.context.stop.is_set
    held_out = HeldOut.of(run.frames, run.student, seed)
    folder, steps = run.context.work / "fidelity", run.spec.teacher.steps
    return make_reference(folder, run.origin.inputs, held_out, run.teacher, steps=steps, seed=seed, stopped=stopped)


def _watch(run: Run, reference: Reference) -> Watch:
    training = run.spec.training

    def announce(step: int, loss: float) -> None:
        run.context.progress.update(step, run.steps, "measuring fidelity", loss=loss)

    return Watch(reference, run.student, training.fidelity_every, training.steps, announce)


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
