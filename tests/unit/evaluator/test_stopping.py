"""How many episodes an evaluation asks for after a look."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstill.api.gates import Gates
from flowstill_evaluator.evidence import Gap, TwoSamples
from flowstill_evaluator.stopping import wanted
from tests.unit.evaluator import synthetic as syn
from tests.unit.evaluator.gating import LOOKS, made_evidence


@pytest.mark.parametrize(
    ("tasks", "student", "present", "next_"),
    [
        (10, 50, 50, 100),  # without any loss fifty episodes a task are still too few for an early look
        (10, 100, 100, 100),  # decided: a thousand pairs, and a hundred of each task
        (1, 99, 100, 150),  # a hundred pairs do not exclude three points
        (1, 199, 200, 200),  # at the most
        (10, 20, 50, 50),  # failed for good
        (10, 97, 100, 150),  # just the margin of the aggregate: neither shown nor excluded
    ],
)
def test_wanted(tasks, student, present, next_):
    assert wanted(made_evidence(student, present, present=present, tasks=tasks), Gates()) == next_


def test_one_look_wants_no_more():
    assert wanted(made_evidence(50, 50, present=50, looks=()), Gates()) == 50
    assert wanted(made_evidence(50, 50, present=50, looks=(50,)), Gates()) == 50


def test_a_failure_of_any_gate_ends_it():
    slow = TwoSamples(np.full(1000, 3.0), np.full(1000, 1.0))
    assert wanted(made_evidence(50, 50, present=50, latency=slow), Gates()) == 50


def test_a_gate_that_somebody_answers_for_neither_ends_nor_prolongs_it():
    slow = TwoSamples(np.full(1000, 3.0), np.full(1000, 1.0))
    assert wanted(made_evidence(50, 50, present=50, latency=slow), Gates(), {"P2"}) == 100
    few = made_evidence(100, 100, present=100)  # P1 alone is open
    assert wanted(few, Gates()) == 150
    assert wanted(few, Gates(), {"P1"}) == 100


def test_what_episodes_cannot_decide_does_not_prolong():
    few = TwoSamples(np.ones(10), np.ones(10))
    assert wanted(made_evidence(100, 100, present=100, tasks=10, latency=few), Gates()) == 100


def test_a_gap_in_the_pairs_is_not_filled_by_more():
    broken = replace(made_evidence(50, 50, present=50), pairs=Gap("too many errors"))
    assert wanted(broken, Gates()) == 50


def test_a_shift_of_the_joints_that_is_open_prolongs():
    velocity = syn.velocities(0, rows=600)
    shifted = TwoSamples(velocity * 1.22, velocity, ())
    shifted = replace(shifted, labels=tuple(f"joint {j}" for j in range(velocity.shape[1])))
    assert wanted(made_evidence(100, 100, present=100, tasks=10, velocity=shifted), Gates()) == 150


@given(
    st.integers(0, 3).map(lambda index: LOOKS[index]),
    st.integers(1, 3),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 0.2),
)
@settings(max_examples=40, deadline=None)
def test_it_is_always_the_present_or_the_next_look(present, tasks, student, baseline, clamped):
    found = wanted(
        made_evidence(
            round(student * present),
            round(baseline * present),
            present=present,
            tasks=tasks,
            clamped=round(clamped * present),
        ),
        Gates(),
    )
    later = [look for look in LOOKS if look > present]
    assert found in {present, *later[:1]}


@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_it_ends(student, baseline):
    present, seen = LOOKS[0], 0
    while True:
        seen += 1
        following = wanted(made_evidence(round(student * present), round(baseline * present), present=present), Gates())
        if following == present:
            break
        present = following
    assert seen <= len(LOOKS)
