"""How far one-step chunks are from the teacher's distribution, on held-out observations.

Chunk error alone falls when samples collapse to their mean, so distances are between distributions (energy
distance) and the spread over noises stands beside them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from lerobot_policy_flowstill.draws import densest_chunk
from lerobot_policy_flowstill.prefix import Prefix
from torch import Tensor

from flowstill.api.distilljob import Fidelity
from flowstill.policies.flow import FlowPolicy
from flowstill_trainer.data import Frames
from flowstill_trainer.randomness import Order, generator

OBSERVATIONS = 64
CHUNKS = 16

Sampler = Callable[[Prefix, Tensor], Tensor]


def energy_distance(x_BNF: Tensor, y_BNF: Tensor) -> float:
    """Mean over B of 2·E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖, unbiased, per square root of the dimension; at least 0."""
    scale = x_BNF.shape[-1] ** 0.5

    def within(a_BNF: Tensor) -> Tensor:
        count = a_BNF.shape[1]
        mean_B: Tensor = torch.cdist(a_BNF, a_BNF).sum((1, 2)) / (count * (count - 1))
        return mean_B

    between_B = torch.cdist(x_BNF, y_BNF).mean((1, 2))
    distance = float((2 * between_B - within(x_BNF) - within(y_BNF)).mean()) / scale
    return distance if distance > 0 else 0.0


def spread(x_BNF: Tensor) -> float:
    """Standard deviation over draws, mean over observations and dimensions."""
    return float(x_BNF.std(1).mean())


@dataclass(frozen=True)
class Arm:
    """A way to make chunks: ``sample(prefix, noise_BKHD) → (B, H, D)``, from ``draws`` noises and its own prefix."""

    name: str
    draws: int
    sample: Sampler
    policy: FlowPolicy


def arms(teacher: FlowPolicy, student: FlowPolicy, teacher_steps: int) -> list[Arm]:
    """Teacher at its own steps, 4, 2 and 1; the student with one draw, and with all when it has more."""

    def teacher_at(steps: int) -> Sampler:
        return lambda prefix, noise_BKHD: teacher.chunk(prefix, noise_BKHD[:, 0], steps)

    def student_chunk(prefix: Prefix, noise_BKHD: Tensor) -> Tensor:
        chunk_BHD: Tensor = densest_chunk(
            student.jump(prefix, noise_BKHD),
            action_steps=student.action_steps,
            action_dim=student.action_dim,
            neighbours=student.neighbours,
        )[0]
        return chunk_BHD

    found = [Arm("teacher@10", 1, teacher_at(teacher_steps), teacher)]
    found += [Arm(f"teacher@{steps}", 1, teacher_at(steps), teacher) for steps in (4, 2, 1)]
    found.append(Arm("student", 1, student_chunk, student))
    if student.draws > 1:
        found.append(Arm("student-draws", student.draws, student_chunk, student))
    return found


def measure(
    teacher: FlowPolicy, student: FlowPolicy, frames: Frames, *, teacher_steps: int, seed: int
) -> list[Fidelity]:
    """Every arm against fresh chunks of the teacher at its own steps."""
    count = min(OBSERVATIONS, len(frames.held_out_V))
    index_B = frames.held_out_V[Order(seed, "fidelity", len(frames.held_out_V)).take(0, count)]
    with torch.no_grad():
        observations = frames.observations(index_B)
        theirs = teacher.encode_prefix(teacher.preprocess(observations))
        ours = student.encode_prefix(student.preprocess(observations)) if student.state_out else theirs
        every = arms(teacher, student, teacher_steps)
        reference = _samples(every[0], theirs, student, seed, "reference")
        results = []
        for arm in every:
            samples = _samples(arm, ours if arm.policy is student else theirs, student, seed, arm.name)
            relative = spread(samples) / max(spread(reference), 1e-9)
            results.append(Fidelity(name=arm.name, distance=energy_distance(samples, reference), spread=relative))
    return results


def _samples(arm: Arm, prefix: Prefix, student: FlowPolicy, seed: int, purpose: str) -> Tensor:
    """(B, N, F): N independent chunks an observation, the executed steps' real dimensions in a row."""
    random = generator(seed, f"fidelity-{purpose}", 0)
    count = prefix.pad_mask_BP.shape[0]
    shape = (count * CHUNKS, arm.draws, student.chunk_size, student.padded_action_dim)
    chunk_XHD = arm.sample(prefix.repeat(CHUNKS), torch.randn(shape, generator=random).to(student.device))
    used_XHA = chunk_XHD[:, : student.action_steps, : student.action_dim]
    return used_XHA.float().flatten(1).unflatten(0, (count, CHUNKS)).cpu()
