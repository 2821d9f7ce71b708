"""The nine gates together, and how their numbers are said."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstill_evaluator.gates.base import by_bounds, decided, points, shortened
from flowstill_evaluator.gates.chain import TITLES, overall
from flowstill_evaluator.statistics import Bounds
from tests.unit.evaluator.gating import judged_all


def test_good_evidence_passes_all_nine(records):
    results = judged_all(records)
    assert {name: r.verdict for name, r in results.items()} == dict.fromkeys(TITLES, "Pass")
    assert overall(list(results.values())) == "Pass"
    assert all(
        r.measured is not None and r.threshold is not None and r.interval and r.samples for r in results.values()
    )
    assert all(r.message.endswith((".", ")")) and len(r.message) <= 512 for r in results.values())


def test_classes_follow_the_names(records):
    assert {r.gate_class for n, r in judged_all(records).items() if n[0] == "S"} == {"safety"}
    assert {r.gate_class for n, r in judged_all(records).items() if n[0] == "P"} == {"performance"}


@given(st.lists(st.sampled_from(["Pass", "Fail", "Inconclusive"]), min_size=9, max_size=9))
@settings(deadline=None)
def test_overall(verdicts):
    results = [
        decided(name, verdict, "", measured=0.0, threshold=0.0, samples=1)
        for name, verdict in zip(TITLES, verdicts, strict=True)
    ]
    want = "Fail" if "Fail" in verdicts else "Inconclusive" if "Inconclusive" in verdicts else "Pass"
    assert overall(results) == want


def test_a_gate_that_is_not_there_is_not_passed(records):
    results = list(judged_all(records).values())
    assert overall(results) == "Pass"
    assert overall(results[:8]) == "Inconclusive"
    assert overall([]) == "Inconclusive"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_none_never_passes(bad):
    assert decided("P2", "Pass", "", measured=bad, threshold=1.1, samples=5).verdict == "Inconclusive"
    bounds = Bounds(0.0, bad)
    assert decided("P2", "Pass", "", measured=1.0, threshold=1.1, samples=5, bounds=bounds).verdict == "Inconclusive"


def test_saying_numbers():
    assert points(-0.015) == "−1.5"
    assert points(0.12) == "+12.0"
    assert points(-0.0001) == "0.0"
    assert by_bounds(Bounds(0.1, 0.2), 0.2) == "Pass"
    assert by_bounds(Bounds(0.1, 0.3), 0.2) == "Inconclusive"
    assert by_bounds(Bounds(0.21, 0.3), 0.2) == "Fail"


@given(st.text(max_size=80), st.integers(0, 60))
def test_shortened_text_fits(text, limit):
    assert len(shortened(text, limit)) <= limit
    assert shortened(text, 80) == text
