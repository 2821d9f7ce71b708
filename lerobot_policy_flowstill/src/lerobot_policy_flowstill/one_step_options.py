"""The options that every student's configuration has beside those of its teacher."""

from dataclasses import dataclass


@dataclass
class OneStepOptions:
    """How a chunk is chosen, and what was trained.

    Attributes:
        draws: noises per observation, K; the densest of the K chunks is returned.
        draw_neighbours: neighbours that count for the density of a chunk.
        multi_step: the flow-matching half was trained, so several Euler steps are meaningful too.
    """

    draws: int = 1
    draw_neighbours: int = 3
    multi_step: bool = False

    def check(self, steps: int) -> None:
        """Refuse combinations that were never trained.

        Raises:
            ValueError: naming the option.
        """
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, not {self.draws}")
        if self.draws > 1 and not 1 <= self.draw_neighbours <= self.draws // 2:
            raise ValueError(f"draw_neighbours must be 1 to draws / 2 = {self.draws // 2}, not {self.draw_neighbours}")
        if steps != 1 and not self.multi_step:
            raise ValueError(f"this student was trained for one step only (mixRatio 1, or refined), not for {steps}")
