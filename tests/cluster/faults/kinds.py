"""The faults that the proxy can make, and which requests each may befall."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.cluster.faults.calls import Call

Kind = Literal[
    "conflict",
    "gone",
    "invalid",
    "too many",
    "error",
    "slow",
    "lost request",
    "lost answer",
    "cut",
    "silent",
    "duplicated",
    "reordered",
]
ANSWERS: dict[Kind, tuple[int, str]] = {
    "conflict": (409, "Conflict"),
    "invalid": (422, "Invalid"),
    "too many": (429, "TooManyRequests"),
    "error": (500, "InternalError"),
}
"""Answers that the proxy gives itself: the API server is not asked."""
STREAMS: tuple[Kind, ...] = ("gone", "cut", "silent", "duplicated", "reordered")
"""What happens to a watch that has begun."""
ONLY_WRITES: tuple[Kind, ...] = ("conflict", "invalid", "lost request", "lost answer")


def anything(call: Call) -> bool:
    """Every request."""
    del call
    return True


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        chance: for each request that it may befall, and of a duplicated or reordered one for each event.
        where: which requests of those that this kind may befall.
        times: how often at most; None for no limit.
    """

    kind: Kind
    chance: float = 1.0
    where: Callable[[Call], bool] = anything
    times: int | None = None

    def may_befall(self, call: Call) -> bool:
        """Whether the request is of the kind that this fault happens to."""
        if call.watch:
            return self.kind in (*STREAMS, "error", "too many", "slow") and self.where(call)
        if self.kind in STREAMS or (self.kind in ONLY_WRITES and not call.writes):
            return False
        return self.where(call)
