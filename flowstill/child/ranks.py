"""The processes that do one task together: as a rule this one alone; a trainer may be several."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from flowstill.api.children import Result


class Ranks(Protocol):
    """All of them are started with the same command line, share the work folder, and end alike.

    Attributes:
        rank: of this process; rank 0 speaks for all: it alone writes the result and serves the progress.
        local_rank: its number on its node.
        size: how many they are.
    """

    rank: int
    local_rank: int
    size: int

    def begin(self, end: Callable[[Result], int]) -> None:
        """Find the others.

        Args:
            end: says a result and gives its exit code: for a process that can no longer do that by itself,
                because it waits for one that has ended.
        """
        ...

    def settled(self, result: Result) -> AbstractContextManager[Result]:
        """What all of them end with, which is what the first to end says; to be said within the context.

        Rank 0's comes first, because whoever started them may end the rest as soon as one has failed.
        """
        ...


class Alone:
    """One process."""

    rank, local_rank, size = 0, 0, 1

    def begin(self, end: Callable[[Result], int]) -> None:
        """See :class:`Ranks`."""

    @contextmanager
    def settled(self, result: Result) -> Iterator[Result]:
        """See :class:`Ranks`."""
        yield result


ALONE = Alone()
