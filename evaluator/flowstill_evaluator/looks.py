"""When an evaluation looks at its evidence, and at which level it tests at each look.

The looks are fixed by the spec before the first episode is run: numbers of episodes per task at which the
evaluation is judged, and ends if nothing is open. A test that is repeated at every look at its full level is
wrong far more often than it says. So every look has a smaller level of its own, chosen such that a claim
that is not true is made at any of the looks no more often than the whole level: a group-sequential test with
alpha spending.
"""

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
from scipy import optimize, stats

from flowstill_evaluator.statistics import Floats

MOST_LOOKS = 5

_GRID = 501
_FAR = 8.0  # standard deviations
_LEAST = 1e-14  # what a look spends at least, so that its boundary is a number


def schedule(first: int, most: int) -> tuple[int, ...]:
    """Numbers of episodes per task at which to look, evenly spaced: 50 and 200 give 50, 100, 150, 200.

    Steps are about ``first``, or longer where that would make more than :data:`MOST_LOOKS` looks.

    Raises:
        ValueError: not 1 ≤ first ≤ most.
    """
    if not 1 <= first <= most:
        raise ValueError(f"looks go from at least 1 up, not from {first} to {most} episodes per task")
    if first == most:
        return (most,)
    looks = min(max(round(most / first), 2), MOST_LOOKS)
    return tuple(dict.fromkeys(round(number) for number in np.linspace(first, most, looks)))


def level_of(looks: tuple[int, ...], present: int, level: float) -> float:
    """The one-sided level of the look at ``present`` episodes per task, for a ``level`` of all looks together.

    A single look has the whole level.

    Raises:
        ValueError: ``present`` is none of the looks.
    """
    if present not in looks:
        raise ValueError(f"{present} episodes per task is none of the looks {', '.join(map(str, looks))}")
    return _levels(looks, level)[looks.index(present)]


@lru_cache(maxsize=256)
def _levels(looks: tuple[int, ...], level: float) -> tuple[float, ...]:
    """Levels that spend what the spending function gives, under the looks' joint normal distribution.

    The statistic at a look is a Brownian motion at its fraction of the episodes. Its density among the paths
    that crossed no earlier boundary is carried from look to look by numerical integration (Armitage,
    McPherson & Rowe 1969, J. R. Stat. Soc. A 132:235-244); each boundary is where the rest of the path is
    crossed with the probability that the look may spend (Lan & DeMets 1983, Biometrika 70:659-663).
    """
    fractions = [look / looks[-1] for look in looks]
    levels = [max(spent(fractions[0], level), _LEAST)]
    edge = stats.norm.isf(levels[0]) * math.sqrt(fractions[0])
    place_G = np.linspace(-_FAR * math.sqrt(fractions[0]), edge, _GRID)
    density_G = stats.norm.pdf(place_G, scale=math.sqrt(fractions[0]))
    for before, now in pairwise(fractions):
        step, at = math.sqrt(now - before), math.sqrt(now)
        share = max(spent(now, level) - spent(before, level), _LEAST)
        edge = optimize.brentq(_crossed, -2 * _FAR, 2 * _FAR, args=(place_G, density_G, step, share), xtol=1e-9)
        levels.append(float(stats.norm.sf(edge / at)))
        following_G = np.linspace(-_FAR * at, edge, _GRID)
        kernel_GG = stats.norm.pdf(following_G[:, None], loc=place_G, scale=step)
        density_G = np.trapezoid(kernel_GG * density_G, place_G, axis=1)
        place_G = following_G
    return tuple(levels)


def _crossed(edge: float, place_G: Floats, density_G: Floats, step: float, share: float = 0.0) -> float:
    """Probability of a path to lie beyond the edge one step on, less ``share``."""
    return float(np.trapezoid(density_G * stats.norm.sf((edge - place_G) / step), place_G)) - share


def spent(fraction: float, level: float) -> float:
    """What may be spent up to that fraction of the episodes: 2 − 2 Φ(z_{level/2} / √fraction).

    Lan and DeMets' function like O'Brien and Fleming's boundary: little early, nearly all at the end.
    """
    # At the end it is the level itself, and not within a rounding of it: one look is the fixed-sample test.
    return level if fraction == 1.0 else float(2.0 * stats.norm.sf(stats.norm.isf(level / 2.0) / math.sqrt(fraction)))
