"""SnapFlow (arXiv 2604.05656): one loss of flow matching and of a one-step jump.

``L = α·L_FM + (1 − α)·λ·L_c`` with ``1 − α = mixRatio``; an empty part contributes 0.

* ``L_FM = ‖F(x_t, t, t) − (ε − a)‖²`` on noised dataset samples, t from LeRobot's own time law;
* ``L_c = ‖F(x_1, 0, 1) − target‖²``, always from t = 1 to s = 0, where ``x_1 − target`` is a rollout from ``x_1``:
  with ``targetSteps`` 2 the student's own two Euler steps without gradient (the paper), with more the frozen
  teacher's. A state-out student's targets are the teacher's always.
"""

from dataclasses import dataclass

import torch
from lerobot_policy_flowstill.prefix import Prefix
from torch import Tensor

from flowstill.policies.flow import FlowPolicy, average_velocity, conditional_velocity, euler, interpolate


@dataclass(frozen=True)
class Counts:
    """Over how many steps of chunks the means of an update's loss go, whatever part of it is computed; each ().

    Attributes:
        flow: those of the flow-matching rows that lie within their episodes.
        jump: those of the jumps' rows.
    """

    flow: Tensor
    jump: Tensor


@dataclass(frozen=True)
class Samples:
    """One batch: the first F rows are flow matching, the other C = B − F are jumps.

    Attributes:
        action_FHD: normalised dataset chunks, padded.
        valid_FH: which of their steps lie within the episode.
        t_F: flow times.
        noise_BHD: ε of the first rows, x_1 of the others.
        rollout_CHD: the teacher's chunks from ``noise_BHD[F:]`` when they come from a bank.
        counts: of the whole update that these rows are a part of; None: of these rows.
    """

    action_FHD: Tensor
    valid_FH: Tensor
    t_F: Tensor
    noise_BHD: Tensor
    rollout_CHD: Tensor | None = None
    counts: Counts | None = None


@dataclass(frozen=True)
class Loss:
    """The loss and its parts, each before weighting; of a part of an update, what it adds to the update's."""

    total: Tensor
    flow_matching: Tensor
    consistency: Tensor


def split(batch_size: int, mix_ratio: float) -> tuple[int, int]:
    """How many rows are flow matching and how many are jumps; static, so that compiled graphs stay."""
    flow = round((1 - mix_ratio) * batch_size)
    return flow, batch_size - flow


@dataclass(frozen=True)
class SnapFlow:
    """The method with its options.

    Attributes:
        target_steps: Euler steps of the rollout that makes the target.
        mix_ratio: 1 − α.
        consistency_weight: λ.
        own_targets: with two target steps they are the student's own.
    """

    target_steps: int
    mix_ratio: float
    consistency_weight: float
    own_targets: bool = True

    @property
    def needs_teacher(self) -> bool:
        """Whether targets come from a frozen teacher."""
        return (self.target_steps > 2 or not self.own_targets) and self.mix_ratio > 0

    def loss(
        self,
        student: FlowPolicy,
        teacher: FlowPolicy | None,
        prefix: Prefix,
        samples: Samples,
        teacher_prefix: Prefix | None = None,
    ) -> Loss:
        """The loss of one batch, by one call of the student with gradient. All arithmetic here is fp32.

        Losses and gradients of the parts of an update add up to those of the whole: means go over ``samples.counts``.
        ``teacher_prefix`` is that of the jumps' rows where the teacher sees another prefix than the student.
        """
        flow = samples.action_FHD.shape[0]
        noise_BHD = samples.noise_BHD
        target_CHD = self.target(student, teacher, prefix, samples, teacher_prefix)
        jumps = noise_BHD.shape[0] - flow
        x_BHD = torch.cat([interpolate(samples.action_FHD, noise_BHD[:flow], samples.t_F), noise_BHD[flow:]])
        t_B = torch.cat([samples.t_F, samples.t_F.new_ones(jumps)])
        s_B = torch.cat([samples.t_F, samples.t_F.new_zeros(jumps)])
        # any_pair: these are s = t and (1, 0) by the lines above, and looking at them would wait for the GPU.
        error_BHA = student.velocity(prefix, x_BHD, t_B, s_B, any_pair=True).float()[..., : student.action_dim]
        velocity_FHD = conditional_velocity(samples.action_FHD, noise_BHD[:flow])
        error_FHA = error_BHA[:flow] - velocity_FHD[..., : student.action_dim]
        error_CHA = error_BHA[flow:] - target_CHD[..., : student.action_dim]
        every_CH = torch.ones_like(error_CHA[..., 0], dtype=torch.bool)
        counts = samples.counts or Counts(samples.valid_FH.sum(), every_CH.sum())
        flow_loss = masked_mean(error_FHA.square(), samples.valid_FH, counts.flow)
        jump_loss = masked_mean(error_CHA.square(), every_CH, counts.jump)
        total = (1 - self.mix_ratio) * flow_loss + self.mix_ratio * self.consistency_weight * jump_loss
        return Loss(total, flow_loss.detach(), jump_loss.detach())

    def target(
        self,
        student: FlowPolicy,
        teacher: FlowPolicy | None,
        prefix: Prefix,
        samples: Samples,
        teacher_prefix: Prefix | None = None,
    ) -> Tensor:
        """The average velocity that the jump regresses to, (C, H, D), without gradient."""
        flow = samples.action_FHD.shape[0]
        noise_CHD = samples.noise_BHD[flow:]
        if noise_CHD.shape[0] == 0:
            return noise_CHD
        if samples.rollout_CHD is not None:
            return average_velocity(noise_CHD, samples.rollout_CHD)
        source = teacher if self.needs_teacher else student
        if source is None:
            raise ValueError(f"targetSteps {self.target_steps} needs the frozen teacher")
        with torch.no_grad():
            # Not student.chunk(…): its target is the rollout of instantaneous velocities, s = t.
            seen = prefix[flow:] if teacher_prefix is None else teacher_prefix
            return average_velocity(noise_CHD, euler(source, seen, noise_CHD, self.target_steps))


def masked_mean(error_BHA: Tensor, valid_BH: Tensor, steps: Tensor | None = None) -> Tensor:
    """The sum over the valid steps as a part of a mean over ``steps``, by default these; 0 when there is none."""
    count = (valid_BH.sum() if steps is None else steps) * error_BHA.shape[-1]
    return (error_BHA * valid_BH[..., None]).sum() / count.clamp_min(1)
