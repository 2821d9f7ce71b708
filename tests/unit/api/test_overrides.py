"""Overrides: which of them count, and what is left in the way."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstill.api.overrides import attach, counts, described, in_the_way, measured, next_expiry
from flowstill.api.studentrollout import GateResult, Override

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GATES = ("S1", "S2", "S3", "P1", "P2", "P3", "P4", "P5", "P6")


def gate(name, verdict):
    return GateResult(name=name, gate_class="safety" if name[0] == "S" else "performance", verdict=verdict)


def override(name="P2", seconds=60, **changes):
    expires = (NOW + timedelta(seconds=seconds)).isoformat()
    return Override(**{"gate": name, "by": "ann", "reason": "a faster arm comes", "expires": expires, **changes})


@pytest.mark.parametrize(
    ("verdict", "seconds", "stands", "counted"),
    [
        ("Fail", 60, True, True),
        ("Inconclusive", 1, True, True),
        ("Fail", 0, False, False),
        ("Fail", -1, False, False),
        ("Pass", 60, True, False),
        ("Pass", -1, True, False),
    ],
)
def test_an_override_counts_before_it_expires_for_a_gate_that_did_not_pass(verdict, seconds, stands, counted):
    (found,) = attach([gate("P2", verdict)], [override(seconds=seconds)], NOW)
    assert (in_the_way([found]) == []) == stands
    assert counts(found) == counted
    assert found.override.lapsed == (seconds <= 0)
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        (("Pass", "Pass"), "Pass"),
        (("Pass", "Inconclusive"), "Inconclusive"),
        (("Inconclusive", "Fail"), "Fail"),
    ],
)
def test_what_was_measured_is_the_worst_whoever_overrides(verdicts, together):
    gates = [gate(name, verdict) for name, verdict in zip(("P2", "P3"), verdicts, strict=True)]
    assert measured(attach(gates, [override("P2"), override("P3")], NOW)) == together


def test_another_gates_override_changes_nothing():
    (found,) = attach([gate("P3", "Fail")], [override("P2")], NOW)
    assert found.override is None
    assert in_the_way([found]) == [found]


def test_an_override_that_was_taken_back_is_gone():
    before = attach([gate("P2", "Fail")], [override()], NOW)
    assert attach(before, [], NOW)[0].override is None


def test_the_first_expiry_of_those_that_count():
    gates = [gate("P1", "Pass"), gate("P2", "Fail"), gate("P3", "Inconclusive"), gate("P4", "Fail")]
    overrides = [override("P1", 5), override("P2", 60), override("P3", 30), override("P4", -5)]
    assert next_expiry(attach(gates, overrides, NOW)) == NOW + timedelta(seconds=30)
    assert next_expiry(attach(gates, overrides[:1], NOW)) is None


def test_zones_are_compared_as_moments():
    east = override(expires="2026-01-02T05:04:06+02:00")
    assert not attach([gate("P2", "Fail")], [east], NOW)[0].override.lapsed
    assert attach([gate("P2", "Fail")], [east], NOW + timedelta(seconds=1))[0].override.lapsed


def test_the_words():
    overridden, lapsed, passed = (
        described(attach([gate("P2", verdict)], [override(seconds=seconds)], NOW)[0])
        for verdict, seconds in (("Fail", 60), ("Fail", -1), ("Pass", 60))
    )
    assert overridden == "P2 Fail (overridden by ann until 2026-01-02T03:05:05+00:00: a faster arm comes)"
    assert lapsed == "P2 Fail (the override by ann expired 2026-01-02T03:04:04+00:00)"
    assert passed == "P2 Pass"


results = st.lists(
    st.builds(gate, st.sampled_from(GATES), st.sampled_from(["Pass", "Fail", "Inconclusive"])),
    unique_by=lambda result: result.name,
)
asked = st.lists(
    st.builds(override, st.sampled_from(["P1", "P2", "P3", "P4", "P5", "P6"]), st.integers(-100, 100)),
    unique_by=lambda one: one.gate,
)


@given(results, asked, st.integers(0, 200))
def test_verdicts_never_change_and_safety_is_never_overridden(gates, overrides, seconds):
    found = attach(gates, overrides, NOW + timedelta(seconds=seconds))
    assert [(g.name, g.verdict) for g in found] == [(g.name, g.verdict) for g in gates]
    for result in found:
        if result.name.startswith("S"):
            assert result.override is None
            assert (result in in_the_way(found)) == (result.verdict != "Pass")
    # Time takes overrides away and gives none.
    later = attach(gates, overrides, NOW + timedelta(seconds=seconds + 1))
    assert {g.name for g in in_the_way(found)} <= {g.name for g in in_the_way(later)}


def test_a_safety_override_that_got_past_everything_else_is_still_none():
    smuggled = override().model_copy(update={"gate": "S1"})
    (found,) = attach([gate("S1", "Fail")], [smuggled], NOW)
    assert found.override is None
