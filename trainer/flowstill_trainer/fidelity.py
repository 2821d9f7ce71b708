"""How far one-step chunks are from the teacher's distribution, on held-out observations.

Chunk error alone falls when samples collapse to their mean, so distances are between distributions (energy
distance) and the spread over noises stands beside them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from lerobot_policy_flowstill.draws import densest_chunk
from lerobot_policy_flowstill.prefix import Prefix
from torch import Tensor
from torch.nn.functional import cosine_similarity

from flowstill.api.distilljob import Fidelity
from flowstill.artifacts.curve import Look
from flowstill.errors import Interrupted
from flowstill.policies.flow import FlowPolicy
from flowstill_trainer.data import Frames
from flowstill_trainer.portions import cache_size, rows_at_once
from flowstill_trainer.randomness import Order, generator

OBSERVATIONS = 64
CHUNKS = 16
ROWS = 256
"""Noises of one call of the expert at most: what a look takes in memory does not grow with the policy's draws."""
NO_SPREAD = 1e-6
"""Below it a policy counts as certain; a student that is as certain as its teacher has the ratio 1."""

Sampler = Callable[[Prefix, Tensor], Tensor]
Stopped = Callable[[], bool]


def energy_distances(x_BNF: Tensor, y_BNF: Tensor, *, same_noise: bool = False) -> Tensor:
    """2·E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖ of every observation (Székely and Rizzo 2013), per √F, (B,).

    Without bias, so it may be below 0. With ``same_noise`` x and y of one number come from one noise, so they are no
    independent pair and stay out of the first mean; what is left out varies much less, because the noise is shared.
    """

    def without_own(distance_BNN: Tensor) -> Tensor:
        count = distance_BNN.shape[1]
        own_B = distance_BNN.diagonal(dim1=1, dim2=2).sum(-1)
        mean_B: Tensor = (distance_BNN.sum((1, 2)) - own_B) / (count * (count - 1))
        return mean_B

    between_BNN = torch.cdist(x_BNF, y_BNF)
    between_B = without_own(between_BNN) if same_noise else between_BNN.mean((1, 2))
    distance_B = 2 * between_B - without_own(torch.cdist(x_BNF, x_BNF)) - without_own(torch.cdist(y_BNF, y_BNF))
    return distance_B / x_BNF.shape[-1] ** 0.5


def energy_distance(x_BNF: Tensor, y_BNF: Tensor) -> float:
    """Mean over observations of the distance between independent samples; at least 0."""
    return max(0.0, float(energy_distances(x_BNF, y_BNF).mean()))


def spread(x_BNF: Tensor) -> float:
    """Standard deviation over draws, mean over observations and dimensions."""
    return float(x_BNF.std(1).mean())


def relative_spread(x_BNF: Tensor, reference_BNF: Tensor) -> float:
    """Spread as a multiple of the reference's."""
    return max(spread(x_BNF), NO_SPREAD) / max(spread(reference_BNF), NO_SPREAD)


def standard_error(values_B: Tensor) -> float:
    """Of the mean; infinite for a single value."""
    return float(values_B.std() / len(values_B) ** 0.5) if len(values_B) > 1 else math.inf


def describe(step: int, loss: float, student_BNF: Tensor, teacher_BNF: Tensor) -> Look:
    """A student's chunks beside the teacher's from the same noises."""
    student_BNF, teacher_BNF = student_BNF.double(), teacher_BNF.double()
    distance_B = energy_distances(student_BNF, teacher_BNF, same_noise=True)
    error_X = (student_BNF - teacher_BNF).square().mean(-1).flatten()
    cosine_BNN = cosine_similarity(student_BNF[:, :, None], teacher_BNF[:, None], dim=-1)
    other_BNN = cosine_BNN.masked_fill(torch.eye(cosine_BNN.shape[1], dtype=torch.bool), -1.0)
    error = standard_error(distance_B)
    return Look(
        step=step,
        loss=loss,
        distances=distance_B.tolist(),
        distance=float(distance_B.mean()),
        distance_error=error if math.isfinite(error) else None,
        spread=relative_spread(student_BNF, teacher_BNF),
        cosine=float(cosine_BNN.diagonal(dim1=1, dim2=2).mean()),
        nearest_cosine=float(other_BNN.amax(-1).mean()),
        mse_mean=float(error_X.mean()),
        mse_median=float(error_X.median()),
        mse_p90=float(error_X.quantile(0.9)),
        mse_p95=float(error_X.quantile(0.95)),
        mean_error=float((student_BNF.mean(1) - teacher_BNF.mean(1)).square().mean()),
    )


@dataclass(frozen=True)
class HeldOut:
    """The observations that every look sees, and how chunks there become samples. N chunks an observation."""

    frames: Frames
    index_B: Tensor
    action_steps: int
    action_dim: int

    @classmethod
    def of(cls, frames: Frames, student: FlowPolicy, seed: int) -> "HeldOut":
        """Some of the held-out frames, always the same."""
        count = min(OBSERVATIONS, len(frames.held_out_V))
        index_B = frames.held_out_V[Order(seed, "fidelity", len(frames.held_out_V)).take(0, count)]
        return cls(frames, index_B, student.action_steps, student.action_dim)

    def noise(self, policy: FlowPolicy, seed: int, purpose: str, draws: int = 1) -> Tensor:
        """Noises for every chunk, (B, N, K, H, D), on the CPU."""
        shape = (len(self.index_B), CHUNKS, draws, policy.chunk_size, policy.padded_action_dim)
        return torch.randn(shape, generator=generator(seed, f"fidelity-{purpose}", 0))

    def samples(
        self, policy: FlowPolicy, sample: Sampler, noise_BNKHD: Tensor, stopped: Stopped = lambda: False
    ) -> Tensor:
        """(B, N, F): each chunk's executed steps' real dimensions in a row, on the CPU.

        Raises:
            Interrupted: ``stopped()``, asked before every call of the expert.
        """
        count, chunks, draws = noise_BNKHD.shape[:3]
        rows = rows_at_once(cache_size(policy, self.frames, self.index_B), ROWS)
        size = max(1, rows // (chunks * draws))
        group = min(chunks, max(1, rows // draws))
        parts = []
        for first in range(0, count, size):
            index_b = self.index_B[first : first + size]
            prefix = policy.encode_prefix(policy.preprocess(self.frames.observations(index_b)))
            found = []
            for start in range(0, chunks, group):
                if stopped():
                    raise Interrupted("stopped while measuring fidelity")
                noise_bnKHD = noise_BNKHD[first : first + size, start : start + group]
                with torch.no_grad():
                    chunk_XHD = sample(prefix.repeat(noise_bnKHD.shape[1]), noise_bnKHD.flatten(0, 1).to(policy.device))
                used_XHA = chunk_XHD[:, : self.action_steps, : self.action_dim]
                found.append(used_XHA.float().flatten(1).unflatten(0, (len(index_b), -1)).cpu())
            parts.append(torch.cat(found, 1))
        return torch.cat(parts)


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
    held_out: HeldOut,
    teacher: FlowPolicy,
    student: FlowPolicy,
    reference_BNF: Tensor,
    *,
    teacher_steps: int,
    seed: int,
    stopped: Stopped = lambda: False,
) -> list[Fidelity]:
    """Every arm, on noises of its own, against the teacher's chunks at its own steps.

    Raises:
        Interrupted: ``stopped()``.
    """
    results = []
    for arm in arms(teacher, student, teacher_steps):
        noise = held_out.noise(arm.policy, seed, arm.name, arm.draws)
        samples = held_out.samples(arm.policy, arm.sample, noise, stopped)
        distance, relative = energy_distance(samples, reference_BNF), relative_spread(samples, reference_BNF)
        results.append(Fidelity(name=arm.name, distance=distance, spread=relative))
    return results
