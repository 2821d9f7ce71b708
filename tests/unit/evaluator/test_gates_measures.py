"""S2, P2, P3 and P4: joints, latency, memory and fidelity."""

import numpy as np
import pytest

from flowstill_evaluator.evidence import Gap
from flowstill_evaluator.gates.s2_velocity import joint_shifts
from tests.unit.evaluator import synthetic as syn
from tests.unit.evaluator.gating import BASELINE, SERVED, judged


@pytest.mark.parametrize(("scale", "verdict"), [(1.0, "Pass"), (1.15, "Pass"), (1.2, "Inconclusive"), (1.6, "Fail")])
def test_velocity_shift(records, scale, verdict):
    """Scaled normal velocities are 0.8 (scale − 1) spreads away."""
    arms = dict(np.load(records / "joint_velocity.npz"))
    arms[SERVED] = arms[BASELINE] * scale
    np.savez(records / "joint_velocity.npz", **arms)
    result = judged(records)["S2"]
    assert result.verdict == verdict
    assert result.measured == pytest.approx(0.8 * (scale - 1), abs=0.02)


def test_velocity_is_in_units_of_each_joints_spread(records):
    arms = dict(np.load(records / "joint_velocity.npz"))
    arms[SERVED] = arms[BASELINE] + 0.5 * arms[BASELINE].std(axis=0)
    np.savez(records / "joint_velocity.npz", **arms)
    velocity = syn.load(records).velocity
    assert not isinstance(velocity, Gap)
    assert [s.distance for s in joint_shifts(velocity)] == pytest.approx([0.5] * 7, rel=1e-3)


@pytest.mark.parametrize(("moved", "verdict"), [(0.0, "Pass"), (0.01, "Fail")])
def test_a_joint_that_the_baseline_holds_still(records, moved, verdict):
    arms = dict(np.load(records / "joint_velocity.npz"))
    arms[BASELINE][:, 3] = 0.0
    arms[SERVED][:, 3] = moved
    np.savez(records / "joint_velocity.npz", **arms)
    assert judged(records)["S2"].verdict == verdict


@pytest.mark.parametrize("rows", [0, 499])
def test_too_few_velocities(records, rows):
    arms = dict(np.load(records / "joint_velocity.npz"))
    arms[SERVED] = arms[SERVED][:rows]
    np.savez(records / "joint_velocity.npz", **arms)
    assert judged(records)["S2"].verdict == "Inconclusive"


@pytest.mark.parametrize(("factor", "verdict"), [(0.2, "Pass"), (1.0, "Pass"), (1.1, "Inconclusive"), (1.4, "Fail")])
def test_latency_ratio(records, factor, verdict):
    baseline = [float(x) for x in np.random.default_rng(4).lognormal(3.7, 0.1, 1500)]
    noisy = [factor * x for x in baseline]
    syn.write_json(
        records,
        "latency",
        {SERVED: {"calls": 1500, "milliseconds": noisy}, BASELINE: {"calls": 1500, "milliseconds": baseline}},
    )
    assert judged(records)["P2"].verdict == verdict


def test_too_few_timed_calls(records):
    assert judged(records, {"P2": {"minCalls": 1201}})["P2"].verdict == "Inconclusive"
    latency = syn.read_json(records, "latency")
    latency[SERVED]["calls"] = 1300
    syn.write_json(records, "latency", latency)
    assert "1300 calls" in judged(records)["P2"].message


@pytest.mark.parametrize(("factor", "verdict"), [(0.3, "Pass"), (1.05, "Pass"), (1.06, "Fail")])
def test_memory_ratio_of_medians(records, factor, verdict):
    sizes = [1e9, 1.01e9, 0.99e9, 5e9, 1e9]
    syn.write_json(records, "memory", {BASELINE: sizes, SERVED: [factor * x for x in sizes]})
    result = judged(records)["P3"]
    assert result.verdict == verdict
    assert result.measured == pytest.approx(factor)


def test_too_few_processes(records):
    assert judged(records, {"P3": {"processes": 6}})["P3"].verdict == "Inconclusive"


@pytest.mark.parametrize(
    ("cosine", "spread", "verdict"),
    [(0.95, 0.9, "Pass"), (0.95, 0.49, "Fail"), (0.85, 0.9, "Inconclusive"), (0.6, 0.9, "Fail")],
)
def test_fidelity(records, cosine, spread, verdict):
    values = [cosine + 0.04 * (-1) ** k for k in range(64)]
    record = syn.read_json(records, "fidelity") | {"cosine": values, "spread_ratio": spread}
    syn.write_json(records, "fidelity", record)
    assert judged(records)["P4"].verdict == verdict


def test_too_few_observations(records):
    assert judged(records, {"P4": {"observations": 65}})["P4"].verdict == "Inconclusive"
