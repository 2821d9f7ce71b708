"""When an evaluation looks at its evidence, and how much of its error rate each look may spend.

The looks are fixed by the spec before the first episode is run: numbers of episodes per task at which the
evaluation is judged, and ends if nothing is open. A test that is repeated at every look at its full level
would be wrong far more often than it says; so each look has a level of its own, and the levels of all looks
add up to the level of the whole. By the union bound a claim that holds at its look's level at *whichever*
look the evaluation ends is wrong no more often than the whole level, whatever the test is (exact ones stay
exact) and however the looks depend on one another.
"""

import math
from collections.abc import Sequence

from scipy import stats

MOST_LOOKS = 5


def schedule(first: int, most: int) -> tuple[int, ...]:
    """Numbers of episodes per task at which to look: from ``first`` to ``most``, about doubling each time.

    Steps are equal ratios, so that no look lies just before another, and there are at most
    :data:`MOST_LOOKS` of them. 50 and 200 give 50, 100, 200.

    Raises:
        ValueError: not 1 ≤ first ≤ most.
    """
    if not 1 <= first <= most:
        raise ValueError(f"looks go from at least 1 up, not from {first} to {most} episodes per task")
    if first == most:
        return (most,)
    steps = min(max(round(math.log2(most / first)), 1), MOST_LOOKS - 1)
    numbers = [round(first * (most / first) ** (step / steps)) for step in range(steps + 1)]
    return tuple(dict.fromkeys(numbers))


def level_of(looks: Sequence[int], present: int, level: float) -> float:
    """What the look at ``present`` episodes per task may spend of a one-sided ``level``.

    The O'Brien-Fleming-like spending function 2 − 2 Φ(z_{level/2} / √t), t = present / most, of Lan & DeMets
    1983 (Biometrika 70:659-663); a look may spend what it gives more than at the look before. Nearly all is
    left for the last look. A single look has the whole level.

    Raises:
        ValueError: ``present`` is none of the looks.
    """
    if present not in looks:
        raise ValueError(f"{present} episodes per task is none of the looks {', '.join(map(str, looks))}")
    index = list(looks).index(present)
    spent = _spent(looks[index] / looks[-1], level)
    return spent - (_spent(looks[index - 1] / looks[-1], level) if index else 0.0)


def _spent(fraction: float, level: float) -> float:
    # At the end it is the level itself, and not within a rounding of it: one look is the fixed-sample test.
    return level if fraction == 1.0 else float(2.0 * stats.norm.sf(stats.norm.isf(level / 2.0) / math.sqrt(fraction)))
