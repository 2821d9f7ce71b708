"""How near a student is to a teacher on recorded frames: gate P4's figures without a simulator.

Frames of the data that a student was distilled on flatter it; what counts for a rollout is P4 on observations that
nobody trained on.
"""

from __future__ import annotations

import numpy as np

from flowstill.api.children import DatasetParityTask
from flowstill.api.fields import Source, StatusRef
from flowstill.api.gates import FidelityLimits
from flowstill.api.studentrollout import GateResult
from flowstill.artifacts.manifest import StudentProperties
from flowstill.child.context import ChildContext
from flowstill.errors import Interrupted, UserError
from flowstill.policies.interface import Runner, RunnerInfo
from flowstill_evaluator import fidelity
from flowstill_evaluator.arms import ONE_DRAW, REFERENCE_ARM, Arm, pick_provider, pinned
from flowstill_evaluator.evidence import FidelityRecord, Gap
from flowstill_evaluator.gates.p4_fidelity import judge_fidelity
from flowstill_evaluator.lockstep import policy_threads
from flowstill_evaluator.observations import Batch

FIELD = "spec.teacher"
FEWEST = 8
"""Observations, as in the API's own least for P4."""


def near_reference(
    task: DatasetParityTask,
    reference: Source,
    properties: StudentProperties,
    observations: Batch,
    context: ChildContext,
) -> tuple[StatusRef, GateResult]:
    """The teacher as it was read, and gate P4 with its default limits on these observations.

    Raises:
        UserError: the teacher cannot be read, or does other things than the student.
        Interrupted: the child was asked to stop.
    """
    teacher_ref = pinned(reference, FIELD)
    if len(observations) < FEWEST:
        return teacher_ref, judge_fidelity(Gap(f"{len(observations)} frames, {FEWEST} are the least"), FidelityLimits())
    provider, threads = pick_provider(), policy_threads()
    steps, student_ref = properties.teacher_steps, task.student
    student = Arm(ONE_DRAW, student_ref.uri, student_ref.digest, None, 1, "onnx").open(provider, threads)
    teacher = Arm(REFERENCE_ARM, teacher_ref.uri, teacher_ref.digest, steps, fidelity.CHUNKS, "torch").open(
        provider, threads
    )
    _check_alike(teacher.info, student.info)
    generator = np.random.default_rng([properties.seed, 4])

    def heard() -> None:
        if context.stop.is_set():
            raise Interrupted("the comparison was asked to stop; it starts again from the beginning")

    def chunks(runner: Runner) -> fidelity.Doubles:
        return fidelity.sample(runner, observations, properties.action_steps, generator, heard)

    context.progress.update(0, len(observations), "comparing the student with its teacher")
    expected, fresh, distilled = chunks(teacher), chunks(teacher), chunks(student)
    figures = FidelityRecord.model_validate(fidelity.compare(expected, fresh, distilled))
    return teacher_ref, judge_fidelity(figures, FidelityLimits())


def _check_alike(teacher: RunnerInfo, student: RunnerInfo) -> None:
    for name in ("action_dim", "chunk_size", "state_dim"):
        theirs, ours = getattr(teacher, name), getattr(student, name)
        if theirs != ours:
            raise UserError(
                f"its {name.replace('_', ' ')} is {theirs}, the student's {ours}: give the student's teacher",
                field=FIELD,
            )
