"""Known values from the literature, and simulated or enumerated error rates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from flowstill_evaluator import statistics as s
from flowstill_evaluator.statistics import PairCounts

counts = st.tuples(*[st.integers(0, 60)] * 4).filter(lambda c: sum(c) > 0).map(lambda c: PairCounts(*c))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_in_newcombe_1998(successes, trials, low, high):
    bounds = s.wilson(successes, trials)
    assert (bounds.low, bounds.high) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9, 0.98])
def test_wilson_covers_about_what_it_says(rate):
    trials = 200
    weight = stats.binom.pmf(np.arange(trials + 1), trials, rate)
    covered = [(b := s.wilson(k, trials)).low <= rate <= b.high for k in range(trials + 1)]
    assert 0.93 <= float(np.dot(weight, covered)) <= 0.98


def test_mcnemar_is_a_fair_coin_on_discordant_pairs():
    assert s.mcnemar(1, 7) == pytest.approx(2 * 9 / 256)
    assert s.mcnemar(0, 0) == 1.0
    assert s.mcnemar_greater(5, 0) == pytest.approx(1 / 32)
    assert s.mcnemar_greater(0, 5) == 1.0
    assert s.mcnemar_greater(0, 0) == 1.0


def test_tango_interval_of_published_example():
    # Airway reactivity around transplantation: Fagerland, Lydersen & Laake 2014, Stat. Med. 33:2850.
    bounds = s.difference_interval(PairCounts(1, 1, 7, 12), level=0.025)
    assert (bounds.low, bounds.high) == (pytest.approx(-0.517, abs=5e-4), pytest.approx(-0.026, abs=5e-4))


@given(counts, st.floats(-0.4, 0.4))
@settings(max_examples=60, deadline=None)
def test_score_variance_is_that_of_the_restricted_maximum_likelihood(table, difference):
    if abs(difference) < 0.01:
        return
    n, gained, lost = table.pairs, table.gained, table.lost
    low, high = max(0.0, -difference), (1.0 - difference) / 2

    def negative(q):
        p = (max(q + difference, 1e-12), max(q, 1e-12), max(1 - 2 * q - difference, 1e-12))
        return -sum(k * np.log(x) for k, x in zip((gained, lost, n - gained - lost), p, strict=True))

    q = optimize.minimize_scalar(negative, bounds=(low, high), method="bounded", options={"xatol": 1e-10}).x
    variance = n * (2 * q + difference * (1 - difference))
    distance = gained - lost - n * difference
    if abs(distance) < 1e-3 or variance < 1e-3:
        return
    assert float(s.score(gained, lost, n, difference)) == pytest.approx(distance / np.sqrt(variance), rel=2e-3)


@given(counts)
@settings(max_examples=80, deadline=None)
def test_difference_interval_holds_the_estimate_and_mirrors(table):
    bounds = s.difference_interval(table)
    mirrored = s.difference_interval(PairCounts(table.both, table.lost, table.gained, table.neither))
    assert -1 <= bounds.low <= table.difference + 1e-9
    assert table.difference - 1e-9 <= bounds.high <= 1
    assert (mirrored.low, mirrored.high) == (
        pytest.approx(-bounds.high, abs=1e-6),
        pytest.approx(-bounds.low, abs=1e-6),
    )


@pytest.mark.parametrize(("p_gained", "p_lost"), [(0.03, 0.03), (0.02, 0.05), (0.1, 0.1)])
def test_lower_bound_covers_in_simulation(p_gained, p_lost):
    generator, runs, truth = np.random.default_rng(5), 800, p_gained - p_lost
    drawn = generator.multinomial(200, [p_gained, p_lost, 1 - p_gained - p_lost], runs)
    covered = [s.difference_interval(PairCounts(int(r), int(g), int(b), 0)).low <= truth for g, b, r in drawn]
    assert 0.92 <= np.mean(covered) <= 0.985


@pytest.mark.parametrize("pairs", [25, 60])
@pytest.mark.parametrize("p_lost", [0.1, 0.12, 0.2])
def test_exact_test_keeps_its_level_at_the_margin(pairs, p_lost):
    margin = 0.1
    gained, lost = (x.ravel() for x in np.indices((pairs + 1, pairs + 1)))
    gained, lost = gained[gained + lost <= pairs], lost[gained + lost <= pairs]
    likely = stats.multinomial.pmf(
        np.stack([gained, lost, pairs - gained - lost], axis=1),
        pairs,
        [p_lost - margin, p_lost, 1 - 2 * p_lost + margin],
    )
    worth = likely > 1e-5
    size = sum(
        p
        for g, b, p in zip(gained[worth], lost[worth], likely[worth], strict=True)
        if s.noninferior_p(PairCounts(pairs - g - b, int(g), int(b), 0), margin) <= s.LEVEL
    )
    assert size <= s.LEVEL + 1e-3


def test_exact_test_without_discordant_pairs_is_a_power():
    assert s.noninferior_p(PairCounts(99, 0, 0, 0), 0.03) == pytest.approx(0.97**99, rel=1e-6)
    assert s.noninferior_p(PairCounts(98, 0, 0, 0), 0.03) > 0.05


def test_inferiority_is_the_mirror_and_many_pairs_use_the_score():
    assert s.inferior_p(PairCounts(0, 0, 1, 0), 0.03) == pytest.approx(0.515)
    assert s.inferior_p(PairCounts(30, 0, 20, 0), 0.03) < 0.001
    assert s.inferior_p(PairCounts(45, 2, 3, 0), 0.03) > 0.3
    many = PairCounts(900, 20, 25, 55)
    assert s.noninferior_p(many, 0.03) == pytest.approx(stats.norm.sf(float(s.score(20, 25, 1000, -0.03))))


def test_holm_of_known_values():
    assert s.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert s.holm([0.9, 0.8]) == [1.0, 1.0]
    assert s.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(p_values):
    adjusted = s.holm(p_values)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    assert [a for _, a in sorted(zip(p_values, adjusted, strict=True))] == sorted(adjusted)


@pytest.mark.parametrize(
    ("margin", "rate", "pairs"), [(0.1, 0.9, 112), (0.1, 0.8, 198), (0.1, 0.6, 297), (0.05, 0.95, 235)]
)
def test_required_episodes_as_for_independent_arms(margin, rate, pairs):
    # Independent arms are pairs with a discordance of 2 p (1 − p).
    assert s.required_pairs(margin, 2 * rate * (1 - rate)) == pairs


def test_required_episodes_give_the_power_they_promise():
    pairs = s.required_pairs(0.03, 0.05)
    drawn = np.random.default_rng(3).multinomial(pairs, [0.025, 0.025, 0.95], 600)
    shown = [s.difference_interval(PairCounts(int(r), int(g), int(b), 0)).low > -0.03 for g, b, r in drawn]
    assert 0.72 <= np.mean(shown) <= 0.9


def test_required_episodes_refuses_the_undecidable_and_counts_silence():
    with pytest.raises(ValueError, match="cannot be decided"):
        s.required_pairs(0.03, 0.05, -0.03)
    assert s.required_pairs(0.03, 0.0) == 99
    assert s.episodes_to_decide(PairCounts(45, 0, 2, 3), 0.03) > 50
    assert s.episodes_to_decide(PairCounts(48, 0, 0, 2), 0.03) >= 99


def test_percentile_bootstrap_agrees_with_resampling():
    generator = np.random.default_rng(1)
    a, b = generator.lognormal(2, 0.1, 1000), generator.lognormal(3, 0.1, 1000)
    bounds = s.percentile_ratio_interval(a, b, 0.99)
    resampled = [
        s.percentile_value(generator.choice(a, 1000), 0.99) / s.percentile_value(generator.choice(b, 1000), 0.99)
        for _ in range(2000)
    ]
    assert bounds.low == pytest.approx(np.quantile(resampled, 0.05), rel=0.02)
    assert bounds.high == pytest.approx(np.quantile(resampled, 0.95), rel=0.02)
    assert bounds == s.percentile_ratio_interval(a, b, 0.99)


def test_mean_interval_is_students():
    bounds = s.mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    half = 2.353363 * np.sqrt(5 / 3) / 2
    assert (bounds.low, bounds.high) == (pytest.approx(2.5 - half), pytest.approx(2.5 + half))


def test_wasserstein_error_grows_with_dependence_in_time():
    generator = np.random.default_rng(2)
    loose = generator.normal(size=(4000, 2))
    sticky = np.repeat(generator.normal(size=(100, 2)), 40, axis=0)
    of_loose = s.wasserstein_error(loose, loose[::-1].copy())
    of_sticky = s.wasserstein_error(sticky, sticky[::-1].copy())
    assert (of_loose > 0).all()
    assert (of_sticky > 2 * of_loose).all()


def test_wasserstein_of_a_shift_is_the_shift():
    sample = np.random.default_rng(0).normal(size=500)
    assert s.wasserstein(sample + 0.3, sample) == pytest.approx(0.3)


def test_unpaired_arrays_are_refused():
    with pytest.raises(ValueError, match="unpaired"):
        s.count_pairs(np.ones(3, dtype=bool), np.ones(4, dtype=bool))
