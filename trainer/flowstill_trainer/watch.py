"""A student watched while it trains: looks at its held-out fidelity, and the weights to go back to.

A look is a function of the weights alone: the observations, the noises and the teacher's chunks are the same for all.
So a run that was interrupted makes the looks that it would have made. What is known lies in the checkpoints; the
teacher's chunks, which cost the most, lie beside them.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from flowstill.artifacts.curve import Curve, Look
from flowstill.errors import Interrupted, NonFiniteLoss
from flowstill.policies.flow import FlowPolicy
from flowstill_trainer.fidelity import CHUNKS, HeldOut, Stopped, describe
from flowstill_trainer.files import keep, kept
from flowstill_trainer.finite import check_teacher
from flowstill_trainer.learner import Learner
from flowstill_trainer.processes import Processes
from flowstill_trainer.selection import Choice, choose, nearest, newest

logger = logging.getLogger(__name__)
REFERENCE = "reference"
"""Purpose of the noises that every look and the teacher share."""


@dataclass(frozen=True)
class Reference:
    """The teacher's chunks at its own steps on held-out observations, and the noises that they come from."""

    held_out: HeldOut
    noise_BNKHD: Tensor
    chunk_BNF: Tensor
    teacher_steps: int


def make_reference(
    folder: Path, inputs: str, held_out: HeldOut, teacher: FlowPolicy, *, steps: int, seed: int, stopped: Stopped
) -> Reference:
    """The teacher's chunks, computed once and kept in ``folder`` for the next attempt.

    Raises:
        Interrupted: ``stopped()``.
        TeacherRejected: a chunk is not finite; none is kept.
    """
    noise = held_out.noise(teacher, seed, REFERENCE)
    path = folder / "reference.safetensors"
    known = kept(path, inputs)
    if known is not None:
        chunk_BNF = known["chunk"]
    else:
        chunk_BNF = held_out.samples(
            teacher, lambda prefix, noise_BKHD: teacher.chunk(prefix, noise_BKHD[:, 0], steps), noise, stopped
        )
        check_teacher(chunk_BNF, held_out.index_B, held_out.frames, bf16=False)
        keep(path, {"chunk": chunk_BNF}, inputs)
    return Reference(held_out, noise, chunk_BNF, steps)


def is_look(step: int, every: int, last: int) -> bool:
    """Whether the student is looked at after that step: every ``every`` steps, 0 for never, and after the last."""
    return step == last or (every > 0 and step > 0 and step % every == 0)


class Watch:
    """Looks at a student, and keeps the weights of the best look in memory, on the CPU.

    Attributes:
        looks: in the order of steps.
        best: weights of the look that is nearest to the teacher's distribution; from the refinement on, of the newest
            one that is not collapsed. Empty when none is usable.
    """

    def __init__(
        self,
        reference: Reference,
        student: FlowPolicy,
        every: int,
        last: int,
        announce: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        """Every ``every`` steps, 0 for never before the end, and at step ``last``; ``announce`` hears step and loss."""
        self._reference, self._student, self._every, self._last = reference, student, every, last
        self._announce = announce
        self.looks: tuple[Look, ...] = ()
        self.best: dict[str, Tensor] = {}
        self._phase: Literal["training", "refinement"] = "training"
        self._first, self._keep = 0, nearest

    def refine(self, steps: int, weights: Mapping[str, Tensor]) -> None:
        """From now on look at a refinement of so many steps; with these weights it begins."""
        self._phase, self._keep = "refinement", newest
        self._first, self._last = self._last, self._last + steps
        self.restore(self.looks, weights)

    def due(self, step: int) -> bool:
        """Whether a look at this step is wanted and not yet made."""
        wanted = is_look(step - self._first, self._every, self._last - self._first)
        return wanted and (not self.looks or self.looks[-1].step < step)

    def look(self, step: int, loss: float, weights: Mapping[str, Tensor], stopped: Stopped) -> Look:
        """Look at the student with these trained weights; its own are back when this returns.

        Raises:
            Interrupted: ``stopped()``; nothing of the look is kept.
            NonFiniteLoss: the student's chunks are not numbers.
        """
        self._announce(step, loss)
        seen = self._reference
        with wearing(self._student, weights):
            chunk_BNF = seen.held_out.samples(
                self._student,
                lambda prefix, noise_BKHD: self._student.jump(prefix, noise_BKHD)[:, 0],
                seen.noise_BNKHD,
                stopped,
            )
        if not bool(chunk_BNF.isfinite().all()):
            raise NonFiniteLoss(
                f"step {step}: the student's chunks on held-out observations are not finite; lower learningRate or use "
                "precision fp32",
                field={"training": "spec.training", "refinement": "spec.method.refine"}[self._phase],
            )
        found = describe(step, loss, chunk_BNF, seen.chunk_BNF).model_copy(update={"phase": self._phase})
        self.looks = (*self.looks, found)
        if self._keep(self.looks) is found:
            self.best = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}
        error = 0.0 if found.distance_error is None else found.distance_error
        logger.info("step %d: energy distance %.4f ± %.4f, spread %.2f", step, found.distance, error, found.spread)
        return found

    def state(self, step: int) -> tuple[tuple[Look, ...], dict[str, Tensor]]:
        """What a checkpoint of this step keeps: the looks, and the best weights unless they are the step's own."""
        found = self._keep(self.looks)
        own = found is not None and found.step == step
        return self.looks, {} if own else self.best

    def restore(self, looks: tuple[Look, ...], best: Mapping[str, Tensor]) -> None:
        """Know what an earlier attempt knew; ``best`` are the best weights, whatever when no look is usable."""
        self.looks = looks
        self.best = {name: weight.to("cpu", copy=True) for name, weight in best.items()} if self._keep(looks) else {}

    def choice(self) -> Choice:
        """The step to publish; its weights are the current ones or ``best``."""
        return choose(self.looks)

    def curve(self) -> Curve:
        """What is published of it."""
        choice = self.choice()
        return Curve(
            teacher_steps=self._reference.teacher_steps,
            observations=len(self._reference.held_out.index_B),
            chunks=CHUNKS,
            steps=self._last,
            published_step=choice.step,
            reason=choice.reason,
            looks=list(self.looks),
        )


def hold_chosen(watch: Watch | None, step: int, parameters: Mapping[str, Tensor]) -> None:
    """Give the student after its last ``step`` the weights of the step that the watch chose."""
    if watch is not None and watch.choice().step != step:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(watch.best[name])


def unseen(watch: Watch | None, step: int, loss: float | None) -> bool:
    """Whether this process should look at the student as it is now, and has not; ``loss`` is the last update's."""
    return watch is not None and loss is not None and watch.due(step)


def look_together(
    watch: Watch | None, learner: Learner[Any], processes: Processes, step: int, loss: float | None, stopped: Stopped
) -> None:
    """Look at a student that several processes train: all make it whole, the one that has a watch looks.

    The others wait for it without a timeout. A look that is cut short by ``stopped()`` is not made.
    """
    if not processes.any(unseen(watch, step, loss)):
        return
    weights = {name: learner.shared.whole(value) for name, value in learner.published().items()}
    with learner.shared.gathered(), suppress(Interrupted):
        if watch is not None and loss is not None:
            watch.look(step, loss, weights, stopped)
    processes.meet("look")  # a collective operation would give up on a long look


@contextmanager
def wearing(student: FlowPolicy, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The student with other trained weights, by exchanging storages: nothing is copied, nothing is rounded."""
    own = {name: (parameter, parameter.data) for name, parameter in student.trained()}
    try:
        for name, (parameter, _) in own.items():
            parameter.data = weights[name].detach().to(parameter.device)
        yield
    finally:
        for parameter, data in own.values():
            parameter.data = data
