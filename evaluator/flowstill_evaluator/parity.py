"""Parity: is the exported graph the trained student? Same observations, same noise, two runtimes.

The observations are initial ones of the evaluation's environments, or frames of the dataset that the student was
distilled on.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from flowstill.api.children import DatasetParityTask, ParityTask, Result, StudentTask
from flowstill.artifacts.manifest import PARITY_THRESHOLDS, StudentProperties
from flowstill.artifacts.stores import fetch
from flowstill.child.context import ChildContext
from flowstill.errors import Interrupted
from flowstill.policies.interface import Chunks, Observations, Runner
from flowstill.policies.noise import episode_noise
from flowstill_evaluator.arms import ONE_DRAW, Arm, References, compare, pick_provider, read_student, resolve
from flowstill_evaluator.budget import warning
from flowstill_evaluator.lockstep import policy_threads
from flowstill_evaluator.nearness import near_reference
from flowstill_evaluator.observations import Batch, near_resets
from flowstill_evaluator.recorded import recorded_observations
from flowstill_evaluator.records import Floats
from flowstill_evaluator.suites.graphics import choose_library
from flowstill_evaluator.suites.registry import suite_of
from flowstill_evaluator.trials import frames_of, trials_of
from flowstill_evaluator.verdicts import published_verdict
from flowstill_evaluator.views import drawn, view_of

logger = logging.getLogger(__name__)

DENSITY_TIE = 1e-4
"""Two draws whose densities are nearer than this may be chosen differently by two runtimes in float32."""

_BATCH = 32


@dataclass(frozen=True)
class Difference:
    """How two runtimes differ on some observations.

    Attributes:
        largest: largest absolute difference of a normalised action; infinite when one is not finite.
        disagreements: observations for which they chose different draws without a tie.
        samples: observations.
    """

    largest: float
    disagreements: int
    samples: int


def difference(left: Chunks, right: Chunks, action_steps: int, action_dim: int, *, rounded: bool = False) -> Difference:
    """Compare what two runtimes gave for the same observations and noise.

    All K draws count, their first ``action_steps`` steps and ``action_dim`` (real) dimensions. With ``rounded`` (a
    graph in fp16 or bf16) draws tie whose order can be told neither by one runtime nor by the other: where no chunk
    moved by more than e (Euclidean), no distance between two chunks moved by more than 2e, so no density by more than
    2e, and a gap of up to 4e may close.
    """

    def counted(chunks: Chunks) -> Floats:
        real: Floats = chunks.all_normalised_BKHD[:, :, :action_steps, :action_dim]
        return real

    a, b = counted(left), counted(right)
    finite = np.isfinite(a).all() and np.isfinite(b).all()
    largest = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) if finite else float("inf")
    rows = np.arange(len(left.index_B))
    tie_B = np.full(len(rows), DENSITY_TIE)
    if rounded:
        moved_BK = np.sqrt(np.square(a.astype(np.float64) - b).sum((2, 3)))
        tie_B = np.maximum(tie_B, 4 * moved_BK.max(1))
    gap_B = np.abs(left.density_BK[rows, left.index_B] - left.density_BK[rows, right.index_B])
    # A gap that is not a number is no tie.
    apart_B = (left.index_B != right.index_B) & ~(gap_B < tie_B)
    return Difference(largest, int(apart_B.sum()), len(rows))


def compare_runners(
    torch: Runner,
    onnx: Runner,
    observations: Batch,
    *,
    seed: int,
    action_steps: int,
    context: ChildContext,
    rounded: bool = False,
) -> Difference:
    """Ask both runners everything, in batches, with the same noise; ``rounded``: see :func:`difference`."""
    info = torch.info

    def compared(seen: Observations, noise_BKHD: Floats) -> Difference:
        theirs, ours = torch.act(seen, noise_BKHD), onnx.act(seen, noise_BKHD)
        return difference(theirs, ours, action_steps, info.action_dim, rounded=rounded)

    found: list[Difference] = []
    for start in range(0, len(observations), _BATCH):
        if context.stop.is_set():
            raise Interrupted("parity was asked to stop; it starts again from the beginning")
        rows = range(start, min(start + _BATCH, len(observations)))
        noise = np.stack(
            [episode_noise(seed, "parity", row, 0, info.draws, info.chunk_size, info.padded_action_dim) for row in rows]
        )
        found.append(compared(observations.rows(list(rows)), noise))
        context.progress.update(rows[-1] + 1, len(observations), "comparing ONNX Runtime with PyTorch")
    return Difference(
        largest=max(d.largest for d in found),
        disagreements=sum(d.disagreements for d in found),
        samples=sum(d.samples for d in found),
    )


def judge_difference(measured: Difference, threshold: float, references: References | None = None) -> Result:
    """Turn a difference into the child's result; ``references`` are those that a rollout goes on with."""
    problems = []
    if not np.isfinite(measured.largest):
        problems.append("an action is not finite")
    elif measured.largest > threshold:
        problems.append(f"the largest difference of a normalised action is {measured.largest:.3g}")
    if measured.disagreements:
        problems.append(f"the runtimes choose different draws for {measured.disagreements} observations")
    asked = f"on {measured.samples} observations, the threshold is {threshold:g}"
    message = f"largest difference {measured.largest:.3g} {asked}"
    if problems:
        message = f"{' and '.join(problems)} ({asked}): the ONNX graph is not the trained student; export it again"
    return Result(
        kind="Parity",
        outcome="UserError" if problems else "Succeeded",
        reason="ParityFailed" if problems else "ParityHolds",
        message=message,
        difference=measured.largest if np.isfinite(measured.largest) else None,
        threshold=threshold,
        student=references.student if references else None,
        teacher=references.teacher if references else None,
        baseline=references.baseline if references else None,
    )


def run(task: ParityTask | DatasetParityTask, context: ChildContext) -> Result:
    """Compare the runtimes of a published student, unless all that it is compared for was judged before.

    Raises:
        UserError: the student, its teacher, the baseline or the dataset cannot be read, or does not fit the
            environments or the student.
    """
    if isinstance(task, DatasetParityTask):
        return _on_frames(task, context)
    references = resolve(task)
    known = published_verdict(task, references)
    if known is not None:
        return known
    return (_on_environments if task.evaluation.evidence is None else _beside_trials)(task, references, context)


def _on_environments(task: ParityTask, references: References, context: ChildContext) -> Result:
    compare(task, references)  # what rollouts would refuse is refused before anything runs
    properties, evaluation = references.properties, task.evaluation
    suite = suite_of(evaluation.suite, evaluation.custom)
    sentences = suite.preflight(evaluation.tasks)
    torch, onnx = _both_runtimes(task, properties)
    rename_map = dict(evaluation.rename_map)
    view = view_of(torch.info, "the student", suite, evaluation.tasks, rename_map)
    context.progress.update(0, task.parity.samples, "drawing observations")
    draw = partial(
        near_resets,
        suite,
        sentences,
        rename_map,
        view=view,
        count=task.parity.samples,
        seed=evaluation.seed,
        first=evaluation.most_episodes_per_task,
    )
    if drawn(view, suite, evaluation.tasks):
        os.environ["MUJOCO_GL"] = choose_library()
    observations = _apart(draw)
    measured = compare_runners(
        torch,
        onnx,
        observations,
        seed=evaluation.seed,
        action_steps=properties.action_steps,
        context=context,
        rounded=properties.precision != "fp32",
    )
    threshold = task.parity.threshold or PARITY_THRESHOLDS[properties.precision]
    return with_warning(judge_difference(measured, threshold, references), task)


def with_warning(result: Result, task: ParityTask) -> Result:
    """The result, with what the evaluation that follows cannot decide: parity ends before its first episode."""
    text = warning(task.evaluation, task.gates)
    if text is None:
        return result
    logger.warning("%s", text)
    return result.model_copy(update={"warning": text})


def _beside_trials(task: ParityTask, references: References, context: ChildContext) -> Result:
    """With evidence of one's own: whether it is about these policies, and parity without a simulator."""
    compare(task, references)
    context.progress.update(0, task.parity.samples, "reading the trials")
    trials_of(task, references)
    properties = references.properties
    torch, onnx = _both_runtimes(task, properties)
    measured = compare_runners(
        torch,
        onnx,
        frames_of(task, references, torch.info, task.parity.samples),
        seed=task.evaluation.seed,
        action_steps=properties.action_steps,
        context=context,
        rounded=properties.precision != "fp32",
    )
    return judge_difference(measured, task.parity.threshold or PARITY_THRESHOLDS[properties.precision], references)


def _apart(draw: Callable[[], Batch]) -> Batch:
    """Call it in a process of its own.

    MuJoCo picks its graphics library when it is imported, and a custom suite may bring anything.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        return processes.submit(draw).result()


def _on_frames(task: DatasetParityTask, context: ChildContext) -> Result:
    properties = read_student(task)
    context.progress.update(0, task.parity.samples, "reading frames")
    torch, onnx = _both_runtimes(task, properties)
    folder = fetch(task.dataset, "spec.dataset")
    observations = recorded_observations(folder, task.dataset, torch.info, task.parity.samples)
    measured = compare_runners(
        torch,
        onnx,
        observations,
        seed=properties.seed,
        action_steps=properties.action_steps,
        context=context,
        rounded=properties.precision != "fp32",
    )
    result = judge_difference(measured, task.parity.threshold or PARITY_THRESHOLDS[properties.precision])
    if task.reference is None or result.outcome != "Succeeded":
        return result
    del torch, onnx  # both may be large, and the teacher is next
    teacher, gate = near_reference(task, task.reference, properties, observations, context)
    return result.model_copy(update={"teacher": teacher, "gates": [gate]})


def _both_runtimes(task: StudentTask, properties: StudentProperties) -> tuple[Runner, Runner]:
    """The student in PyTorch, and its graph in ONNX Runtime, on the same device."""
    provider, threads = pick_provider(), policy_threads()
    student = task.student
    torch, onnx = (
        Arm(ONE_DRAW, student.uri, student.digest, None, properties.draws, runtime).open(provider, threads)
        for runtime in ("torch", "onnx")
    )
    return torch, onnx
