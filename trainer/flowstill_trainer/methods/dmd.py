"""Distribution matching (DMD, arXiv 2311.18828): the student's chunks as a whole come to lie as the teacher's do.

A second velocity net, ``fake``, starts as the teacher and follows the student's own chunks by flow matching. Where
fake and teacher would denoise the student's noised chunk to different places, the student moves from the one to the
other: that is the gradient of the KL divergence between the two distributions (equation 7), in the paper's
per-sample scale (equation 8). There is no regression loss and the fake gets more updates than the student, as in DMD2
(arXiv 2405.14867); that combination was the better one on the two-way task too.

All arithmetic here is fp32 on real action dimensions. A student's padded dimensions are trained by nothing, so fake
and teacher see zeros in their place, as in the teacher's training data.
"""

from dataclasses import dataclass

import torch
from lerobot_policy_flowstill.prefix import Prefix
from torch import Tensor, nn

from flowstill.policies.flow import FlowPolicy, conditional_velocity, estimate_data, interpolate

LOWEST_TIME, HIGHEST_TIME = 0.02, 0.98
"""Flow times of the comparison, as in the paper: neither nearly clean nor nearly pure noise."""
SMALLEST_SCALE = 1e-6


@dataclass(frozen=True)
class Draw:
    """The random numbers of one update of a student or a fake.

    Attributes:
        start_BHD: x_1 of the student's jump.
        noise_BHD: ε that the chunk is noised with.
        t_B: how far it is noised.
    """

    start_BHD: Tensor
    noise_BHD: Tensor
    t_B: Tensor

    def part(self, rows: slice, device: torch.device) -> "Draw":
        """Those of some of the observations."""
        return Draw(self.start_BHD[rows].to(device), self.noise_BHD[rows].to(device), self.t_B[rows].to(device))


def draw(policy: FlowPolicy, size: int, random: torch.Generator) -> Draw:
    """Fresh numbers for ``size`` observations, on the CPU."""
    start_BHD, noise_BHD = torch.randn((2, size, policy.chunk_size, policy.padded_action_dim), generator=random)
    return Draw(start_BHD, noise_BHD, LOWEST_TIME + (HIGHEST_TIME - LOWEST_TIME) * torch.rand(size, generator=random))


def student_chunk(student: FlowPolicy, prefix: Prefix, start_BHD: Tensor) -> Tensor:
    """The student's chunk, (B, H, D) with zeros in padded dimensions, with gradient: its jump from t = 1 to s = 0."""
    t_B = start_BHD.new_ones(start_BHD.shape[0])
    # any_pair: it is (1, 0), and looking at it would wait for the GPU.
    velocity_BHD = student.velocity(prefix, start_BHD, t_B, torch.zeros_like(t_B), any_pair=True)
    chunk_BHD = estimate_data(start_BHD, velocity_BHD, t_B)
    padding = student.padded_action_dim - student.action_dim
    return nn.functional.pad(chunk_BHD[..., : student.action_dim], (0, padding))


def fake_loss(fake: FlowPolicy, prefix: Prefix, chunk_BHD: Tensor, numbers: Draw) -> Tensor:
    """Flow matching of the fake on the student's chunks, which get no gradient from it."""
    chunk_BHD = chunk_BHD.detach()
    x_t_BHD = interpolate(chunk_BHD, numbers.noise_BHD, numbers.t_B)
    error_BHD = fake.velocity(prefix, x_t_BHD, numbers.t_B) - conditional_velocity(chunk_BHD, numbers.noise_BHD)
    return error_BHD[..., : fake.action_dim].square().mean()


def direction(fake: FlowPolicy, teacher: FlowPolicy, prefix: Prefix, chunk_BHD: Tensor, numbers: Draw) -> Tensor:
    """What the student's chunk descends, (B, H, A): (â_fake − â_teacher) / mean|a − â_teacher|, without gradient.

    The mean is over a sample's steps and real dimensions; â is where a velocity at x_t points.
    """
    with torch.no_grad():
        x_t_BHD = interpolate(chunk_BHD, numbers.noise_BHD, numbers.t_B)
        fake_BHA, teacher_BHA = (
            estimate_data(x_t_BHD, net.velocity(prefix, x_t_BHD, numbers.t_B), numbers.t_B)[..., : net.action_dim]
            for net in (fake, teacher)
        )
        scale_B11 = (chunk_BHD[..., : teacher.action_dim] - teacher_BHA).abs().mean(dim=(1, 2), keepdim=True)
        return (fake_BHA - teacher_BHA) / scale_B11.clamp_min(SMALLEST_SCALE)


def surrogate(chunk_BHA: Tensor, direction_BHA: Tensor) -> Tensor:
    """``½·mean(a − sg(a − g))²``: its gradient with respect to the chunk is g over the number of elements.

    A mean, so that gradients have the size of the training's, and ``gradientClip`` its meaning. Its value is ½·mean g².
    """
    return 0.5 * (chunk_BHA - (chunk_BHA - direction_BHA).detach()).square().mean()
