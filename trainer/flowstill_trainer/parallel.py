"""The loss as a module over what is trained, so that DDP or FSDP brings the processes' gradients together.

LeRobot's models call parts of their layers, never whole layers, so no layer's hooks would fire: one forward of
:class:`Pass` is all of a batch's loss, and that is what both wrap. It holds the trained modules only; what is frozen
stays as it is on every process.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from flowstill.policies.flow import FlowPolicy
from flowstill_trainer.processes import Processes


class Pass(nn.Module):  # type: ignore[misc]
    """What a batch adds to the loss of its update, by the modules that own what is trained."""

    def __init__(self, owners: Iterable[nn.Module], loss: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.owners = nn.ModuleList(owners)
        self._loss = loss

    def forward(self, batch: Any) -> Tensor:
        """The loss, ()."""
        return self._loss(batch)


class Shared[Batch]:
    """What all processes train together: one policy, by the loss of batches.

    With ``ddp`` every process holds all weights, gradients and moments. With ``fsdp`` each holds its share of them;
    the weights are whole while a batch is computed. Either way gradients are sums over the processes.

    Attributes:
        parameters: what is trained, by name: plain tensors, or the shares of ``fsdp``.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        loss: Callable[[Batch], Tensor],
        processes: Processes,
        kind: Literal["ddp", "fsdp"] = "ddp",
    ) -> None:
        self._policy, self._processes = policy, processes
        names = [name for name, _ in policy.trained()]
        owners = {name.rpartition(".")[0]: None for name in names}
        self._pass: Any = Pass((policy.policy.get_submodule(name) for name in owners), loss)
        self._sharded = kind == "fsdp" and processes.size > 1
        if self._sharded:
            fully_shard(self._pass, mesh=init_device_mesh(policy.device.type, (processes.size,)))
        elif processes.size > 1:
            self._pass = DistributedDataParallel(self._pass, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.parameters: dict[str, Tensor] = dict(policy.trained())

    def backward(self, batches: Sequence[Callable[[], Batch]]) -> float:
        """Add the gradients of an update, this process's part of which are ``batches``; returns its whole loss."""
        losses = []
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            # FSDP adds every batch's gradients to the shares at once: whole ones would take the memory that it saves.
            alone = isinstance(self._pass, DistributedDataParallel) and not last
            with self._pass.no_sync() if alone else nullcontext():
                loss = self._pass(batch())
                # Both divide by the number of processes; the batches' losses add up.
                (loss * self._processes.size if self._processes.size > 1 else loss).backward()
            losses.append(loss.detach())
        return self._processes.total(float(torch.stack(losses).sum()))

    def clip(self, limit: float) -> float:
        """Scale the gradients to a norm of at most ``limit``; returns what it was."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a tensor of the training's state, on rank 0. With ``fsdp`` all processes must call it."""
        if not isinstance(tensor, DTensor):
            return tensor.detach()
        full = tensor.full_tensor()
        return full.cpu() if self._processes.first else full[:0]  # a GPU need not hold all of the state at once

    def as_held(self, name: str, value: Tensor) -> Tensor:
        """A whole tensor in the form that its parameter has here."""
        parameter = self.parameters[name]
        value = value.to(parameter.device)
        if not isinstance(parameter, DTensor):
            return value
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """The policy has whole weights within; with ``fsdp`` all processes must enter and leave it."""
        if self._sharded:
            self._pass.unshard()
        try:
            yield
        finally:
            if self._sharded:
                self._pass.reshard()

    def release(self) -> None:
        """The policy is as it was before, with the trained weights: plain, whole on every process. It ends this."""
        if self._sharded:
            for name, parameter in self.parameters.items():
                owner, _, short = name.rpartition(".")
                whole = nn.Parameter(parameter.detach().full_tensor())
                setattr(self._policy.policy.get_submodule(owner), short, whole)
        self.parameters = dict(self._policy.trained())
        self._pass = None  # its buffers are as large as the gradients
