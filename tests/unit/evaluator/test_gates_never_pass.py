"""Whatever is missing, empty, short or not a number: the gate that needs it does not pass, in either profile."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstill.api.gates import Gates
from flowstill_evaluator.evidence import FidelityRecord, Gap, TwoSamples
from flowstill_evaluator.gates.chain import TITLES, overall, run_gates
from tests.unit.evaluator import synthetic as syn
from tests.unit.evaluator.gating import Judged, made_evidence

PAIR_GATES = {"S1", "S3", "P1", "P5", "P6"}
OF = {"velocity": {"S2"}, "latency": {"P2"}, "memory": {"P3"}, "fidelity": {"P4"}, "pairs": PAIR_GATES}
VELOCITY = syn.velocities(0, rows=600)
GOOD = replace(
    made_evidence(150, 150, present=150, looks=(), tasks=2),
    velocity=TwoSamples(VELOCITY, VELOCITY, tuple(f"joint {j}" for j in range(syn.JOINTS))),
    latency=TwoSamples(np.full(1000, 1.0), np.full(1000, 2.0)),
    memory=TwoSamples(np.full(5, 1.0), np.full(5, 2.0)),
    fidelity=FidelityRecord(cosine=[0.95, 0.97] * 32, spread_ratio=0.9, observations=64),
)
PROFILES = {name: Gates.model_validate({"profile": name}) for name in ("default", "literal")}
profiles = st.sampled_from(sorted(PROFILES)).map(PROFILES.__getitem__)
bad = st.sampled_from([float("nan"), float("inf"), float("-inf")])


def passed(evidence, gates, names=frozenset(TITLES)):
    """Which of these gates pass; of the default profile only they are run."""
    if gates.profile == "default":
        judged = Judged(evidence, gates)
        return {name for name in names if judged[name].verdict == "Pass"}
    return {r.name for r in run_gates(evidence, gates) if r.verdict == "Pass" and r.name in names}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_the_evidence_that_is_damaged_below_is_good(profile):
    assert passed(GOOD, profile) == set(TITLES)


@given(profiles, st.sets(st.sampled_from(sorted(OF)), min_size=1))
@settings(max_examples=40, deadline=None)
def test_gaps(profile, missing):
    results = run_gates(replace(GOOD, **dict.fromkeys(missing, Gap("it is not there"))), profile)
    open_ = {result.name for result in results if result.verdict == "Inconclusive"}
    assert open_ == set().union(*(OF[part] for part in missing))
    assert all("it is not there" in r.message and r.measured is None for r in results if r.name in open_)
    assert overall(results) == "Inconclusive"


def damaged(samples, arm, change):
    return replace(samples, **{arm: change(getattr(samples, arm).astype(np.float64))})


@given(
    profiles,
    st.sampled_from(["velocity", "latency", "memory"]),
    st.sampled_from(["student", "baseline"]),
    bad,
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_one_number_that_is_none(profile, part, arm, number, data):
    def put(values):
        place = data.draw(st.integers(0, values.size - 1))
        values = values.copy()
        values.flat[place] = number
        return values

    evidence = replace(GOOD, **{part: damaged(getattr(GOOD, part), arm, put)})
    assert not passed(evidence, profile, OF[part])


LEAST = {"velocity": 500, "latency": 1000, "memory": 5}


@given(profiles, st.sampled_from(sorted(LEAST)), st.sampled_from(["student", "baseline"]), st.floats(0, 0.999))
@settings(max_examples=40, deadline=None)
def test_short_and_empty_samples(profile, part, arm, share):
    count = int(share * LEAST[part])
    evidence = replace(GOOD, **{part: damaged(getattr(GOOD, part), arm, lambda values: values[:count])})
    assert not passed(evidence, profile, OF[part])


@given(profiles, st.integers(0, 63), bad)
@settings(max_examples=20, deadline=None)
def test_fidelity(profile, place, number):
    def passes(**changes):
        return passed(replace(GOOD, fidelity=GOOD.fidelity.model_copy(update=changes)), profile, {"P4"})

    cosine = list(GOOD.fidelity.cosine)
    assert not passes(cosine=cosine[:place])
    cosine[place] = number
    assert not passes(cosine=cosine)
    assert not passes(spread_ratio=number)


def kept(chosen_N):
    pairs = GOOD.pairs
    arrays = ("task_index", "student_success", "baseline_success", "student_clamped", "baseline_clamped")
    return replace(GOOD, pairs=replace(pairs, **{name: getattr(pairs, name)[chosen_N] for name in arrays}))


@given(profiles, st.sampled_from([0, 1]))
@settings(deadline=None)
def test_a_task_without_episodes(profile, task):
    assert not passed(kept(GOOD.pairs.task_index == task), profile, PAIR_GATES)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_no_episodes(profile):
    assert not passed(kept(np.zeros(300, dtype=np.bool_)), profile, PAIR_GATES)


@given(st.integers(1, 24))
@settings(max_examples=24, deadline=None)
def test_few_episodes_pass_no_gate_that_shows_something(count):
    """Of two tasks, all solved and none clamped: what so few can show is less than any margin."""
    number_N = np.tile(np.arange(150), 2)
    assert not passed(kept(number_N < count), PROFILES["default"], {"S1", "S3", "P1", "P6"})
