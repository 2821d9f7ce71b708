"""The student as modules from named tensors to named tensors: in one piece, and as prefix and expert."""

from lerobot_policy_flowstill.prefix import Prefix, Prepared
from torch import Tensor, nn

from flowstill.policies.flow import FlowPolicy

OUTPUTS = ("actions", "all_actions", "index", "density")
STATE = "state"

Inputs = dict[str, Tensor]
Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


class OneStepGraph(nn.Module):  # type: ignore[misc]
    """The student from preprocessed tensors; t = 1 and s = 0 are constants."""

    def __init__(self, student: FlowPolicy) -> None:
        super().__init__()
        self.model = student.policy.model

    def forward(self, observation: Inputs, noise: Tensor) -> Outputs:
        """The chosen chunk, all chunks, the choice and the densities."""
        found: Outputs = self.model.sample_all(Prepared.of(observation), noise)
        return found


class PrefixGraph(nn.Module):  # type: ignore[misc]
    """The VLM's part: from preprocessed tensors to what the expert sees of them."""

    def __init__(self, student: FlowPolicy) -> None:
        super().__init__()
        self.model = student.policy.model

    def forward(self, observation: Inputs) -> tuple[Tensor, ...]:
        """The tensors of :meth:`Prefix.named`, without the state: that is an input of the expert itself."""
        return tuple(value for name, value in self.named(observation).items() if name != STATE)

    def named(self, observation: Inputs) -> Inputs:
        """All by name; with the state where it is a token of the expert's own."""
        prefix: Prefix = self.model.encode(Prepared.of(observation))
        return prefix.named()


class ExpertGraph(nn.Module):  # type: ignore[misc]
    """The action expert's part, once for all draws."""

    def __init__(self, student: FlowPolicy) -> None:
        super().__init__()
        self.model = student.policy.model

    def forward(self, prefix: Inputs, noise: Tensor) -> Outputs:
        """As :meth:`OneStepGraph.forward`, from :meth:`PrefixGraph.named`."""
        found: Outputs = self.model.sample_after(Prefix.of(prefix), noise)
        return found
