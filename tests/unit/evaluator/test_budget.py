"""What an evaluation takes, said beforehand: against simulation, and the warning's words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstill.api.gates import Gates
from flowstill.api.studentrollout import Evaluation
from flowstill_evaluator.budget import DISCORDANCE, POWER, needs, warning
from flowstill_evaluator.looks import level_of
from flowstill_evaluator.statistics import LEVEL, difference_interval, pairs_to_pass, pass_probability
from flowstill_evaluator.statistics import PairCounts as Counts
from flowstill_evaluator.stopping import looks_of


def evaluation(tasks=10, **changes):
    spec = {"suite": "metaworld", "tasks": [f"t{index}" for index in range(tasks)], **changes}
    return Evaluation.model_validate(spec)


@pytest.mark.parametrize(("margin", "discordance", "pairs"), [(0.10, 0.05, 80), (0.03, 0.05, 400), (0.05, 0.3, 300)])
def test_probability_is_that_of_simulated_students(margin, discordance, pairs):
    half = discordance / 2
    drawn = np.random.default_rng(8).multinomial(pairs, [half, half, 1 - discordance], 1500)
    shown = [difference_interval(Counts(int(r), int(g), int(b), 0)).low > -margin for g, b, r in drawn]
    assert pass_probability(pairs, margin, discordance) == pytest.approx(np.mean(shown), abs=0.03)


@given(st.sampled_from([0.01, 0.03, 0.1]), st.floats(0.01, 0.4), st.floats(0.6, 0.99))
@settings(max_examples=20, deadline=None)
def test_so_many_pairs_are_enough_and_one_fewer_would_not_be(margin, discordance, power):
    pairs = pairs_to_pass(margin, discordance, power)
    assert pass_probability(pairs, margin, discordance) >= power
    assert pass_probability(pairs - 1, margin, discordance) < power or (1 - margin) ** (pairs - 1) > LEVEL


@pytest.mark.parametrize("tasks", [1, 2, 3, 10, 50])
def test_the_default_margins_are_decidable_within_the_default_budget(tasks):
    """An equal student, at the discordance that was measured."""
    spec = evaluation(tasks)
    looks = looks_of(spec)
    level = level_of(looks, looks[-1], LEVEL)
    assert all(need.episodes_per_task <= spec.most_episodes_per_task for need in needs(tasks, Gates(), level))
    assert warning(spec, Gates()) is None


@pytest.mark.parametrize("tasks", [5, 10, 11, 50, 100])
def test_no_cliff_is_decidable_where_the_arms_share_nothing_but_their_success(tasks):
    """9.5 % of pairs differ when both solve 95 % of the episodes, each by itself."""
    spec = evaluation(tasks)
    looks = looks_of(spec)
    found = needs(tasks, Gates(), level_of(looks, looks[-1], LEVEL), discordance=0.095)
    [cliff] = [need for need in found if need.gate == "S3"]
    assert cliff.episodes_per_task <= spec.most_episodes_per_task


def test_more_tasks_ask_more_of_each_for_s3_and_less_for_p1():
    few, many = ({need.gate: need.episodes_per_task for need in needs(tasks, Gates())} for tasks in (3, 50))
    assert many["S3"] > few["S3"]
    assert many["P1"] < few["P1"]
    assert many["S1"] < few["S1"]


def test_every_task_passes_together_as_often_as_it_says():
    [need] = [need for need in needs(10, Gates()) if need.gate == "S3"]
    together = pass_probability(need.episodes_per_task, need.limit, DISCORDANCE) ** 10
    assert POWER <= together <= POWER + 0.05


@pytest.mark.parametrize(
    ("tasks", "changes", "gates", "says"),
    [
        (10, {"episodesPerTask": 20, "maxEpisodesPerTask": 20}, {}, ["P1 (0.03)", "S3 (0.1)"]),
        (10, {}, {"S3": {"margin": 0.05}}, ["S3 (0.05) about"]),
        (1, {"maxEpisodesPerTask": 200}, {}, ["P1 (0.03) about", "200 episodes of each of 1 tasks"]),
        (1, {"episodesPerTask": 10, "maxEpisodesPerTask": 10}, {}, ["S1 (2) about 50", "P6 (2) about 50"]),
        (10, {}, {"P1": {"margin": 0.001}}, ["P1 (0.001)"]),
        (10, {}, {"profile": "literal"}, ["point estimates"]),
    ],
)
def test_the_warning_names_what_is_too_little(tasks, changes, gates, says):
    text = warning(evaluation(tasks, **changes), Gates.model_validate(gates))
    assert text is not None
    assert all(part in text for part in says)
    assert len(text) < 600
