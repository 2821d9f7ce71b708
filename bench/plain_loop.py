"""What Flowstill's trainer is measured against: a plain loop of LeRobot's forward, and counters of what a step costs.

Every velocity of the plain loop is one call of LeRobot's joint training forward, which prepares the images, runs the
VLM's prefix and the expert together and keeps nothing for the next call. The loss is SnapFlow's as the trainer has it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from flowstill.api.distilljob import Method, Training
from flowstill.policies.flow import FlowPolicy
from flowstill_trainer.batches import Batch
from flowstill_trainer.methods.snapflow import masked_mean
from flowstill_trainer.train import autocast, learning_rate

Observations = dict[str, Any]


@dataclass
class Cost:
    """What one step asked of the networks, in samples.

    Attributes:
        expert: rows that went through the expert.
        gradient: those of them with gradient.
        passes: passes of the VLM.
        prefix: rows that went through the VLM.
    """

    expert: int = 0
    gradient: int = 0
    passes: int = 0
    prefix: int = 0


@contextmanager
def counted(*policies: FlowPolicy) -> Iterator[Cost]:
    """Count what these policies compute.

    ``action_out_proj`` ends every call of an expert, ``embed_prefix`` begins every pass of a VLM.
    """
    cost = Cost()

    def expert(module: Any, inputs: Any, output: Tensor) -> None:
        cost.expert += output.shape[0]
        cost.gradient += output.shape[0] if output.requires_grad else 0

    def prefix(original: Any) -> Any:
        def embed_prefix(*inputs: Any, **options: Any) -> Any:
            found = original(*inputs, **options)
            cost.passes += 1
            cost.prefix += found[1].shape[0]  # the mask (B, P)
            return found

        return embed_prefix

    with ExitStack() as stack:
        for model in (policy.policy.model for policy in policies):
            stack.callback(model.action_out_proj.register_forward_hook(expert).remove)
            stack.enter_context(mock.patch.object(model, "embed_prefix", prefix(model.embed_prefix)))
        yield cost


def rows_of(observations: Observations, rows: slice) -> Observations:
    """Some rows of a preprocessed batch."""
    return {k: v[rows] for k, v in observations.items() if isinstance(v, Tensor) and v.ndim}


@contextmanager
def target_time(model: Any, s_B: Tensor) -> Iterator[None]:
    """LeRobot's forward hands a student one time; here it gets the pair of it and ``s_B``."""
    original = model.embed_suffix

    def embed_suffix(*inputs: Any) -> Any:
        return original(*inputs[:-1], torch.stack([inputs[-1], s_B], dim=1))

    with mock.patch.object(model, "embed_suffix", embed_suffix):
        yield


def squared_error(
    policy: FlowPolicy, observations: Observations, action_BHD: Tensor, noise_BHD: Tensor, t_B: Tensor
) -> Tensor:
    """LeRobot's training forward: ``(ε − a − v(x_t, t))²``, (B, H, D)."""
    seen = policy.prepared(observations)
    state = [] if seen.state is None else [seen.state]
    return policy.policy.model.forward(
        seen.images, seen.image_masks, seen.tokens, seen.token_mask, *state, action_BHD, noise_BHD, t_B
    )


def velocity(policy: FlowPolicy, observations: Observations, x_BHD: Tensor, t_B: Tensor) -> Tensor:
    """The velocity that LeRobot's training forward computes on its way; with ε = a = x it is x_t for every t."""
    found: list[Tensor] = []
    hook = policy.policy.model.action_out_proj.register_forward_hook(lambda module, seen, v: found.append(v))
    try:
        squared_error(policy, observations, x_BHD, x_BHD, t_B)
    finally:
        hook.remove()
    return found[0].float()


class PlainLoop:
    """SnapFlow without anything that makes it fast. The teacher is a second, whole copy of the model.

    Attributes:
        training: its options.
    """

    def __init__(self, student: FlowPolicy, teacher: FlowPolicy, method: Method, training: Training) -> None:
        self.student, self.teacher, self.method, self.training = student, teacher, method, training
        self.parameters = [parameter for _, parameter in student.trained()]
        config = student.policy.config
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=training.learning_rate,
            betas=config.optimizer_betas,
            eps=config.optimizer_eps,
            weight_decay=config.optimizer_weight_decay,
        )
        self.step = 0

    def update(self, batch: Batch) -> float:
        """One step of the optimizer; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.training)
        with autocast(self.training, self.student.device):
            loss = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.training.gradient_clip)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def loss(self, batch: Batch) -> Tensor:
        """SnapFlow's: one forward of the flow-matching rows, one of the jumps, and those of the jumps' targets.

        Raises:
            ValueError: the batch lacks the observations of some rows.
        """
        samples, real = batch.samples, self.student.action_dim
        if batch.observations is None or batch.prefix is not None:
            raise ValueError("a plain loop needs the observations of all rows: give it a bank without prefixes")
        flow = samples.action_FHD.shape[0]
        noise_FHD, noise_CHD = samples.noise_BHD[:flow], samples.noise_BHD[flow:]
        total = noise_CHD.new_zeros(())
        if flow:
            seen = rows_of(batch.observations, slice(None, flow))
            error_FHD = squared_error(self.student, seen, samples.action_FHD, noise_FHD, samples.t_F)
            total = total + (1 - self.method.mix_ratio) * masked_mean(error_FHD[..., :real], samples.valid_FH)
        if len(noise_CHD):
            seen = rows_of(batch.observations, slice(flow, None))
            one_C = noise_CHD.new_ones(len(noise_CHD))
            chunk_CHD = self.rollout(seen, noise_CHD)
            # At t = 1, x_t is the noise and ε − a what leads from it to the rollout: the forward's error is L_c.
            with target_time(self.student.policy.model, torch.zeros_like(one_C)):
                error_CHD = squared_error(self.student, seen, chunk_CHD, noise_CHD, one_C)
            weight = self.method.mix_ratio * self.method.consistency_weight
            total = total + weight * error_CHD[..., :real].mean()
        return total

    def rollout(self, observations: Observations, noise_CHD: Tensor) -> Tensor:
        """Euler steps without gradient, of the student itself when there are two, else of the teacher."""
        steps = self.method.target_steps
        source = self.student if steps == 2 else self.teacher
        x_CHD = noise_CHD
        with torch.no_grad():
            for step in range(steps):
                t_C = noise_CHD.new_full((len(noise_CHD),), 1.0 - step / steps)
                x_CHD = x_CHD - velocity(source, observations, x_CHD, t_C) / steps
        return x_CHD
