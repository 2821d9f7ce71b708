"""Proportions, pairs and margins: the arithmetic behind the gates.

Pairs are counted as in McNemar's table: ``gained`` pairs where only the student succeeded, ``lost`` pairs
where only the baseline did, among ``pairs``. Differences are student minus baseline, as proportions. Levels
are one-sided 5 % unless said otherwise, so an :class:`Interval` of a difference is the two-sided 90 % one:
each of its ends is a one-sided 95 % bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats
from statsmodels.stats.proportion import proportion_confint

Floats = npt.NDArray[np.float64]

LEVEL = 0.05
POWER = 0.80
EXACT_PAIRS = 400
"""Up to so many pairs a claim is checked by enumeration; beyond, the score test is near enough."""
EXACT_TRIALS = 40
"""Up to so many trials a proportion's interval is exact; beyond, Wilson's covers what it says on average."""

_NUISANCE_POINTS = 96


@dataclass(frozen=True)
class Bounds:
    """The two ends of a confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class PairCounts:
    """McNemar's table of paired episodes."""

    both: int
    gained: int
    lost: int
    neither: int

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return self.both + self.gained + self.lost + self.neither

    @property
    def difference(self) -> float:
        """Student's proportion minus the baseline's."""
        return (self.gained - self.lost) / self.pairs

    @property
    def student(self) -> int:
        """Episodes that the student solved."""
        return self.both + self.gained

    @property
    def baseline(self) -> int:
        """Episodes that the baseline solved."""
        return self.both + self.lost


@lru_cache(maxsize=1024)
def z_of(level: float) -> float:
    """What a standard normal exceeds with that probability."""
    return float(stats.norm.isf(level))


def count_pairs(student_N: npt.NDArray[np.bool_], baseline_N: npt.NDArray[np.bool_]) -> PairCounts:
    """McNemar's table of two boolean arrays of the same episodes, shape (N,) each."""
    if student_N.shape != baseline_N.shape:
        raise ValueError(f"unpaired: {student_N.shape} against {baseline_N.shape}")
    return PairCounts(
        both=int(np.sum(student_N & baseline_N)),
        gained=int(np.sum(student_N & ~baseline_N)),
        lost=int(np.sum(~student_N & baseline_N)),
        neither=int(np.sum(~student_N & ~baseline_N)),
    )


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Bounds:
    """Wilson's score interval of a proportion (Wilson 1927, JASA 22)."""
    return _confint(successes, trials, confidence, "wilson")


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Bounds:
    """The exact interval of a proportion (Clopper & Pearson 1934, Biometrika 26)."""
    return _confint(successes, trials, confidence, "beta")


@lru_cache(maxsize=65_536)
def _confint(successes: int, trials: int, confidence: float, method: str) -> Bounds:
    low, high = proportion_confint(successes, trials, 1.0 - confidence, method)
    return Bounds(float(low), float(high))


def proportion_interval(successes: int, trials: int, confidence: float = 0.95) -> Bounds:
    """Interval of a proportion: exact up to :data:`EXACT_TRIALS` trials, Wilson's beyond."""
    interval = clopper_pearson if trials <= EXACT_TRIALS else wilson
    return interval(successes, trials, confidence)


def proportion_bounds(successes: int, trials: int, level: float = LEVEL) -> Bounds:
    """The same with each end a one-sided bound at ``level``."""
    return proportion_interval(successes, trials, 1.0 - 2.0 * level)


@lru_cache(maxsize=65_536)
def rate_above_p(events: int, trials: int, limit: float) -> float:
    """Exact p value of H0: events are no more likely than ``limit``."""
    return float(stats.binomtest(events, trials, limit, alternative="greater").pvalue)


@lru_cache(maxsize=65_536)
def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided McNemar test: are the two discordant counts those of a fair coin?"""
    return 1.0 if gained + lost == 0 else float(stats.binomtest(gained, gained + lost, 0.5).pvalue)


@lru_cache(maxsize=65_536)
def mcnemar_greater(more: int, fewer: int) -> float:
    """Exact one-sided McNemar test that the first discordant count is the larger one."""
    if more + fewer == 0:
        return 1.0
    return float(stats.binomtest(more, more + fewer, 0.5, alternative="greater").pvalue)


def score(gained: Floats | float, lost: Floats | float, pairs: int, difference: float) -> Floats:
    """Tango's score statistic for H0: the true difference is ``difference``.

    Tango 1998, Stat. Med. 17:891-908. Standard normal under H0 for many pairs; large when the observed
    difference is larger. The variance is that of the restricted maximum likelihood estimate of P(lost), a
    root of a quadratic.
    """
    a = 2.0 * pairs
    b = -gained - lost + (2.0 * pairs - gained + lost) * difference
    c = -lost * difference * (1.0 - difference)
    lost_probability = (np.sqrt(np.maximum(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)
    variance = pairs * (2.0 * lost_probability + difference * (1.0 - difference))
    distance = gained - lost - pairs * difference
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = distance / np.sqrt(np.maximum(variance, 0.0))
    return np.where(np.abs(distance) < 1e-9, 0.0, statistic)


def difference_interval(counts: PairCounts, level: float = LEVEL) -> Bounds:
    """Tango's score interval of the paired difference; each end is a one-sided bound at ``level``."""
    return _difference_interval(counts.gained, counts.lost, counts.pairs, level)


@lru_cache(maxsize=65_536)
def _difference_interval(gained: int, lost: int, pairs: int, level: float) -> Bounds:
    z = z_of(level)
    estimate, edge = (gained - lost) / pairs, 1.0 - 1e-9

    def bound(sign: float, end: float) -> float:
        def excess(difference: float) -> float:
            return float(score(gained, lost, pairs, difference)) - sign * z

        if abs(estimate - end) < 1e-6 or excess(estimate) * excess(end) > 0:
            return sign * -1.0
        return float(optimize.brentq(excess, estimate, end, xtol=1e-10))

    return Bounds(bound(1.0, -edge), bound(-1.0, edge))


def noninferior_p(counts: PairCounts, margin: float) -> float:
    """P value of H0: the student is worse by ``margin`` or more. Small means: within the margin."""
    return _paired_p(counts.gained, counts.lost, counts.pairs, margin)


def inferior_p(counts: PairCounts, margin: float) -> float:
    """P value of H0: the student is worse by at most ``margin``. Small means: worse than the margin."""
    return _paired_p(counts.lost, counts.gained, counts.pairs, -margin)


@lru_cache(maxsize=65_536)
def _paired_p(gained: int, lost: int, pairs: int, margin: float) -> float:
    """One-sided p value of H0: P(gained) − P(lost) ≤ −margin.

    Up to :data:`EXACT_PAIRS` pairs the unconditional exact test: outcomes are ordered by Tango's statistic
    and the tail's probability is maximised over the nuisance parameter (Hsueh, Liu & Chen 2001, Biometrics
    57:478-483). What points away from a rejection (p ≥ 0.5) is not enumerated.
    """
    observed = float(score(gained, lost, pairs, -margin))
    if pairs > EXACT_PAIRS or observed <= 0.0:
        return float(special.ndtr(-observed))
    statistic_GL, coefficient_GL = _outcomes(pairs, margin)
    counts = np.arange(pairs + 1.0)
    low, high = max(0.0, margin), (1.0 + margin) / 2.0
    # Denser near the low end, where few pairs are discordant and the tail's probability bends most.
    lost_Q = low + (high - low) * np.linspace(0.0, 1.0, _NUISANCE_POINTS) ** 2
    worst = 0.0
    for p_lost in lost_Q:
        p_gained = max(p_lost - margin, 0.0)
        p_rest = max(1.0 - p_lost - p_gained, 0.0)
        g, b = _likely(pairs, p_gained), _likely(pairs, p_lost)
        gained_G, lost_L = counts[g, None], counts[b]
        log_GL = coefficient_GL[g, b] + special.xlogy(gained_G, p_gained) + special.xlogy(lost_L, p_lost)
        log_GL += special.xlogy(np.maximum(pairs - gained_G - lost_L, 0.0), p_rest)
        worst = max(worst, float(np.exp(log_GL[statistic_GL[g, b] >= observed - 1e-9]).sum()))
    return min(worst, 1.0)


def _likely(pairs: int, probability: float) -> slice:
    """Counts outside of which a binomial lies with a probability too small to matter."""
    reach = 8.0 * np.sqrt(pairs * probability * (1.0 - probability)) + 12.0
    middle = pairs * probability
    return slice(max(int(middle - reach), 0), int(middle + reach) + 1)


@lru_cache(maxsize=64)
def _outcomes(pairs: int, margin: float) -> tuple[Floats, Floats]:
    """Statistic and log multinomial coefficient of all (gained, lost), (pairs + 1, pairs + 1); −∞: impossible."""
    gained_GL, lost_GL = np.meshgrid(np.arange(pairs + 1.0), np.arange(pairs + 1.0), indexing="ij")
    rest_GL = pairs - gained_GL - lost_GL
    possible_GL = rest_GL >= 0
    coefficient_GL = special.gammaln(pairs + 1) - (
        special.gammaln(gained_GL + 1) + special.gammaln(lost_GL + 1) + special.gammaln(np.maximum(rest_GL, 0) + 1)
    )
    statistic_GL = np.where(possible_GL, score(gained_GL, lost_GL, pairs, -margin), -np.inf)
    return statistic_GL, np.where(possible_GL, coefficient_GL, -np.inf)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the given order (Holm 1979, Scand. J. Stat. 6)."""
    p_T = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_T, kind="stable")
    steps = np.maximum.accumulate(p_T[order] * np.arange(len(p_T), 0, -1))
    adjusted = np.empty_like(p_T)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(p) for p in adjusted]


def required_pairs(
    margin: float, discordance: float, difference: float = 0.0, *, level: float = LEVEL, power: float = POWER
) -> int:
    """Paired episodes that decide a margin with that power, given true ``difference`` and ``discordance``.

    Normal approximation (z_level + z_power)² (discordance − difference²) / (difference + margin)², and
    never fewer than the exact test needs when no pair is discordant.

    Raises:
        ValueError: the difference is the margin itself; no number of episodes decides that.
    """
    distance = difference + margin
    if distance == 0.0:
        raise ValueError("a true difference equal to the margin cannot be decided by any number of episodes")
    z = z_of(level) + z_of(1.0 - power)
    spread = max(discordance - difference * difference, 0.0)
    silent = np.log(level) / np.log1p(-min(margin, 0.999))
    return int(np.ceil(max(z * z * spread / distance**2, silent)))


def pass_probability(pairs: int, margin: float, discordance: float, level: float = LEVEL) -> float:
    """How likely an equal student is shown to be within the margin, by Tango's score test.

    The sum over all counts of gained and lost pairs, each with half the discordance, that the test passes.
    """
    gained_G = np.arange(pairs + 1.0)[_likely(pairs, discordance / 2)]
    gained_GL, lost_GL = np.meshgrid(gained_G, gained_G, indexing="ij")
    rest_GL = pairs - gained_GL - lost_GL
    passes_GL = (rest_GL >= 0) & (score(gained_GL, lost_GL, pairs, -margin) >= z_of(level))
    gained_R, lost_R, rest_R = gained_GL[passes_GL], lost_GL[passes_GL], rest_GL[passes_GL]
    log_R = special.gammaln(pairs + 1) - (
        special.gammaln(gained_R + 1) + special.gammaln(lost_R + 1) + special.gammaln(rest_R + 1)
    )
    log_R += special.xlogy(gained_R + lost_R, discordance / 2) + special.xlogy(rest_R, 1.0 - discordance)
    return float(np.exp(log_R).sum())


def pairs_to_pass(margin: float, discordance: float, power: float, level: float = LEVEL) -> int:
    """Paired episodes that show an equal student to be within the margin with that power, about.

    Found by bisection of :func:`pass_probability`, which rises with the pairs but for the grain of whole ones;
    never fewer than the exact test needs when no pair differs.
    """
    too_few = int(np.log(level) / np.log1p(-min(margin, 0.999)))
    enough = max(required_pairs(margin, discordance, level=level, power=power), too_few + 1)
    while pass_probability(enough, margin, discordance, level) < power:
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if pass_probability(middle, margin, discordance, level) < power:
            too_few = middle
        else:
            enough = middle
    return enough


def episodes_to_decide(counts: PairCounts, margin: float) -> int:
    """How many pairs would decide a margin that these pairs left open.

    It assumes the measured difference and discordance. The discordance gets one pseudo-pair (few episodes
    may show none at all), a gain is not counted on (the student is taken as equal at best), and a
    difference that sits on the margin is moved a quarter of the margin away.
    """
    discordance = (counts.gained + counts.lost + 1) / (counts.pairs + 2)
    difference = min(counts.difference, 0.0)
    if abs(difference + margin) < margin / 4:
        difference = -margin * (0.75 if difference >= -margin else 1.25)
    return max(required_pairs(margin, max(discordance, abs(difference)), difference), counts.pairs + 1)


def percentile_ratio_interval(
    student_N: Floats, baseline_M: Floats, percentile: float, *, seed: int = 0, resamples: int = 20_000
) -> Bounds:
    """Bootstrap interval of a ratio of percentiles; each end is a one-sided 95 % bound.

    The k-th order statistic of a resample is the sample's own value at the rank of a Beta(k, n + 1 − k)
    variable, so the bootstrap distribution is drawn directly, without sorting any resample (Efron &
    Tibshirani 1993, chapter 17).
    """
    generator = np.random.Generator(np.random.Philox(seed))

    def draw(sample: Floats) -> Floats:
        n = len(sample)
        k = min(int(np.ceil(percentile * n)), n)
        rank = np.ceil(generator.beta(k, n + 1 - k, resamples) * n).astype(np.int64) - 1
        return np.sort(sample)[np.clip(rank, 0, n - 1)]

    ratio = draw(student_N) / draw(baseline_M)
    return Bounds(float(np.quantile(ratio, LEVEL)), float(np.quantile(ratio, 1.0 - LEVEL)))


def percentile_value(sample_N: Floats, percentile: float) -> float:
    """The order statistic that :func:`percentile_ratio_interval` resamples."""
    k = min(int(np.ceil(percentile * len(sample_N))), len(sample_N))
    return float(np.partition(sample_N, k - 1)[k - 1])


def mean_interval(sample_N: Floats) -> Bounds:
    """Student's t interval of a mean; each end is a one-sided 95 % bound."""
    mean, n = float(np.mean(sample_N)), len(sample_N)
    half = float(stats.t.isf(LEVEL, n - 1) * np.std(sample_N, ddof=1) / np.sqrt(n))
    return Bounds(mean - half, mean + half)


def wasserstein(student_N: Floats, baseline_M: Floats) -> float:
    """Wasserstein-1 distance of two samples, in their own unit."""
    return float(stats.wasserstein_distance(student_N, baseline_M))


def wasserstein_error(
    student_NJ: Floats,
    baseline_MJ: Floats,
    *,
    blocks: int = 100,
    bins: int = 256,
    seed: int = 0,
    resamples: int = 500,
) -> Floats:
    """Bootstrap standard error of the distance of each of J joints, shape (J,).

    Rows follow one another in time and are not independent, so contiguous blocks are resampled (Künsch 1989,
    Ann. Stat. 17:1217-1241). A distance between samples is biased upwards, a resampled one twice over:
    the resamples' spread is of use, their place is not.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    low_J = np.minimum(student_NJ.min(axis=0), baseline_MJ.min(axis=0))
    high_J = np.maximum(student_NJ.max(axis=0), baseline_MJ.max(axis=0))
    width_J = np.where(high_J > low_J, (high_J - low_J) / bins, 1.0)

    def resample(rows_NJ: Floats) -> Floats:
        counts_BJG = _block_histograms(rows_NJ, low_J, width_J, blocks, bins)
        n_blocks, joints = counts_BJG.shape[:2]
        weight_RB = generator.multinomial(n_blocks, np.full(n_blocks, 1.0 / n_blocks), resamples).astype(np.float64)
        total_RJG = (weight_RB @ counts_BJG.reshape(n_blocks, -1)).reshape(resamples, joints, bins)
        cumulative: Floats = np.cumsum(total_RJG, axis=2)
        return cumulative / cumulative[:, :, -1:]

    distance_RJ = np.abs(resample(student_NJ) - resample(baseline_MJ)).sum(axis=2) * width_J
    error_J: Floats = distance_RJ.std(axis=0, ddof=1)
    return error_J


def _block_histograms(rows_NJ: Floats, low_J: Floats, width_J: Floats, blocks: int, bins: int) -> Floats:
    cell_NJ = np.clip(((rows_NJ - low_J) / width_J).astype(np.int64), 0, bins - 1)
    block_N = np.arange(len(rows_NJ)) * blocks // len(rows_NJ)
    joints = rows_NJ.shape[1]
    flat = (block_N[:, None] * joints + np.arange(joints)) * bins + cell_NJ
    counts = np.bincount(flat.ravel(), minlength=blocks * joints * bins).reshape(blocks, joints, bins)
    filled: Floats = counts[counts.sum(axis=(1, 2)) > 0].astype(np.float64)
    return filled
