"""Trainings that are killed again and again."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest


class Killed(Exception):
    """In the place of SIGKILL: nothing is saved for it."""


def killed_again(make: Callable[..., Any], kills: Iterable[tuple[str, int]]) -> None:
    """Train what ``make(heard=…)`` makes until the first kill, then what it makes from the checkpoints until the next.

    Args:
        make: of a trainer with a watch that tells ``heard`` of its looks.
        kills: ``("step", n)``, after the n-th step, and ``("look", n)``, in the look at it.
    """
    for kill in kills:

        def die(place: str, step: int, *_: Any, kill: tuple[str, int] = kill) -> None:
            if (place, step) == kill:
                raise Killed

        cut = make(heard=partial(die, "look"))
        with pytest.raises(Killed):
            cut.run(partial(die, "step"), lambda: False)
