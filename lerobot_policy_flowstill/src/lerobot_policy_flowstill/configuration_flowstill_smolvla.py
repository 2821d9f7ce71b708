"""Configuration of a one-step SmolVLA student."""

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig


@PreTrainedConfig.register_subclass("flowstill_smolvla")
@dataclass
class FlowstillSmolVLAConfig(SmolVLAConfig):  # type: ignore[misc]
    """SmolVLA's own fields, and how a chunk is chosen.

    Attributes:
        num_steps: 1: a student needs one function evaluation. More is refused unless ``multi_step``.
        draws: noises per observation, K; the densest of the K chunks is returned.
        draw_neighbours: neighbours that count for the density of a chunk.
        multi_step: the flow-matching half was trained, so several Euler steps are meaningful too.
    """

    num_steps: int = 1
    draws: int = 1
    draw_neighbours: int = 3
    multi_step: bool = False

    def __post_init__(self) -> None:
        """Refuse combinations that were never trained."""
        super().__post_init__()
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, not {self.draws}")
        if self.draws > 1 and not 1 <= self.draw_neighbours <= self.draws // 2:
            raise ValueError(f"draw_neighbours must be 1 to draws / 2 = {self.draws // 2}, not {self.draw_neighbours}")
        if self.num_steps != 1 and not self.multi_step:
            raise ValueError("this student was trained for one step only (mixRatio 1): num_steps must be 1")
