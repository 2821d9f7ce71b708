"""The embedding φ_s of the target time: what tells a student how far to jump."""

import math

import torch
from torch import Tensor, nn

MIN_PERIOD, MAX_PERIOD = 4e-3, 4.0


def sinusoid(time_B: Tensor, width: int) -> Tensor:
    """Sines and cosines of ``time_B`` with log-spaced periods from 4e-3 to 4; (B, width), float32."""
    exponent = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float32, device=time_B.device)
    period = MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD) ** exponent
    angle = time_B.float()[:, None] * (2 * math.pi / period)[None]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def check_times(time_B: Tensor, target_B: Tensor) -> None:
    """That a student is trained for these pairs: s = t, or the whole jump, t = 1 and s = 0.

    It reads values, which a graph has none of: nothing is checked while one is traced or compiled.

    Raises:
        ValueError: naming the first other pair.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    trained_B = (target_B == time_B) | ((time_B == 1) & (target_B == 0))
    if not bool(trained_B.all()):
        time, target = (float(each[trained_B.logical_not()][0]) for each in (time_B, target_B))
        raise ValueError(
            f"a student is trained for s = t and for t = 1, s = 0; what it gives for t = {time:g}, s = {target:g} "
            "means nothing. Pass any_pair=True to have it all the same"
        )


class TargetTimeEmbedding(nn.Module):  # type: ignore[misc]
    """sinusoid(s) → Linear → SiLU → Linear, added to the time embedding (SnapFlow, arXiv 2604.05656).

    Only the output layer starts at zero, so the student starts as its teacher, bit for bit, for any s. Were the
    first layer zero too, its gradient would stay exactly zero for ever.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, target_time_B: Tensor) -> Tensor:
        """(B,) → (B, width)."""
        embedded = sinusoid(target_time_B, self.width).to(self.hidden.weight.dtype)
        return self.output(nn.functional.silu(self.hidden(embedded)))
