"""A policy that learns: its trained parameters, the optimizer that changes them, and their moving average."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowstill.api.distilljob import Training
from flowstill.policies.flow import FlowPolicy
from flowstill_trainer.checkpoint import Tensors
from flowstill_trainer.parallel import Shared
from flowstill_trainer.processes import Processes


def adamw(policy: FlowPolicy, parameters: Iterable[Tensor], learning_rate: float) -> torch.optim.AdamW:
    """AdamW with the settings of the policy's own configuration."""
    config = policy.policy.config
    return torch.optim.AdamW(
        parameters,
        lr=learning_rate,
        betas=config.optimizer_betas,
        eps=config.optimizer_eps,
        weight_decay=config.optimizer_weight_decay,
    )


@dataclass(frozen=True)
class Learned:
    """What a learner is, in tensors by name.

    Attributes:
        weights: the trained parameters.
        average: their moving average; empty without one.
        moments: AdamW's state, ``NAME/exp_avg`` and so on.
    """

    weights: Tensors
    average: Tensors
    moments: Tensors


class Learner[Batch]:
    """A policy and the AdamW that descends a loss of batches, in this process and the others.

    Attributes:
        shared: how the processes do it together.
        average: the moving average of the parameters; empty where ``ema`` is 0.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        loss: Callable[[Batch], Tensor],
        processes: Processes,
        training: Training,
        *,
        ema: float = 0.0,
    ) -> None:
        self.shared = Shared(policy, loss, processes, training.parallel)
        self._clip, self._ema = training.gradient_clip, ema
        self._optimizer = adamw(policy, self.parameters.values(), training.learning_rate)
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()} if ema else {}

    @property
    def parameters(self) -> dict[str, Tensor]:
        """What is trained, by name; see :class:`~flowstill_trainer.parallel.Shared`."""
        return self.shared.parameters

    def update(self, batches: Sequence[Callable[[], Batch]], learning_rate: float) -> float:
        """One step of the optimizer by this process's batches of an update; returns the loss of all of the update.

        Raises:
            FloatingPointError: loss or gradient is not finite, as it says; no parameter has changed.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        value = self.shared.backward(batches)
        norm = self.shared.clip(self._clip)
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise FloatingPointError(f"loss {value}, gradient norm {norm}")
        self._optimizer.step()
        return value

    def follow(self, step: int) -> None:
        """Move the average towards the parameters after update ``step``; it forgets the first ones sooner."""
        if self.average:
            decay = min(self._ema, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)

    def published(self) -> Tensors:
        """The weights that would be published now: the average, if there is one."""
        return self.average or self.parameters

    def learned(self) -> Learned:
        """All of it in whole tensors; see :meth:`Shared.whole`."""
        whole, moments = self.shared.whole, Tensors()
        for name, parameter in self.parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                moments[f"{name}/{key}"] = whole(value)
        weights = {n: whole(p) for n, p in self.parameters.items()}
        return Learned(weights, {n: whole(p) for n, p in self.average.items()}, moments)

    def restore(self, found: Learned) -> None:
        """Become what was saved, bit for bit."""
        held = self.shared.as_held
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(held(name, found.weights[name]))
                if self.average:
                    self.average[name].copy_(held(name, found.average[name]))
        for name, value in found.moments.items():
            owner, _, key = name.rpartition("/")
            parameter = self.parameters[owner]
            self._optimizer.state[parameter][key] = value if key == "step" else held(owner, value)

    def use_published(self) -> None:
        """Hold what is published, in plain whole tensors on every process."""
        with torch.no_grad():
            for name, value in self.average.items():
                self.parameters[name].copy_(value)
        self.shared.release()
