"""A policy's trained parameters and the optimizer that changes them."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from flowstill.policies.flow import FlowPolicy
from flowstill_trainer.checkpoint import Tensors


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


class Learner:
    """AdamW with the settings of the policy's own configuration, at a constant learning rate.

    Attributes:
        parameters: what :meth:`~flowstill.policies.flow.FlowPolicy.trained` names.
    """

    def __init__(self, policy: FlowPolicy, learning_rate: float, gradient_clip: float) -> None:
        self.parameters: dict[str, Tensor] = dict(policy.trained())
        self._clip = gradient_clip
        self._optimizer = adamw(policy, self.parameters.values(), learning_rate)

    def update(self, parts: Iterable[Tensor]) -> float:
        """Descend the sum of the parts by one step, and return it. Each part is gone before the next is computed.

        Raises:
            FloatingPointError: the sum or its gradient is not finite, as it says; no parameter has changed.
        """
        self._optimizer.zero_grad(set_to_none=True)
        losses = []
        for loss in parts:
            loss.backward()
            losses.append(loss.detach())
        value = float(torch.stack(losses).sum())
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self._clip))
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise FloatingPointError(f"loss {value}, gradient norm {norm}")
        self._optimizer.step()
        return value

    def weights(self) -> Tensors:
        """The parameters as they are."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def moments(self) -> Tensors:
        """The optimizer's state, ``NAME/exp_avg`` and so on."""
        state = self._optimizer.state
        return {f"{n}/{key}": value for n, p in self.parameters.items() for key, value in state.get(p, {}).items()}

    def restore(self, weights: Tensors, moments: Tensors) -> None:
        """Become what was saved, bit for bit."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
        for name, value in moments.items():
            owner, _, key = name.rpartition("/")
            parameter = self.parameters[owner]
            self._optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)
